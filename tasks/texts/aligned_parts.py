"""Two texts split into as many parts that correspond to each other. Source: docs/papers.md#portia."""

import re
from bisect import bisect_left
from itertools import combinations, pairwise, product

from synthmill.tasks.texts.words import words_of

BOUNDARY = re.compile(r"(?<=[.!?;:])[\"')\]]*\s+|(?<=[。！？；])|\n+")
MOST_BOUNDARIES = 8  # of a text that are tried for likeness; of more, the nearest to even steps
Parts = list[str]


def boundaries_of(text: str) -> list[int]:
    """Where a text may be split: after sentences and at ends of lines, outside code between fences."""
    fences = [match.start() for match in re.finditer(r"^```", text, re.MULTILINE)]
    places = sorted({match.end() for match in BOUNDARY.finditer(text)} - {0, len(text)})
    return [place for place in places if bisect_left(fences, place) % 2 == 0]


def split_at(text: str, places: tuple[int, ...]) -> Parts:
    return [text[start:end].strip() for start, end in pairwise((0, *places, len(text)))]


def split_evenly(text: str, count: int) -> Parts | None:
    """`count` parts of about the same length; None where the text has too few sentences."""
    places = even_places(boundaries_of(text), len(text), count - 1)
    return split_at(text, places) if len(places) == count - 1 else None


def even_places(boundaries: list[int], length: int, count: int) -> tuple[int, ...]:
    """`count` boundaries, or all: each the nearest to its even step that leaves enough behind it."""
    chosen: list[int] = []
    count = min(count, len(boundaries))
    for n in range(count):
        start = boundaries.index(chosen[-1]) + 1 if chosen else 0
        open_places = boundaries[start : len(boundaries) - (count - n - 1)]
        step = length * (n + 1) / (count + 1)
        chosen.append(min(open_places, key=lambda place, step=step: abs(place - step)))  # type: ignore[misc]
    return tuple(chosen)


def split_alike(first: str, second: str, count: int) -> tuple[Parts, Parts] | None:
    """Both texts in `count` parts, so that the sum of the likeness of their n-th parts is highest; the earliest of
    several. None where one has too few sentences.
    """
    candidates = []
    for text in (first, second):
        places = even_places(boundaries_of(text), len(text), MOST_BOUNDARIES)
        candidates.append([split_at(text, chosen) for chosen in combinations(places, count - 1)])
    if not all(candidates):
        return None
    words = [[[frozenset(words_of(part)) for part in parts] for parts in splits] for splits in candidates]
    choices = product(range(len(candidates[0])), range(len(candidates[1])))

    def total(choice: tuple[int, int]) -> float:
        return sum(likeness(*parts) for parts in zip(words[0][choice[0]], words[1][choice[1]], strict=True))

    best = max(choices, key=total)
    return candidates[0][best[0]], candidates[1][best[1]]


def likeness(words: frozenset[str], others: frozenset[str]) -> float:
    """Words in common, as a share of those of the text that has more of them."""
    return len(words & others) / max(len(words), len(others), 1)
