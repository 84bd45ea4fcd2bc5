"""A dataset: tables by configuration and split, and the folder that `datasets.load_dataset` and trainers read.

README.md               the card, written last: without it the dataset does not exist
synthmill.json          what each configuration is, and how it came about: marks the folder as ours
data/<config>/<split>-00000-of-00001.parquet

A chat is a list of {role, content}; where messages have other fields too (calls of tools), each is a JSON object, since
a chat template takes an empty field for one that is there.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import InputError, StoreError
from storage.files import read_json, write_atomically, write_bytes, write_json, write_text

MARKER = "synthmill.json"
CARD = "README.md"
SHARD_BYTES = 256 << 20
CHAT = "messages"
SHARD = re.compile(r".+-\d{5}-of-\d{5}\.parquet")

Kind = Literal["conversations", "completions", "preferences", "prompts", "triplets", "other"]
"""What a configuration's rows are, which says what formats they can take: `messages`; `prompt` and `completion`, or
`prompt`, `chosen` and `rejected`, as lists of messages; `prompt` as a text; `anchor`, `positive` and `negative`.
"""


class Table(NamedTuple):
    """One configuration. splits: rows by split; about: what a row is, for people."""

    splits: Mapping[str, pl.DataFrame]
    kind: Kind
    about: str

    @classmethod
    def of(cls, rows: pl.DataFrame, kind: Kind, about: str) -> "Table":
        """All rows for training."""
        return cls({"train": rows}, kind, about)

    @property
    def height(self) -> int:
        return sum(frame.height for frame in self.splits.values())

    @property
    def rows(self) -> pl.DataFrame:
        """Those of all splits."""
        return pl.concat(list(self.splits.values())) if self.splits else pl.DataFrame()


@dataclass(frozen=True)
class Dataset:
    """What a flow publishes. intro, body: the card's first words and the sections that only this flow has, as markdown;
    files: what else lies in the folder, by name; facts: what synthmill.json says besides.
    """

    title: str
    intro: str
    tables: Mapping[str, Table]
    body: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(table.height for table in self.tables.values())

    def filled(self) -> dict[str, dict[str, pl.DataFrame]]:
        """Configurations and splits that have rows: `datasets` cannot load others. A lone empty one stays."""
        made = {name: {s: frame for s, frame in t.splits.items() if frame.height} for name, t in self.tables.items()}
        if not any(made.values()):
            return {name: dict(table.splits) for name, table in list(self.tables.items())[:1]}
        return {name: splits for name, splits in made.items() if splits}


def write_dataset(folder: Path, dataset: Dataset, card: str, shard_bytes: int = SHARD_BYTES) -> int:
    """Write every configuration and split that has rows, the card last; returns all rows. What an earlier dataset of
    ours wrote into the folder and this one does not, goes; nothing else is touched.
    """
    before = files_of(folder)
    try:
        (folder / CARD).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror}; choose another folder") from error
    told = {
        name: {"kind": t.kind, "about": t.about, "splits": {split: f.height for split, f in t.splits.items()}}
        for name, t in dataset.tables.items()
    }
    marker = {"title": dataset.title, "intro": dataset.intro, "body": dataset.body, "configs": told, **dataset.facts}
    write_json(folder / MARKER, {**marker, "files": [], "written": sorted(before)})  # ours from now on
    filled = dataset.filled()
    written = []
    for name, splits in filled.items():
        for split, frame in splits.items():
            shards = list(shards_of(frame.to_arrow(compat_level=pl.CompatLevel.oldest()), shard_bytes))
            for number, shard in enumerate(shards):
                file = f"{data_folder(filled, name)}/{split}-{number:05}-of-{len(shards):05}.parquet"
                write_atomically(folder / file, partial(pq.write_table, plain_types(shard), compression="zstd"))
                written.append(file)
    for name, data in dataset.files.items():
        write_bytes(folder / name, data)
    for left in before - {*written, *dataset.files}:
        (folder / left).unlink(missing_ok=True)
    write_json(folder / MARKER, {**marker, "files": sorted(dataset.files), "written": sorted(written)})
    write_text(folder / CARD, card)
    return dataset.rows


def files_of(folder: Path) -> set[str]:
    """What a dataset of ours consists of, besides card and marker, and the shards that an unfinished one left."""
    told = marker_of(folder)
    listed = [name for name in (*told.get("files", ()), *told.get("written", ())) if is_inside(folder, name)]
    left = (
        path.relative_to(folder).as_posix() for path in folder.glob("data/**/*.parquet") if SHARD.fullmatch(path.name)
    )
    return {*listed, *(left if told else ())}


def is_inside(folder: Path, name: Any) -> bool:
    """Whether a name that a marker has is of a file in its folder: somebody else may have written the marker."""
    return isinstance(name, str) and (folder / name).resolve().is_relative_to(folder.resolve())


def marker_of(folder: Path) -> dict[str, Any]:
    """A dataset's synthmill.json; empty where there is none, or one that says nothing of this kind."""
    try:
        told = read_json(folder / MARKER)
    except StoreError:
        return {}
    lists = all(isinstance(told.get(name), list) for name in ("files", "written"))
    return told if lists and isinstance(told.get("configs"), dict) else {}


