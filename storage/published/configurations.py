"""A dataset's configurations: tables by name and split, what their rows are, and what a page shows of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from synthmill.storage.published.chats import CHAT, as_columns
from synthmill.storage.published.json_lines import Lines
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.shards import Shards

SHARD_BYTES = 256 << 20
Kind = Literal[
    "conversations", "completions", "preferences", "labelled", "prompts", "rl", "triplets", "distillation", "other"
]
"""What a configuration's rows are, which says what formats they can take: `messages`; `prompt` and `completion`, or
`prompt`, `chosen` and `rejected`, or `prompt`, `completion` and `label`, as lists of messages; `prompt` as a text;
`prompt` (either) with `verifier` and perhaps `answer`; `anchor`, `positive` and `negative`; `prompt` as a list of
messages with `privileged_context`.
"""
Content = bytes | Callable[[], Iterable[bytes]]
"""What a file holds: its bytes, or a function that yields them piece by piece, where they may be many."""


@dataclass(frozen=True)
class Table:
    """One configuration. splits: rows by split; about: what a row is, for people; lines: whether they are written as
    lines of JSON, and how; objects: columns that, where they are JSON texts or lists of them, are written as objects,
    which `datasets` reads from Parquet since 4.7; one_file: whether a split is one file, however large.
    """

    splits: Mapping[str, RowStream]
    kind: Kind
    about: str
    lines: Lines = ""
    objects: tuple[str, ...] = ()
    one_file: bool = False

    def __post_init__(self) -> None:
        streams = {split: RowStream.of(rows) for split, rows in self.splits.items()}  # a frame is as good as a stream
        if CHAT not in self.objects:
            streams = {split: as_columns(rows) for split, rows in streams.items()}
        object.__setattr__(self, "splits", streams)

    @classmethod
    def of(cls, rows: pl.DataFrame | RowStream, kind: Kind, about: str, objects: tuple[str, ...] = ()) -> "Table":
        """All rows for training."""
        return cls({"train": RowStream.of(rows)}, kind, about, objects=objects)

    @property
    def height(self) -> int:
        return sum(rows.height for rows in self.splits.values())

    @property
    def rows(self) -> RowStream:
        """Those of all splits."""
        return RowStream.chained(list(self.splits.values())) if self.splits else RowStream.of(pl.DataFrame())


@dataclass(frozen=True)
class Figure:
    """A table or a picture about a dataset, for its page and the terminal.

    columns: heads; the first `text_columns` of them are of texts, the others of numbers. rows: cells, as they are
    printed; without columns, each is a line. picture: the name of an SVG among the dataset's files. about: a sentence
    below.
    """

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    text_columns: int = 1
    picture: str = ""
    about: str = ""

    @classmethod
    def lines(cls, title: str, lines: Iterable[str]) -> "Figure":
        """Lines of text."""
        return cls(title, rows=tuple((line,) for line in lines))

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> "Figure":
        """A figure from the marker. Raises TypeError for anything else."""
        rows = tuple(tuple(map(str, row)) for row in written["rows"])
        return cls(**{**written, "columns": tuple(written["columns"]), "rows": rows})


@dataclass(frozen=True)
class Dataset:
    """What a method publishes. intro, body: the card's first words and the sections that only this method has, as
    markdown; files: what else lies in the folder, by name; facts: what synthmill.json says besides; shard_bytes: the
    largest shard, in memory; notes: what a reader should know first, a line each; figures: what the page and the
    terminal show of it beside its rows; loading: how to load it, where that is not `load_dataset`.
    """

    title: str
    intro: str
    tables: Mapping[str, Table]
    body: str = ""
    files: Mapping[str, Content] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    shard_bytes: int = SHARD_BYTES
    notes: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    loading: str = ""

    @property
    def rows(self) -> int:
        return sum(table.height for table in self.tables.values())

    def filled(self) -> dict[str, dict[str, RowStream]]:
        """Configurations and splits that have rows: `datasets` cannot load others. A lone empty one stays."""
        filled = {name: {s: rows for s, rows in t.splits.items() if rows.height} for name, t in self.tables.items()}
        if not any(filled.values()):
            return {name: dict(table.splits) for name, table in list(self.tables.items())[:1]}
        return {name: splits for name, splits in filled.items() if splits}

    def shards(self) -> dict[tuple[str, str], Shards]:
        """(configuration, split) -> the files of its rows; a table of lines has a folder of its own."""
        filled = self.filled()
        return {
            (name, split): self._shards(name if self.tables[name].lines else data_folder(filled, name), name, split)
            for name, splits in filled.items()
            for split in splits
        }

    def _shards(self, folder: str, name: str, split: str) -> Shards:
        table = self.tables[name]
        rows = table.splits[split]
        if table.one_file:
            return Shards(f"{folder}/{split}", max(1, rows.height), 1, table.lines)
        return Shards.of(f"{folder}/{split}", rows, self.shard_bytes, table.lines)


def data_folder(filled: Mapping[str, Any], config: str) -> str:
    """Where a configuration's files are."""
    return "data" if len(filled) == 1 else f"data/{config}"
