"""Reward models: sequence classifiers that read a whole conversation, through transformers or vLLM's pooling.

One output is the score. With several, the model's own `score` is used if it has one (ArmoRM), else the weighted sum of
the outputs by label (HelpSteer's attributes).
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from synthmill.schemas.errors import InputError, MissingExtra
from synthmill.schemas.hashing import content_hash, file_fingerprint
from synthmill.schemas.local_paths import LocalPath
from synthmill.tasks.scorers.scoring import FrameScorer, Pool, ScorerSettings, ScoringContext
from synthmill.tasks.texts.tokens import token_batches

HANDLE = "llvmlite.binding.ffi"
Tokens = list[int]
Classify = Callable[[list[Tokens]], list[list[float]]]


class RewardModelScores(FrameScorer):
    """Pools -> the same with a reward model's score of every answer, read as [system, user, assistant] through its chat
    template.
    """

    name: ClassVar = "reward_model_scores"
    version: ClassVar = "1"
    embeds: ClassVar = True

    label: str = "reward_model"
    model: str = Field(exclude=True)
    identity_of_model: str = Field(description="a folder's name and fingerprint, or the Hub id and revision")
    revision: str | None = Field(None, exclude=True)
    backend: Literal["transformers", "vllm"] = "transformers"
    trust_remote_code: bool = False
    max_length: int = 4096
    weights: dict[str, float] | None = None

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        settings = (self.model, self.revision, self.trust_remote_code)
        tokenizer, labels, classify, longest = open_model(*settings, self.backend, self.max_length)
        weigh = weights_of(labels, self.weights, self.label)
        tokens = [tokens_of(tokenizer, pool, answer["text"])[-longest:] for pool in pools for answer in pool["answers"]]
        outputs = iter(classify(tokens))
        for pool in pools:
            yield [sum(w * x for w, x in zip(weigh, next(outputs), strict=True)) for _ in pool["answers"]]


class RewardModelSettings(ScorerSettings):
    """A reward model: a sequence classifier."""

    short_forms: ClassVar = ("rm:MODEL",)

    kind: Literal["reward-model"] = "reward-model"
    model: LocalPath = Field(description="a Hub id or a folder, a sequence classifier")
    revision: str | None = Field(None, description="the Hub revision")
    backend: Literal["transformers", "vllm"] = Field("transformers", description="what runs it")
    trust_remote_code: bool = Field(False, description="run the model's own code, as ArmoRM needs")
    max_length: int = Field(4096, ge=8, description="tokens; of longer ones the beginning is left out")
    weights: dict[str, float] | None = Field(None, description="with several outputs: label -> weight")

    @classmethod
    def from_spec(cls, spec: str) -> dict[str, Any] | None:
        kind, _, model = spec.partition(":")
        return {"model": model} if kind in ("rm", "reward-model") and model else None

    def stage(self, context: ScoringContext) -> RewardModelScores:
        """Raises InputError when there is no such folder, MissingExtra without vLLM."""
        if self.backend == "vllm" and importlib.util.find_spec("vllm") is None:
            raise MissingExtra(
                "vLLM is not installed; `pip install synthmill[gpu]`, or [cpu], or backend: transformers"
            )
        identity_of_model = identity(self.model, self.revision)
        return RewardModelScores(
            label=self.label, identity_of_model=identity_of_model, **self.model_dump(exclude={"kind", "name"})
        )


def identity(model: str, revision: str | None) -> str:
    """What identifies the weights. Raises InputError for what is neither a folder of weights nor a Hub id."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.count("/") != 1 or model.startswith((".", "/", "~")):
            raise InputError(
                f"there is no reward model {model!r}; expected a folder with config.json, or a Hub id OWNER/NAME"
            )
        return f"{model}@{revision or 'main'}"
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not weights or not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no model; expected config.json, safetensors and a tokenizer")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".md" and path.name[0] != ".")
    return f"{folder.resolve().name}@{content_hash([[path.name, file_fingerprint(path)] for path in files])[:12]}"


def tokens_of(tokenizer: Any, pool: Pool, answer: str) -> Tokens:
    """A conversation of a prompt and one answer, as the model was trained to read it."""
    messages = [{"role": "system", "content": pool["system"]}] if pool["system"] else []
    messages += [{"role": "user", "content": pool["prompt"]}, {"role": "assistant", "content": answer}]
    tokens: Tokens = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    return tokens


def weights_of(labels: Sequence[str], weights: Mapping[str, float] | None, name: str) -> list[float]:
    """A weight per output. Raises InputError where the weights do not fit the outputs."""
    if len(labels) == 1 and not weights:
        return [1.0]
    if not weights:
        raise InputError(
            f"the reward model of {name} has {len(labels)} outputs ({', '.join(labels)}); expected weights"
        )
    if unknown := sorted(weights.keys() - set(labels)):
        raise InputError(f"the reward model of {name} has no output {', '.join(unknown)}; it has {', '.join(labels)}")
    return [weights.get(label, 0.0) for label in labels]


