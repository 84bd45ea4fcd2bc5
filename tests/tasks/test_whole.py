"""Stages over the whole set: one that marks rows holds a few columns, and makes what it would make of all at once."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import InputError
from synthmill.schemas.rows import Dropped
from synthmill.schemas.settings import SourceSettings
from synthmill.storage.artifacts import Store, read_artifact
from synthmill.storage.published.row_streams import RowStream
from synthmill.tasks.cuts.pool_pairs import Preferences
from synthmill.tasks.dedup.duplicates import UniqueRows
from synthmill.tasks.frames import FrameStage, MarkingStage, StageContext, even_parts
from synthmill.tasks.running import whole
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.stages import ingest, run_stage
from synthmill.tasks.vectors.links import release
from tests.conftest import prompts, write_jsonl
from tests.tasks.stages import in_process

ROWS = 20


class Lengths(MarkingStage):
    """Adds how long a prompt is, and drops every seventh row."""

    name: ClassVar = "lengths"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "prompt")
    adds: ClassVar = ("length",)
    rows_per_part: int

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def narrow(self, rows: RowStream) -> pl.DataFrame:
        return rows.frame(self.needs)

    def mark(self, narrow: pl.DataFrame, context: StageContext) -> tuple[pl.DataFrame, list[Dropped]]:
        lengths = narrow.with_columns(place=pl.int_range(pl.len()), length=pl.col("prompt").str.len_chars())
        is_gone = pl.col("place") % 7 == 0
        drops = [Dropped(id=row, reason="seventh") for row in lengths.filter(is_gone)["id"]]
        return lengths.filter(~is_gone).select("place", "length"), drops


class LengthsAtOnce(FrameStage):
    """The same of whole rows."""

    name: ClassVar = "lengths"
    version: ClassVar = "1"
    whole: ClassVar = True
    rows_per_part: int
    parts_begin = Lengths.parts_begin  # type: ignore[assignment]

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        return Lengths(rows_per_part=1).apply(frame, store)


def make(store: Store, stage: FrameStage, source: Manifest) -> Manifest:
    with in_process(store) as pool:
        return run_stage(store, Planned(stage, {}, source.key), source, pool, "run")


def source_in(store: Store, file: Path) -> Manifest:
    store.prepare()
    return ingest(store, SourceSettings(path=str(file)), 6, "run")


@pytest.mark.parametrize("rows_per_part", [4, ROWS])
@pytest.mark.parametrize("large", [1, whole.LARGE])
def test_marking_batch_by_batch_makes_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_part: int, large: int
) -> None:
    file = write_jsonl(tmp_path / "in.jsonl", prompts(ROWS))
    expected_in, store = Store(tmp_path / "at-once"), Store(tmp_path / "marked")
    expected = make(expected_in, LengthsAtOnce(rows_per_part=rows_per_part), source_in(expected_in, file))
    monkeypatch.setattr(whole, "LARGE", large)
    made = make(store, Lengths(rows_per_part=rows_per_part), source_in(store, file))
    assert (made.key, made.columns, made.dropped) == (expected.key, expected.columns, {"seventh": 3})
    assert [part.model_copy(update={"seconds": 0.0}) for part in made.parts] == [
        part.model_copy(update={"seconds": 0.0}) for part in expected.parts
    ]
    assert read_artifact(store, made) == read_artifact(expected_in, expected)
    assert not list(store.root.glob(".whole*"))


def test_a_marking_stage_names_the_columns_it_misses(store: Store, tmp_path: Path) -> None:
    source = source_in(store, write_jsonl(tmp_path / "in.jsonl", prompts(3)))
    with pytest.raises(InputError, match="stage preferences needs the columns cut, kept"):
        make(store, Preferences(cuts=()), source)


def test_duplicates_hold_none_of_a_rows_other_columns(store: Store) -> None:
    frame = pl.DataFrame({"id": ["a", "b"], "prompt": ["Why?", "How?"], "answer": ["Because " * 99, ""], "kept": True})
    narrow = UniqueRows(within=("answer",), layers=("exact",)).narrow(RowStream.of(frame))
    assert narrow.columns == ["id", "text", "score", "known", "within_answer", "takes_part"]
    assert UniqueRows(layers=("exact",)).narrow(RowStream.of(frame))["known"].to_list() == [2, 1]


def test_what_leaves_memory_is_still_in_the_file(tmp_path: Path) -> None:
    mapped = np.lib.format.open_memmap(tmp_path / "vectors.npy", "w+", np.dtype("float32"), (4096, 4))
    mapped[:] = 7
    release(mapped)
    assert (mapped == 7).all() and (np.load(tmp_path / "vectors.npy") == 7).all()
    release(np.zeros(3))
