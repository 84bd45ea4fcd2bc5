"""What is said of a trainer: which rows it reads in which form, what it cannot hold, and the configuration beside them.

A trainer is a file in storage/published/trainers/ with a `TRAINER`; nothing registers it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import polars as pl

from synthmill.schemas.formats import ThinkingPlace, Use
from synthmill.storage.published.json_lines import Lines

Feature = Literal[
    "tools",
    "a system message",
    "earlier turns",
    "several calls at once",
    "text beside a call",
    "several results in a row",
    "an answer of several messages",
    "answers in the prompt, which would be learned, too",
]
"""What rows may have that not every trainer can hold; tools: definitions, calls or results."""
EVERYTHING: frozenset[Feature] = frozenset(get_args(Feature))
NO_TOOLS: frozenset[Feature] = frozenset(
    ("a system message", "earlier turns", "answers in the prompt, which would be learned, too")
)


@dataclass(frozen=True)
class Form:
    """How rows of a use (storage/published/uses.py) are written for a trainer.

    make: a batch -> the rows that the trainer reads, as many; holds: what they may have; lines, objects: as a table
    is written (storage/published/configurations.py); thinking: where these rows have it, if not where the trainer's
    others do; fault: what else is wrong with a row of the use, or nothing; with_ids: whether rows keep their `id`
    column (else ids lie beside them).
    """

    make: Callable[[pl.DataFrame], pl.DataFrame]
    holds: frozenset[Feature] = EVERYTHING
    lines: Lines = "even"
    objects: tuple[str, ...] = ()
    thinking: ThinkingPlace = ""
    fault: Callable[[Mapping[str, Any]], str] = lambda _: ""
    with_ids: bool = True


class Written(NamedTuple):
    """A table as a trainer's configuration names it. files: by split, within the folder; columns: its own, and those
    that its rows had before they got their form (storage/published/uses.py).
    """

    name: str
    use: Use
    files: Mapping[str, Sequence[str]]
    columns: Sequence[str]
    made_of: Sequence[str] = ()

    @property
    def train(self) -> Sequence[str]:
        return self.files["train"] if "train" in self.files else next(iter(self.files.values()))

    @property
    def test(self) -> Sequence[str]:
        """The files of the rows to validate on; none if there are no such rows."""
        return next((paths for split, paths in self.files.items() if split != "train"), ())


def names_by_use(tables: Iterable[Written]) -> Iterator[tuple[Use, list[Written], str]]:
    """Tables of one use each time, and their names as markdown."""
    uses: dict[Use, list[Written]] = {}
    for table in tables:
        uses.setdefault(table.use, []).append(table)
    for use, of_use in uses.items():
        yield use, of_use, ", ".join(f"`{table.name}`" for table in of_use)


@dataclass(frozen=True)
class Trainer:
    """A trainer. title, version: as its makers call it, and the version that was read; forms: by use; readme: how to
    load the tables, a few lines of markdown; beside: the files of configuration, by name; thinking: where its chats
    have it; splits: other names of splits; one_file: whether it reads one file a split, however large.
    """

    title: str
    version: str
    forms: Mapping[Use, Form]
    readme: Callable[[Sequence[Written]], Iterable[str]]
    beside: Callable[[Sequence[Written]], Mapping[str, bytes]] = lambda _: {}
    thinking: ThinkingPlace = "field"
    splits: Mapping[str, str] = field(default_factory=dict)
    one_file: bool = False
