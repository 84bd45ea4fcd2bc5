"""How many judgements of a judge could not be read: counted row by row, summed over an artifact."""

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
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
        return (yield from self.ask_apart(requests, attempts, [parse] * len(requests)))

    def ask_apart(
        self, requests: Sequence[Request], attempts: int, parses: Sequence[Callable[[Completion], T | None]]
    ) -> Generator[list[Request], list[Completion], list[T | None]]:
        """As `ask`, each request with a parser of its own."""
        latest: dict[int, Completion] = {}

        def read(place: int, completion: Completion) -> T | None:
            latest[place] = completion
            return parses[place](completion)

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


def missing_scores(store: Store, manifest: Manifest) -> tuple[int, Counter[str]]:
    """(how many answers a stage of verifiers saw, why some have no score: reason -> answers); (0, none) for others."""
    settings = manifest.identity.get("settings", {})
    column = f"{settings.get('label')}_missing"
    if "run_code" not in settings or column not in manifest.columns:
        return 0, Counter()
    answers, reasons = 0, Counter[str]()
    for seal in manifest.parts:
        for (pool,) in pl.DataFrame(read_part(store, seal, (column,))).iter_rows() if seal.rows else ():
            answers += len(pool)
            reasons.update(reason.partition(":")[0] for reason in pool if reason)
    return answers, reasons


def note_missing(store: Store, manifest: Manifest) -> str:
    """A note on answers without a verdict; empty where there is none. Raises SynthmillError where no answer has one."""
    answers, reasons = missing_scores(store, manifest)
    counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    note = f"{reasons.total():,} of {answers:,} answers have no verdict: {counts}"
    if answers and reasons.total() == answers:
        raise SynthmillError(f"{note}; docs/verifiers.md says what each reason means")
    return f"{manifest.identity['settings']['label']}: {note}" if reasons else ""


def note_unread(store: Store, manifest: Manifest) -> str:
    """A note on a stage's unread judgements, or missing verdicts; empty where all were read. Raises SynthmillError
    where none was.
    """
    if note := note_missing(store, manifest):
        return note
    total = judgements_of(store, manifest)
    if total.asked and total.unread == total.asked:
        raise SynthmillError(f"{total}; choose another model as the judge, or another scorer")
    return f"{manifest.stage}: {total}" if total.unread else ""


def notes_on_judgements(store: Store, manifests: Mapping[str, Manifest]) -> list[str]:
    """The notes of `note_unread`. manifests: by step."""
    return [note for manifest in manifests.values() if (note := note_unread(store, manifest))]