def data_folder(filled: Mapping[str, Any], config: str) -> str:
    """Where a configuration's files are."""
    return "data" if len(filled) == 1 else f"data/{config}"


def shards_of(table: pa.Table, most: int) -> Iterator[pa.Table]:
    """The table in pieces of about equal size in memory, none much over `most` bytes; its files are smaller."""
    pieces = max(1, -(-table.nbytes // most))
    rows = max(1, -(-table.num_rows // pieces))
    yield from (table.slice(start, rows) for start in range(0, max(1, table.num_rows), rows))


def plain_types(table: pa.Table) -> pa.Table:
    """Without large strings and lists, which trainers' own casts do not expect; chats in JSON say so, and `datasets`
    gives their messages as objects.
    """
    kinds = {field.name: plain_type(field.type) for field in table.schema}
    if kinds.get(CHAT) == pa.list_(pa.string()):
        kinds[CHAT] = pa.list_(pa.json_())
    return table.cast(pa.schema(list(kinds.items())))


def as_message(given: Any) -> dict[str, Any]:
    """A message of a chat, which may be JSON."""
    return dict(json.loads(given) if isinstance(given, str) else given)


def plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, plain_type(field.type)) for field in kind])
    return kind


def read_dataset(folder: Path) -> Dataset:
    """What write_dataset wrote. Raises InputError for a folder without a card of ours, StoreError for a damaged one."""
    if not is_finished(folder):
        raise InputError(f"{folder} is no dataset of synthmill's, or an unfinished one; run its flow again")
    told = marker_of(folder)
    try:
        filled = {name: one for name, one in told["configs"].items() if any(one["splits"].values())}
        tables = {
            name: Table(
                {
                    split: read_shards(folder, told["written"], f"{data_folder(filled, name)}/{split}-", rows)
                    for split, rows in one["splits"].items()
                    if rows
                },
                one["kind"],
                one["about"],
            )
            for name, one in filled.items()
        }
        files = {name: (folder / name).read_bytes() for name in told["files"] if is_inside(folder, name)}
        texts = told["title"], told["intro"], told["body"]
    except (OSError, KeyError, TypeError, AttributeError, pa.ArrowInvalid) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise StoreError(f"{folder} is damaged ({said}); delete it and run its flow again") from error
    facts = {k: v for k, v in told.items() if k not in ("title", "intro", "body", "files", "configs", "written")}
    return Dataset(texts[0], texts[1], tables, texts[2], files, facts)


def read_shards(folder: Path, written: Sequence[str], start: str, rows: int) -> pl.DataFrame:
    """The rows of a split. Raises OSError or ArrowInvalid where they are not what was written."""
    shards = [folder / name for name in written if name.startswith(start) and is_inside(folder, name)]
    if any(not shard.is_file() for shard in shards):
        raise FileNotFoundError(f"a shard of {start} is gone")
    table = pa.concat_tables([pq.read_table(shard) for shard in shards])
    if table.num_rows != rows:
        raise pa.ArrowInvalid(f"{start} has {table.num_rows:,} rows, its marker says {rows:,}")
    if CHAT in table.column_names and table.schema.field(CHAT).type == pa.list_(pa.json_()):
        table = table.set_column(table.column_names.index(CHAT), CHAT, table[CHAT].cast(pa.list_(pa.string())))
    return pl.DataFrame(table)


def is_finished(folder: Path) -> bool:
    """Whether there is a whole dataset in a folder."""
    return bool(marker_of(folder)) and (folder / CARD).is_file()


def is_ours(folder: Path) -> bool:
    """Whether a folder may be written over: there is nothing in it, or a dataset of ours."""
    return not folder.exists() or (folder.is_dir() and (bool(marker_of(folder)) or not any(folder.iterdir())))
