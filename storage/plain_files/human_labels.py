"""What people said of answers, from a plain file: which of two is better, or a number for each."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from synthmill.schemas.errors import Drop, InputError
from synthmill.storage.plain_files.lines import lines_of
from synthmill.storage.plain_files.pool_rows import conversation
from synthmill.storage.plain_files.rows import id_of

FORMS = (
    "expected chosen_index and rejected_index, or chosen and rejected (texts), with `tie: true` where neither is "
    "better; or answer_index, or answer, and {label} (a number)"
)


class HumanLabel(NamedTuple):
    """One person's word on an answer, or on two. first, second: places in the prompt's own list, or texts.

    value: of two, 1 where the first is preferred and 0 for a tie; of one (second is None), its number.
    """

    prompt_id: str
    first: int | str
    second: int | str | None
    value: float
    annotator: str


class HumanLabels:
    """Reads a file of labels. faults: unusable rows by reason, counted while it is read."""

    def __init__(self, path: str, label_column: str = "label") -> None:
        self.path, self.label_column = path, label_column
        self.faults: Counter[str] = Counter()

    def __iter__(self) -> Iterator[HumanLabel]:
        """Raises InputError where no row can be used."""
        usable = 0
        for line in lines_of(self.path):
            try:
                if line.fields is None:
                    raise Drop(line.fault)
                label = self.label_of(line.fields)
            except Drop as drop:
                self.faults[drop.reason] += 1
                continue
            usable += 1
            yield label
        if not usable:
            faults = ", ".join(f"{count:,} {reason}" for reason, count in self.faults.items()) or "it is empty"
            raise InputError(
                f"{self.path}: none of its rows can be used ({faults}); {FORMS.format(label=self.label_column)}"
            )

    def label_of(self, row: Mapping[str, Any]) -> HumanLabel:
        """Raises Drop."""
        prompt, annotator = prompt_id_of(row), id_of(row.get("annotator"))
        read: Callable[[Any], int | str]
        for first, second, read in (("chosen_index", "rejected_index", place_of), ("chosen", "rejected", text_of)):
            if row.get(first) is not None and row.get(second) is not None:
                value = float(not is_true(row.get("tie")))
                return HumanLabel(prompt, read(row[first]), read(row[second]), value, annotator)
        answer: int | str
        if row.get("answer_index") is not None:
            answer = place_of(row["answer_index"])
        elif row.get("answer") is not None:
            answer = text_of(row["answer"])
        else:
            raise Drop("no_answer")
        return HumanLabel(prompt, answer, None, number_of(row.get(self.label_column)), annotator)


def prompt_id_of(row: Mapping[str, Any]) -> str:
    """The prompt's id, or without one the prompt itself, which then names its pool. Raises Drop."""
    if name := id_of(row.get("prompt_id")) or id_of(row.get("id")):
        return name
    prompt = row.get("prompt")
    if prompt is None:
        raise Drop("no_prompt")
    return prompt if isinstance(prompt, str) else str(conversation(prompt, None, False)["prompt"])


def text_of(value: Any) -> str:
    """An answer's text; of messages, which `pairs` writes for chats, the last one's. Raises Drop."""
    if isinstance(value, list) and value and isinstance(value[-1], Mapping):
        value = value[-1].get("content")
    if not isinstance(value, str):
        raise Drop("answer_not_text")
    return value


def place_of(value: Any) -> int:
    """A place in the prompt's list, from 0. Raises Drop."""
    with suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, bool) and (place := int(value)) == float(value) and place >= 0:
            return place
    raise Drop("bad_index")


def is_true(value: Any) -> bool:
    """A mark; CSV writes it as a text."""
    return value.strip().casefold() in ("true", "1", "yes") if isinstance(value, str) else bool(value)


def number_of(value: Any) -> float:
    """Raises Drop for what is no finite number."""
    try:
        number = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        raise Drop("no_label") from None
    if not math.isfinite(number):
        raise Drop("no_label")
    return number
