"""A model's thinking apart from its answer, however the server delivers it."""

from collections.abc import Mapping, Sequence
from typing import Any

from synthmill.schemas.calls import Completion, Request, unwrap_choice
from synthmill.schemas.endings import CUT_WHILE_THINKING, ending_of
from synthmill.schemas.thinking_settings import ThinkingSettings

Marks = Sequence[tuple[str, str]]
CODE = "`"


def answers_alone(
    requests: Sequence[Request], completions: Sequence[Completion], settings: Mapping[str, ThinkingSettings]
) -> list[Completion]:
    """Completions as recipes see them. settings: by role."""
    pairs = zip(requests, completions, strict=True)
    return [answer_alone(request, completion, settings[request.role]) for request, completion in pairs]


def answer_alone(request: Request, completion: Completion, settings: ThinkingSettings) -> Completion:
    """A completion with its answer as `text`, and its thinking as `reasoning`; with mode drop without that.

    An answer that ended inside its thinking has no text, and the finish reason cut_while_thinking. Log probabilities
    are those of the answer; where they cannot be told from the thinking's, there are none.
    """
    text = completion.text
    is_marked = any(closing in text for _, closing in settings.marks) or opened_block(text, settings.marks)
    if not completion.reasoning and not is_marked:
        return completion
    thoughts, answer, closed = split_thinking(text, settings.marks)
    reasoning = joined((completion.reasoning.strip(), thoughts))
    if not reasoning and closed:
        return completion
    text = unwrap_choice(request, answer) if thoughts else answer
    cut = not answer.strip() and (not closed or ending_of(completion.finish_reason) == "length")
    return completion._replace(
        text="" if cut else text,
        reasoning="" if settings.mode == "drop" else reasoning,
        finish_reason=CUT_WHILE_THINKING if cut else completion.finish_reason,
        logprobs=answer_logprobs(completion.logprobs, answer) if completion.logprobs else completion.logprobs,
    )


def split_thinking(text: str, marks: Marks) -> tuple[str, str, bool]:
    """(thinking, answer, whether the thinking ended) of a text.

    Thinking stands at the beginning, once or several times, or before a lone closing mark, where the chat template has
    written the opening one. Marks in code are the answer's own. An opening mark that is never closed: all is thinking.
    """
    thoughts: list[str] = []
    rest = text
    while block := opened_block(rest, marks):
        opening, closing = block
        inner, end, after = rest.lstrip().removeprefix(opening).partition(closing)
        thoughts.append(inner.strip())
        if not end:
            return joined(thoughts), "", False
        rest = after.lstrip()
    if not thoughts:
        for _, closing in marks:
            before, end, after = rest.partition(closing)
            if end and not is_in_code(before, after):
                return before.strip(), after.lstrip(), True
        return "", text, True
    return joined(thoughts), rest, True


def opened_block(text: str, marks: Marks) -> tuple[str, str] | None:
    """The marks of the thinking that a text begins with."""
    beginning = text.lstrip() if text[:1].isspace() else text
    return next((pair for pair in marks if beginning.startswith(pair[0])), None)


def is_in_code(before: str, after: str) -> bool:
    """Whether a place is between backticks, or in a block of code."""
    return before.count(CODE) % 2 == 1 and CODE in after


def joined(thoughts: Sequence[str]) -> str:
    return "\n\n".join(filter(None, thoughts))


def answer_logprobs(logprobs: list[Any], answer: str) -> list[Any] | None:
    """The log probabilities of the answer's tokens; None where the tokens do not end with the answer."""
    tokens = "".join(token for token, *_ in logprobs)
    if not answer or not tokens.rstrip().endswith(answer.rstrip()):
        return None
    start = len(tokens.rstrip()) - len(answer.rstrip())
    position = 0
    for place, (token, *_) in enumerate(logprobs):
        if position >= start:
            return logprobs[place:]
        position += len(token)
    return None


def why_empty(completion: Completion) -> str:
    """Why there is no answer, as a drop says it: its reason, colon, detail."""
    ending = ending_of(completion.finish_reason)
    if completion.finish_reason == CUT_WHILE_THINKING:
        return "cut_while_thinking: max_tokens ended in the thinking; raise it, or set the engine's thinking.tokens"
    if completion.refusal:
        return f"refused_in_words: {' '.join(completion.refusal.split())[:300]}"
    if completion.tool_calls:
        return "tool_call: it called a tool, and was given none"
    if ending == "content_filter":
        return f"filtered: the answer was broken off ({completion.finish_reason})"
    if ending == "length":
        return "empty_answer: max_tokens ended before the answer began; raise it"
    return "empty_answer"
