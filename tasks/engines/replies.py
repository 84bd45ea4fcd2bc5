"""Reading a chat completion: texts, thinking, refusals, tool calls, tokens and log probabilities of every choice."""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.calls import Completion, Request, unwrap_choice
from synthmill.schemas.errors import Drop
from synthmill.schemas.messages import text_in
from synthmill.schemas.texts import loads
from synthmill.schemas.usage import Tokens, reported_tokens
from synthmill.tasks.engines.dialect import Written
from synthmill.tasks.engines.event_streams import completion_of_stream, is_stream
from synthmill.tasks.engines.refusals import ErrorAnswer, FewerAnswers
from synthmill.tasks.engines.structures import PLAIN, TOOL, without_nulls
from synthmill.tasks.engines.token_estimates import with_estimates, written_texts

PLAIN_MESSAGE = {"role", "content", "refusal", "tool_calls"}
"""The names of a message that says nothing of thinking."""


def answer_in(data: bytes) -> Any:
    """A reply's JSON; events of a stream are put together. Raises what MALFORMED names."""
    return completion_of_stream(data) if is_stream(data) else loads(data)


def completions_in(request: Request, written: Written, data: bytes, count: int, latency_s: float) -> list[Completion]:
    """The completions of a reply to a chat request. Raises ErrorAnswer where the server reports an error or no choices,
    FewerAnswers, or what MALFORMED names where the reply is malformed.
    """
    answer = answer_in(data)
    choices = choices_in(answer)
    if len(choices) != count:
        problem = f"gave {len(choices)} of {count} answers asked for in one call"
        raise FewerAnswers(problem) if count > 1 else ValueError(problem)
    return completions_of(request, written, answer, latency_s)


def choices_in(answer: Any) -> list[Any]:
    """The choices of a reply. Raises ErrorAnswer where the server reports an error, or none."""
    choices = answer.get("choices")
    if choices:
        return list(choices)
    if error := answer.get("error"):
        code = error.get("code") if isinstance(error, dict) else None
        raise ErrorAnswer("engine_error", code if isinstance(code, int) and 400 <= code < 600 else 200)
    raise ErrorAnswer("no_choices", 200)


def completions_of(request: Request, written: Written, answer: Any, latency_s: float) -> list[Completion]:
    """The completions of a reply, in the order of its choices. Raises ValueError, KeyError, TypeError, AttributeError
    or IndexError where it is malformed.
    """
    choices = answer["choices"]
    usage = answer.get("usage") or {}
    tokens = reported_tokens(usage) or Tokens()
    completions = []
    for index, choice in enumerate(choices):
        text, tool_calls = answer_of(request, written, choice["message"])
        completions.append(
            Completion(
                text=text,
                reasoning=reasoning_of(choice["message"]),
                refusal=str(choice["message"].get("refusal") or ""),
                tool_calls=tool_calls,
                usage=usage if index == 0 else None,
                finish_reason=finish if isinstance(finish := choice.get("finish_reason"), str) else "stop",
                prompt_tokens=tokens.prompt_tokens if index == 0 else 0,
                completion_tokens=share(tokens.completion_tokens, len(choices), index),
                latency_s=round(latency_s, 4),
                logprobs=token_logprobs(choice) if request.sampling.logprobs else None,
            )
        )
    return counted(request, tokens, completions)


def counted(request: Request, tokens: Tokens, completions: list[Completion]) -> list[Completion]:
    """Answers whose tokens the server has reported, or else with estimates. tokens: of the report, of all of them."""
    is_reported = tokens.prompt_tokens and (tokens.completion_tokens or not any(written_texts(completions[0])))
    return completions if is_reported else with_estimates(request.messages, completions)


def answer_of(request: Request, written: Written, message: Mapping[str, Any]) -> tuple[str, list[Any] | None]:
    """(text, tool calls) of a message. The arguments of the function that was forced are the text."""
    tool_calls = message.get("tool_calls") or None
    text = text_of(message.get("content"))
    if written.structure == "tool" and tool_calls:
        function = tool_calls[0]["function"]
        if function.get("name", TOOL) == TOOL:
            text, tool_calls = str(function["arguments"]), None
    if written.schema and written.form != PLAIN:
        text = without_nulls(text, written.schema)
    return unwrap_choice(request, text), tool_calls


def text_of(content: Any) -> str:
    """A message's text; some servers send it as a list of parts, or null. Raises ValueError for anything else."""
    try:
        return text_in(content) or ""
    except Drop as drop:
        raise ValueError(drop.message) from drop


def reasoning_of(message: Mapping[str, Any]) -> str:
    """What a message says of the thinking before it: in `reasoning_content` (DeepSeek, SGLang, earlier vLLM), in
    `reasoning` (vLLM, OpenRouter), or as the texts of `reasoning_details`.
    """
    if message.keys() <= PLAIN_MESSAGE:
        return ""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(text := message.get(name), str) and text.strip():
            return text
    details = message.get("reasoning_details")
    parts = details if isinstance(details, list) else []
    texts = [part.get("text") or part.get("summary") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def token_logprobs(choice: dict[str, Any]) -> list[Any]:
    """[token, logprob, {alternative: logprob}] per token; a logprob that is null or missing is left out, or None."""

    def logprobs_by_token(alternatives: Any) -> dict[str, float]:
        return {token["token"]: token["logprob"] for token in alternatives or () if token.get("logprob") is not None}

    tokens = (choice.get("logprobs") or {}).get("content") or []
    return [[token["token"], token.get("logprob"), logprobs_by_token(token.get("top_logprobs"))] for token in tokens]


def share(total: int, parts: int, index: int) -> int:
    """One choice's even share of a sum that a server reports for all choices; the shares add up to it."""
    return total // parts + (index < total % parts)
