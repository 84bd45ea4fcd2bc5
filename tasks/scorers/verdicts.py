"""How a judgement is read: the score after [RESULT], or at the very end.

Source: docs/papers.md#multifaceted, "judging".
"""

import re
from collections.abc import Collection, Sequence
from statistics import mean

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop

LOWEST, HIGHEST = 1, 5
VERDICT = 200  # characters: a score is read from so many after the tag, or at the end
TAG = re.compile(r"\[\s*result\s*\]", re.IGNORECASE)
NUMBER = r"[(\[]?\s*(?<![.,−–])(?P<score>-?\d+)(?:\s*(?:/|out of|of)\s*(?P<of>\d+))?"
NAMED = r"(?P<name>score|result|rating)\s*\]?\s*(?::|=|\bof\b|\bis\b)?"
TAGGED = re.compile(rf"[^\w-]*(?:(?:\w+ ){{0,4}}?{NAMED}[^\w-]*)?{NUMBER}(?P<rest>[^\n]*)", re.IGNORECASE)
AT_THE_END = re.compile(rf"(?:\b{NAMED}\s*|(?=[(\[])){NUMBER}(?P<rest>)[\s)\].!]*$", re.IGNORECASE)
ON_ITS_LINE = re.compile(rf"\W*{NAMED}\s*{NUMBER}(?P<rest>)[\s)\].!]*", re.IGNORECASE)
OTHER = re.compile(r"\s*%|(?:st|nd|rd|th)\b", re.IGNORECASE)
"""What makes a number another than a score: a per cent sign, an ordinal's ending."""


def parse_score(text: str, lowest: int = LOWEST, highest: int = HIGHEST) -> tuple[str, int]:
    """(feedback, score) of a judgement: the number after the last [RESULT]; without one, a number at the very end that
    is in brackets or called a score. Raises Drop where there is none, it is no whole number in the range, or another
    one stands after an earlier [RESULT] or alone on an earlier line.
    """
    *before, verdict = TAG.split(text)
    feedback = (" ".join(before) if before else text).strip()
    verdict = plain(verdict)
    match = TAGGED.match(verdict[:VERDICT]) if before else AT_THE_END.search(verdict[-VERDICT:])
    if not match:
        raise Drop(f"no_score: it had no score; end with [RESULT] and a whole number from {lowest} to {highest}")
    if not is_score(match, lowest, highest):
        quoted = match.group().strip()[:40]
        raise Drop(f"bad_score: its score was {quoted!r}; give one whole number from {lowest} to {highest}")
    tagged = (TAGGED.match(plain(part)[:VERDICT]) for part in before[1:])
    earlier = tagged if before else alone_on_lines(verdict)
    refuse_two(
        {other["score"] for other in earlier if other and is_score(other, lowest, highest, alone=True)}
        | {match["score"]}
    )
    return feedback, int(match["score"])


def plain(text: str) -> str:
    """Without bold and the like, and without spaces that follow each other."""
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", re.sub(r"[*_`]", "", text)))


def alone_on_lines(text: str) -> list[re.Match[str]]:
    """The scores on lines of their own that are called as the last line's is; none where that is no such line."""
    lines = [ON_ITS_LINE.fullmatch(line) for line in text.strip().splitlines() if len(line) <= VERDICT]
    last = lines[-1] if lines else None
    return [line for line in lines if last and line and line["name"].lower() == last["name"].lower()]


def is_score(match: re.Match[str], lowest: int, highest: int, alone: bool = False) -> bool:
    """Whether a number is a whole one in the range: not 4.5, 3-4, 3 or 4, 3½, 3rd, 3 %, 4/10. alone: nor a list's."""
    of, rest = match["of"], match["rest"]
    if any(map(str.isnumeric, rest)) or OTHER.match(rest) or (of and int(of) != highest):
        return False
    if alone and re.match(r"[.)] ", rest):
        return False
    return re.fullmatch("0|[1-9][0-9]?", match["score"]) is not None and lowest <= int(match["score"]) <= highest


def refuse_two(verdicts: Collection[str]) -> None:
    """Raises Drop where a judgement has verdicts that differ."""
    if len(verdicts) > 1:
        raise Drop(f"two_verdicts: it gave {' and '.join(sorted(verdicts))}; give one verdict, at the end")


def judgement_of(completion: Completion, lowest: int = LOWEST, highest: int = HIGHEST) -> tuple[str, int] | None:
    """(feedback, score); None where the judge could not be asked. Raises Drop for a judgement without a score."""
    if completion.error:
        return None
    if completion.finish_reason == "length" and not TAG.search(completion.text):
        raise Drop("no_score: it was cut, because it was too long; be shorter")
    return parse_score(completion.text, lowest, highest)


def present_mean(scores: Sequence[float | None]) -> float | None:
    """The mean of what is there; None where nothing is."""
    present = [score for score in scores if score is not None]
    return mean(present) if present else None
