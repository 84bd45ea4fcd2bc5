"""Stages that choose rows by their tags: which tags count, and rows that have many or rare ones.

Source: docs/papers.md#instag.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.column_names import check_columns
from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped
from synthmill.tasks.tables.choosing import Share
from synthmill.tasks.tables.table_stage import WholeTableStage, drops


class CommonTags(WholeTableStage):
    """Rows -> the same with those of their `tags` only that `fewest` rows or more have, and `complexity` counted anew;
    a row without any is dropped as `rare_tags`. most_per_tag: at most so many rows per tag; a row stays while one of
    its tags has room, in the order of ids, else it is dropped as `full_tags`.
    """

    name: ClassVar = "common_tags"
    version: ClassVar = "1"

    column: str = "tags"
    fewest: int = Field(20, ge=1)
    most_per_tag: int | None = Field(None, ge=1)

    def columns_read(self) -> Sequence[str]:
        return (self.column,)

    def output_columns(self, columns: pa.Schema) -> pa.Schema:
        check_columns(f"stage {self.name}", self.columns_read(), columns.names)
        return pa.schema([*(field for field in columns if field.name != "complexity"), ("complexity", pa.int64())])

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        check_tags(frame, self.name, self.column)
        counts = Counter(tag for tags in frame[self.column].to_list() for tag in set(tags or ()))
        common = {tag for tag, count in counts.items() if count >= self.fewest}
        kept_tags = [[tag for tag in tags or () if tag in common] for tags in frame[self.column].to_list()]
        reasons = ["" if tags else "rare_tags" for tags in kept_tags]
        if self.most_per_tag is not None:
            mark_full(frame["id"].to_list(), kept_tags, self.most_per_tag, reasons)
        marked = frame.drop("complexity", strict=False).with_columns(
            pl.Series(self.column, kept_tags, pl.List(pl.String)),
            complexity=pl.Series([len(tags) for tags in kept_tags], dtype=pl.Int64),
        )
        reason = pl.Series(reasons, dtype=pl.String)
        out = [
            drop
            for why in ("rare_tags", "full_tags")
            for drop in drops(frame["id"].filter(reason == why), why, [""] * int((reason == why).sum()))
        ]
        return marked.filter(reason == ""), out


def check_tags(frame: pl.DataFrame, stage: str, column: str) -> None:
    """Raises InputError where a column holds no lists of texts."""
    if frame.schema[column] not in (pl.List(pl.String), pl.Null, pl.List(pl.Null)):
        raise InputError(f"stage {stage}: the column {column!r} holds {frame.schema[column]}; expected lists of texts")


def mark_full(ids: Sequence[str], tags: Sequence[Sequence[str]], most: int, reasons: list[str]) -> None:
    """Mark rows whose tags all have `most` rows already, in the order of ids."""
    rows_of: Counter[str] = Counter()
    for place in sorted(range(len(ids)), key=ids.__getitem__):
        if reasons[place]:
            continue
        if all(rows_of[tag] >= most for tag in tags[place]):
            reasons[place] = "full_tags"
        else:
            rows_of.update(tags[place])


class ComplexFirst(Share):
    """Rows -> `count` of them by their `tags`, complexity first: from the row with the most tags down, each that brings
    a tag which none before it has; when the rows are through, again among the rest with nothing covered. Of equally
    many tags, the lower id goes first. The others are dropped as `not_picked`.
    """

    name: ClassVar = "complex_first"
    version: ClassVar = "1"

    column: str = "tags"

    def columns_read(self) -> Sequence[str]:
        return (self.column,)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        check_tags(frame, self.name, self.column)
        tags = [set(row or ()) for row in frame[self.column].to_list()]
        ids = frame["id"].to_list()
        rest = sorted((n for n in range(len(ids)) if tags[n]), key=lambda n: (-len(tags[n]), ids[n]))
        size = self.count or -int(-(self.share or 0) * len(ids) // 1)
        taken: set[int] = set()
        while rest and len(taken) < size:
            covered: set[str] = set()
            remaining = []
            for n in rest:
                if len(taken) < size and not tags[n] <= covered:
                    taken.add(n)
                    covered |= tags[n]
                else:
                    remaining.append(n)
            rest = remaining
        mask = pl.Series([n in taken for n in range(len(ids))], dtype=pl.Boolean)
        others = frame["id"].filter(~mask)
        return frame.filter(mask), drops(others, "not_picked", [""] * len(others))
