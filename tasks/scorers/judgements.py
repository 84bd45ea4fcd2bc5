"""How many judgements of a judge could not be read: counted row by row, summed over an artifact."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import polars as pl

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import SynthmillError
from synthmill.storage.artifacts import Store, read_part
from synthmill.tasks.recipe import ask_each
from synthmill.tasks.texts.thinking import why_empty

T = TypeVar("T")
LONGEST = 200  # characters shown of a judgement, half of them from its end
COLUMNS = ("judgements", "unread", "first_unread")


@dataclass
class Judgements:
    """How many judgements were asked for, how many failed after all attempts, and the first failure's text."""

    asked: int = 0
    unread: int = 0
    first: str = ""

    def ask(
        self, requests: Sequence[Request], attempts: int, parse: Callable[[Completion], T | None]
    ) -> Generator[list[Request], list[Completion], list[T | None]]:
        """Send all requests; retry those whose answer `parse` refuses with a Drop. Per request a verdict, or None."""
        latest: dict[int, Completion] = {}

        def read(place: int, completion: Completion) -> T | None:
            latest[place] = completion
            return parse(completion)

        verdicts, _ = yield from ask_each(requests, attempts, read)
        for place, verdict in enumerate(verdicts):
            if verdict is None:
                self.add(1, 1, latest[place].error or latest[place].text or why_empty(latest[place]))
            else:
                self.add(1, 0, "")
        return verdicts

    def add(self, count: int, unread: int, first: str) -> None:
        if unread and not self.unread:
            self.first = first
        self.asked, self.unread = self.asked + count, self.unread + unread

    def columns(self) -> dict[str, Any]:
        """The columns that a row stores."""
        first = " ".join(self.first.split())
        if len(first) > LONGEST:
            first = f"{first[: LONGEST // 2]} ... {first[-LONGEST // 2 :]}"
        return dict(zip(COLUMNS, (self.asked, self.unread, first), strict=True))

    def __str__(self) -> str:
        return f"{self.unread:,} of {self.asked:,} judgements could not be read; the first: {self.first!r}"


def judgements_of(store: Store, manifest: Manifest) -> Judgements:
    """The sum over a stage's rows; nothing where the stage is no judge."""
    total = Judgements()
    if set(COLUMNS) <= manifest.columns.keys() and manifest.identity.get("engines"):  # later stages carry them along
        for seal in manifest.parts:
            for row in pl.DataFrame(read_part(store, seal, COLUMNS)).iter_rows():
                total.add(*row)
    return total


def note_unread(store: Store, manifest: Manifest) -> str:
    """A note on a stage's unread judgements; empty where all were read. Raises SynthmillError where none was."""
    total = judgements_of(store, manifest)
    if total.asked and total.unread == total.asked:
        raise SynthmillError(f"{total}; choose another model as the judge, or another scorer")
    return f"{manifest.stage}: {total}" if total.unread else ""