@lru_cache(maxsize=2)
def open_model(
    model: str, revision: str | None, trust: bool, backend: str, max_length: int
) -> tuple[Any, list[str], Classify, int]:
    """(tokenizer, labels of the outputs, tokens -> outputs, the most tokens), once per process. Raises InputError."""
    from transformers import AutoConfig, AutoTokenizer

    path = str(Path(model).expanduser()) if Path(model).expanduser().is_dir() else model
    options = {
        "revision": revision,
        "trust_remote_code": trust,
        "local_files_only": path != model or Path(path).is_dir(),
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        config = AutoConfig.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load the reward model {model}: {' '.join(str(error).split())[:300]}") from error
    if not tokenizer.chat_template:
        raise InputError(f"the reward model {model} has no chat template; expected one that reads conversations")
    longest = min(max_length, getattr(config, "max_position_embeddings", max_length))
    if backend == "vllm":
        return tokenizer, labels_of(config), load_vllm(path, revision, trust, longest), longest
    labels, classify = load_transformers(path, options, config, tokenizer)
    return tokenizer, labels, classify, longest


def labels_of(config: Any) -> list[str]:
    return [str(config.id2label[n]) for n in sorted(config.id2label)][: config.num_labels]


def load_transformers(path: str, options: Mapping[str, Any], config: Any, tokenizer: Any) -> tuple[list[str], Classify]:
    """(labels, tokens -> outputs); in bfloat16 on a GPU where there is one. Batches hold texts of similar length."""
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    on_gpu = torch.cuda.is_available()
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=torch.bfloat16 if on_gpu else torch.float32, **options
        )
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load the reward model {path}: {' '.join(str(error).split())[:300]}") from error
    model = model.eval().to("cuda" if on_gpu else "cpu")
    pad = config.pad_token_id  # the model reads the last token that is no padding; without one, texts go one by one
    alike = pad is None or pad == tokenizer.eos_token_id
    own = []

    def classify(tokens: list[Tokens]) -> list[list[float]]:
        outputs: list[list[float]] = [[] for _ in tokens]
        for batch in token_batches([len(text) for text in tokens], model.device.type, alike=alike):
            longest = max(len(tokens[n]) for n in batch)
            ids = torch.full((len(batch), longest), pad or 0)
            mask = torch.zeros((len(batch), longest), dtype=torch.long)
            for row, n in enumerate(batch):
                ids[row, : len(tokens[n])] = torch.tensor(tokens[n])
                mask[row, : len(tokens[n])] = 1
            with torch.inference_mode():
                output = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
            score = getattr(output, "score", None)
            values = score.reshape(len(batch), -1) if score is not None else output.logits
            for row, n in enumerate(batch):
                outputs[n] = values[row].float().tolist()
        return outputs

    if len(labels_of(config)) > 1 or options["trust_remote_code"]:
        own = classify([tokenizer.encode("a")])[0]
    return ["score"] if len(own) == 1 else labels_of(config), classify


@contextmanager
def llvmlite_hidden() -> Iterator[None]:
    """Hide numba's handle of LLVM from sys.modules while a model starts.

    vLLM 0.32's CPU build reads `__dict__` of every object in every loaded module and expects a dict
    (triton_utils/dispatcher.py). llvmlite 0.47's handle returns a function for any name.
    """
    handle = sys.modules.pop(HANDLE, None)
    try:
        yield
    finally:
        if handle is not None:
            sys.modules[HANDLE] = handle


def load_vllm(path: str, revision: str | None, trust: bool, longest: int) -> Classify:
    """vLLM's pooling runner, in this process; raw outputs, without its sigmoid."""
    for name, value in {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }.items():
        os.environ.setdefault(name, value)
    import torch
    from vllm import LLM, PoolingParams

    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    try:
        with llvmlite_hidden():
            model = LLM(
                path,
                revision=revision,
                trust_remote_code=trust,
                runner="pooling",
                convert="classify",
                enforce_eager=on_cpu,
                max_model_len=longest,
                use_tqdm_on_load=False,
                **({"dtype": "bfloat16"} if on_cpu else {}),
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"vLLM cannot load the reward model {path}: {' '.join(str(error).split())[:300]}") from error

    def classify(tokens: list[Tokens]) -> list[list[float]]:
        prompts: Any = [{"prompt_token_ids": token_ids} for token_ids in tokens]
        raw = PoolingParams(use_activation=False)
        replies = model.encode(prompts, pooling_params=raw, pooling_task="classify", use_tqdm=False)
        return [reply.outputs.data.float().reshape(-1).tolist() for reply in replies]

    return classify
