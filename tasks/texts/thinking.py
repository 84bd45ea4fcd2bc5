"""A model's thinking apart from its answer, however the server delivers it."""

from collections.abc import Mapping, Sequence
from typing import Any

from synthmill.schemas.calls import Completion, Request, unwrap_choice
from synthmill.schemas.endings import CUT_WHILE_THINKING, ending_of
from synthmill.schemas.errors import Drop
from synthmill.schemas.thinking_settings import MARKS, Marks, ThinkingSettings
from synthmill.tasks.texts.breaches import BREACH

CODE = "`"
THINKING_SUFFIX = "_reasoning"
PLAINLY_EMPTY = "empty_answer"
LONGEST_REFUSAL = 300  # characters


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
    if not completion.reasoning and not may_think(text, settings):
        return completion
    thoughts, answer, closed = split_thinking(text, settings.marks)
    reasoning = completion.reasoning.strip()
    if thoughts != reasoning:  # some servers say it twice
        reasoning = joined((reasoning, thoughts))
    if answer is text and closed and not completion.reasoning:
        return completion
    alone = text if answer is text else unwrap_choice(request, answer)
    cut = not answer.strip() and (not closed or has_only_thought(completion))
    return completion._replace(
        text="" if cut else alone,
        reasoning="" if settings.mode == "drop" else reasoning,
        finish_reason=CUT_WHILE_THINKING if cut else completion.finish_reason,
        logprobs=answer_logprobs(completion.logprobs, answer) if completion.logprobs else completion.logprobs,
    )


def has_only_thought(completion: Completion) -> bool:
    """Whether a completion without an answer ended at its limit, or is nothing but a field of thinking."""
    ending = ending_of(completion.finish_reason)
    alone = completion.reasoning and not (completion.text or completion.refusal or completion.tool_calls)
    return ending == "length" or bool(ending == "stop" and alone)


def may_think(text: str, settings: ThinkingSettings) -> bool:
    """Whether there is a mark to look at: one that closes anywhere, or one that opens at the beginning."""
    for sign in settings.first_signs:
        if sign in text and any(closing in text for _, closing in settings.marks):
            return True
    if text[:1].isspace():
        text = text.lstrip()
    return text.startswith(settings.openings)


def split_thinking(text: str, marks: Marks) -> tuple[str, str, bool]:
    """(thinking, answer, whether the thinking ended) of a text; a text without thinking comes back as it is.

    Thinking stands at the beginning, once or several times, or before a lone closing mark, where the chat template has
    written the opening one. Marks in code are the answer's own. An opening mark that is never closed: all is thinking.
    """
    thoughts: list[str] = []
    rest = text
    while block := opened_block(rest, marks):
        opening, closing = block
        inner = rest.lstrip().removeprefix(opening)
        if (end := first_outside_code(inner, closing)) < 0:
            thoughts.append(inner.strip())
            return joined(thoughts), "", False
        thoughts.append(inner[:end].strip())
        rest = inner[end + len(closing) :].lstrip()
    if rest is not text:
        return joined(thoughts), rest, True
    ends = [(end, closing) for opening, closing in marks if (end := lone_closing(text, opening, closing)) >= 0]
    if not ends:
        return "", text, True
    end, closing = min(ends)
    return text[:end].strip(), text[end + len(closing) :].lstrip(), True


def opened_block(text: str, marks: Marks) -> tuple[str, str] | None:
    """The marks of the thinking that a text begins with."""
    beginning = text.lstrip() if text[:1].isspace() else text
    for pair in marks:
        if beginning.startswith(pair[0]):
            return pair
    return None


def first_outside_code(text: str, mark: str) -> int:
    """Where a mark stands first, if possible outside code; -1 where it stands nowhere."""
    place = text.find(mark)
    while place >= 0 and is_in_code(text, place, mark):
        place = text.find(mark, place + 1)
    return place if place >= 0 else text.find(mark)


def lone_closing(text: str, opening: str, closing: str) -> int:
    """Where a closing mark stands that nothing before it has opened, outside code; -1 for nowhere."""
    place = text.find(closing)
    while place >= 0:
        before = text[:place]
        opened = before.count(opening) - before.count(f"{CODE}{opening}{CODE}")
        if not is_in_code(text, place, closing) and opened <= before.count(closing):
            return -1 if opened else place
        place = text.find(closing, place + 1)
    return -1


def is_in_code(text: str, place: int, mark: str) -> bool:
    """Whether a mark stands between backticks, or in a block of code."""
    return text.count(CODE, 0, place) % 2 == 1 and text.find(CODE, place + len(mark)) >= 0


def joined(thoughts: Sequence[str]) -> str:
    return "\n\n".join(filter(None, thoughts))


def with_thinking(answer: str, thoughts: str) -> str:
    """An answer with what was thought before, as one text."""
    opening, closing = MARKS[0]
    return f"{opening}\n{thoughts}\n{closing}\n\n{answer}" if thoughts else answer


def thinking_column(name: str) -> str:
    """The column of what was thought before the answers in another."""
    return f"{name}{THINKING_SUFFIX}"


def answer_logprobs(logprobs: list[Any], answer: str) -> list[Any] | None:
    """The log probabilities of the answer's tokens; None where the tokens do not end with the answer and, at most, the
    token that ends it.
    """
    texts = [str(token) for token, *_ in logprobs]
    wanted = answer.strip()
    for last in (len(texts), len(texts) - 1):
        tokens = "".join(texts[:last]).rstrip()
        if not wanted or not tokens.endswith(wanted):
            continue
        start, position = len(tokens) - len(wanted), 0
        for place, token in enumerate(texts):
            position += len(token)
            if position > start:
                return logprobs[place:]
    return None


def why_empty(completion: Completion) -> str:
    """Why there is no answer, as a drop says it: its reason, colon, detail."""
    ending = ending_of(completion.finish_reason)
    if completion.finish_reason == CUT_WHILE_THINKING:
        return (
            "cut_while_thinking: the answer ended in its thinking; raise max_tokens, or give the engine thinking.tokens"
        )
    if completion.refusal:
        return f"refused_in_words: {' '.join(completion.refusal.split())[:LONGEST_REFUSAL]}"
    if completion.tool_calls:
        return "tool_call: it called a tool, and was given none"
    if ending == "content_filter":
        return f"filtered: the answer was broken off ({completion.finish_reason})"
    if ending == "length":
        return f"{PLAINLY_EMPTY}: max_tokens ended before the answer began; raise it"
    return f"{PLAINLY_EMPTY}: it thought, and then said nothing" if completion.reasoning else PLAINLY_EMPTY


def check_answered(completion: Completion, otherwise: str = "") -> None:
    """Raises Drop for an answer without text: why, or `otherwise` where nothing but its emptiness is known."""
    if completion.text.strip():
        return
    why = why_empty(completion)
    raise Drop(otherwise if otherwise and why.startswith(PLAINLY_EMPTY) else why)


def named_fault(completion: Completion, fault: Drop) -> Drop:
    """A recipe's fault of an answer; where there is no answer, and it is known why, that. A call that breaks its tool's
    schema is an answer.
    """
    return Drop(why_empty(completion)) if is_named(completion) and fault.reason != BREACH else fault


def is_named(completion: Completion) -> bool:
    """Whether there is no answer, and it is known why."""
    return not completion.error and not completion.text.strip() and not why_empty(completion).startswith(PLAINLY_EMPTY)
