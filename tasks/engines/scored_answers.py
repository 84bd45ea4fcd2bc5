"""The log probabilities of a given answer: a prompt that ends with it, whose own tokens the engine scores.

The answer is the last message of the chat, left open (vLLM's `continue_final_message`), so that the chat template
decides what comes before it. Its tokens begin where those of the same chat with another answer differ: that is exact
for every template and tokenizer, and a token across the border counts as the answer's. What ends a turn is not scored.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from synthmill.schemas.calls import Completion, Request, ask_hash
from synthmill.schemas.errors import Drop, EngineRefused
from synthmill.tasks.engines.engine import Engine

FIELD = "prompt_logprobs"
FIELDS = {FIELD: 0, "add_generation_prompt": False, "continue_final_message": True}
"""What asks vLLM's server for them: no alternatives, only the prompt's own tokens."""
OTHERS = ("A", "B")
FLOOR = -9999.0  # what vLLM's server writes for minus infinity
ROUNDING = 1e-3  # how far above 0 a log probability may be
MOST_BORDERS = 256


class PromptToken(NamedTuple):
    """A token of a prompt; logprob: None where the engine gives none, as for the first."""

    id: str
    text: str
    logprob: float | None


Ask = Callable[[Request], Awaitable[Completion]]


def check_scores(engine: Engine, request: Request) -> None:
    """Raises EngineRefused where an answer is to be scored by an engine that cannot. Those that can say so in
    `scores_answers`.
    """
    if request.scored and not getattr(engine, "scores_answers", False):
        raise refused(f"{engine.name} gives no log probabilities of given answers", request)


def refused(fault: str, request: Request) -> EngineRefused:
    return EngineRefused(
        f"{fault}, and {request.role} is asked for them; set engines.{request.role} to vllm:MODEL, or to "
        "openai:MODEL@URL where vLLM serves it, without `batch`"
    )


def scored_messages(messages: Sequence[Mapping[str, Any]], answer: str) -> list[dict[str, Any]]:
    """A chat that ends with an answer."""
    return [*map(dict, messages), {"role": "assistant", "content": answer}]


def other_answer(answer: str) -> str:
    """An answer that begins otherwise."""
    return OTHERS[answer.lstrip().startswith(OTHERS[0])]


def border(whole: Sequence[object], other: Sequence[object]) -> int:
    """How many tokens come before the answer: those that the prompts of two answers share."""
    unlike = (n for n, (token, another) in enumerate(zip(whole, other, strict=False)) if token != another)
    return next(unlike, min(len(whole), len(other)))


def prompt_tokens_in(entries: Sequence[Any]) -> list[PromptToken]:
    """The tokens of a prompt, of vLLM's `prompt_logprobs`: per token {its id: {logprob, decoded_token}}, or null.
    Raises TypeError or AttributeError for another form.
    """
    tokens = []
    for entry in entries:
        token, fields = next(iter((entry or {}).items()), ("", {}))
        fields = fields if isinstance(fields, Mapping) else vars(fields)
        tokens.append(PromptToken(str(token), str(fields.get("decoded_token") or ""), fields.get("logprob")))
    return tokens


def logprobs_from(tokens: Sequence[PromptToken], start: int) -> list[Any]:
    """A completion's logprobs: those of the tokens from a border on."""
    return [[token.text, token.logprob, {}] for token in tokens[start:]]


def log_probability(completion: Completion, per_token: bool = False) -> float:
    """The log probability of a scored answer: the sum, or the mean, over its tokens. Raises Drop where the engine gave
    none for it, or for one of its tokens none that a probability can have.
    """
    if completion.error:
        raise Drop(completion.error)
    if not completion.logprobs:
        raise Drop("no_logprobs: the engine gave none for the answer")
    numbers: list[Any] = [logprob for _, logprob, _ in completion.logprobs]
    for n, number in enumerate(numbers, 1):
        if number is None:
            raise Drop(f"null_logprob: token {n} of {len(numbers)} has none")
        if not isinstance(number, int | float) or not FLOOR < number <= ROUNDING:
            raise Drop(f"bad_logprob: token {n} of {len(numbers)} has {number!r:.40}; expected a finite number up to 0")
    total = math.fsum(numbers)
    return total / len(numbers) if per_token else total


class AnswerScoring:
    """Answers scored by a server, whose tokens it alone knows. Answers to one prompt share the request that tells where
    they begin.
    """

    def __init__(self) -> None:
        self._borders: OrderedDict[bytes, asyncio.Task[Completion]] = OrderedDict()

    async def score(self, request: Request, ask: Ask) -> Completion:
        """The completion of a request whose answer is scored. ask: sends one and returns its completion, whose logprobs
        are the prompt's tokens, as `prompt_tokens_in` makes them.
        """
        other = request.model_copy(update={"scored": other_answer(request.scored), "sample": 0})
        key = ask_hash(other.question_json())
        is_first = key not in self._borders
        if is_first:
            self._borders[key] = asyncio.ensure_future(ask(other))
            if len(self._borders) > MOST_BORDERS:
                self._borders.popitem(last=False)
        task = self._borders[key]
        try:
            whole, beside = await asyncio.gather(ask(request), asyncio.shield(task))
        except BaseException:
            self._borders.pop(key, None)
            raise
        if beside.error:
            self._borders.pop(key, None)
        if is_first:  # its tokens are on this answer's bill
            whole = whole._replace(
                prompt_tokens=whole.prompt_tokens + beside.prompt_tokens,
                completion_tokens=whole.completion_tokens + beside.completion_tokens,
                usage=None,
            )
        if whole.error or beside.error:
            return whole if whole.error else beside
        tokens = whole.logprobs or []
        start = border([token.id for token in tokens], [token.id for token in beside.logprobs or ()])
        return whole._replace(logprobs=logprobs_from(tokens, start))
