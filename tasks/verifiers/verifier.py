"""What a verifier is: settings, and a pure function of an answer and its reference.

Each is one module of kinds/. The settings of all of them form a union that is found by listing that folder
(schemas/kinds.py). This room is imported by trainers' reward functions, so it loads nothing heavy.
"""

from typing import Any, ClassVar, NamedTuple

import orjson
from pydantic import Field

from synthmill.schemas.errors import InputError
from synthmill.schemas.kinds import UnionSettings
from synthmill.schemas.messages import text_in
from synthmill.schemas.thinking_settings import MARKS
from synthmill.tasks.texts.thinking import split_thinking

LONGEST_REASON = 300  # characters
TIME_OVER, MEMORY_OVER = "timed_out", "memory_over"


class Verdict(NamedTuple):
    """score: from 0 to 1; None where the answer cannot be judged. reason: why it is missing, or below 1: a snake_case
    word, colon, detail.
    """

    score: float | None
    reason: str = ""


class Verifier(UnionSettings):
    """One verifier with its arguments. May be written as its name."""

    package: ClassVar = "synthmill.tasks.verifiers.kinds"
    noun: ClassVar = "verifier"
    discriminator: ClassVar = "verifier"
    isolated: ClassVar[bool] = False
    """Whether it works in a process of its own that can be killed: it may hang, or take all memory."""

    verifier: str
    timeout_s: float = Field(10, gt=0, le=3600, description="for one answer; over it, the score is missing")

    def check(self) -> None:
        """Raises InputError, MissingExtra where no answer could be verified."""

    def verdict(self, answer: str, reference: str) -> Verdict:
        """The verdict on an answer without thinking. Anything raised is a missing score."""
        raise TypeError(f"{type(self).__name__} must define verdict(answer, reference)")


def missing(reason: str) -> Verdict:
    return Verdict(None, " ".join(reason.split())[:LONGEST_REASON])


def failed(reason: str) -> Verdict:
    return Verdict(0.0, " ".join(reason.split())[:LONGEST_REASON])


def share_of(faults: list[str], count: int, partial: bool) -> Verdict:
    """1 where none of `count` things is at fault; else 0, or, if `partial`, the share that is not."""
    if not faults:
        return Verdict(1.0)
    reason = faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")
    return failed(reason)._replace(score=(count - len(faults)) / count if partial else 0.0)


def guarded_verdict(verifier: Verifier, answer: str, reference: str) -> Verdict:
    """The verdict; a missing score with its reason where the verifier cannot give one."""
    try:
        return verifier.verdict(answer, reference)
    except MemoryError:
        return missing(MEMORY_OVER)
    except RecursionError:
        return missing("too_deep: it is nested too deeply")
    except InputError as error:
        return missing(f"bad_reference: {error.message}")
    except Exception as error:
        return missing(f"verifier_error: {type(error).__name__}: {error}")


def answer_of(answer: Any) -> str:
    """An answer's text without its thinking: of a text, or of the last message of a list, as trainers hand it over.
    Raises Drop for a content that is none; an answer that ended inside its thinking is empty.
    """
    if isinstance(answer, list | tuple) and answer and isinstance(answer[-1], dict):
        answer = answer[-1].get("content")
    return split_thinking(text_in(answer) or "", MARKS)[1]


def reference_of(reference: Any) -> str:
    """A reference as text: texts as they are, null as none, any other value as JSON."""
    if isinstance(reference, str):
        return reference
    return "" if reference is None else orjson.dumps(reference, option=orjson.OPT_NON_STR_KEYS).decode()
