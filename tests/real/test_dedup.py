"""Duplicates and contamination on the real inputs in ../shared, where they are."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from bench.likeness import measures, read, score_graded_pairs
from synthmill.schemas.settings import SourceSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.rows import KNOWN_PROMPTS, read_chunks
from synthmill.tasks.dedup.contamination import CleanRows
from synthmill.tasks.dedup.duplicates import UniqueRows
from synthmill.tasks.running.stages import ingest
from synthmill.tasks.vectors.embeddings import embed_whole
from synthmill.tasks.vectors.layouts import ExactLayout
from synthmill.tasks.vectors.links import Matrix, Search, links_in
from tests.conftest import SHARED

DATA = SHARED / "data"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real inputs (../shared/data) are not beside this checkout"),
]


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    source = SourceSettings(path=str(DATA / "instructions" / "instructions.jsonl.gz"))
    found = [row for chunk in read_chunks(source, 2000) for row in chunk.rows]
    return pl.DataFrame([row.model_dump() for row in found], infer_schema_length=None)


def test_prompts_in_other_scripts_stay_apart_by_words_and_by_meaning(rows: pl.DataFrame, store: Store) -> None:
    foreign = rows.filter(pl.Series([sum(map(str.isascii, text)) < len(text) / 2 for text in rows["prompt"]]))
    assert foreign.height > 60
    marked, _ = UniqueRows(layers=("exact", "words")).apply(foreign, store.root)
    assert marked["kept"].all()
    vectors = embed_whole("minilm", foreign["prompt"].to_list(), store.root)
    everyone = np.ones(foreign.height, np.bool_)
    found = links_in(Search(Matrix.of(vectors), ExactLayout(foreign.height), 0.9, everyone, everyone))
    assert len(found.row) == 0
    assert (~vectors.any(axis=1)).sum() > 20  # Chinese ones, which this model cannot read


def test_a_cosine_of_nine_tenths_is_never_wrong_on_graded_pairs_and_finds_fewer(tmp_path: Path) -> None:
    cosine, words, same = score_graded_pairs(DATA, tmp_path)
    assert (len(same), same.sum()) == (291, 81)
    assert measures(cosine, same, 0.9)[0] == 1
    assert 0.1 < measures(cosine, same, 0.9)[1] < measures(cosine, same, 0.8)[1] < measures(cosine, same, 0.7)[1]
    assert measures(cosine, same, 0.8)[0] > 0.85
    assert measures(words, same, 0.7)[1] < 0.05  # paraphrases share few runs of words


def test_alpacaevals_prompts_are_found_in_the_sets_they_came_from(rows: pl.DataFrame, store: Store) -> None:
    """Its own field says where a prompt is from: Self-Instruct, Koala and Vicuna, never Arena-Hard, which is later."""
    alpaca_eval = SourceSettings(path=str(DATA / "alpaca_eval" / "pool.jsonl.gz"), prompt_column="instruction")
    known = ingest(store, alpaca_eval, 1000, "run", KNOWN_PROMPTS)
    some = rows.filter(~pl.col("source").str.starts_with("arena_hard"))
    some = pl.concat([some, rows.filter(pl.col("source") == "arena_hard_v0.1").head(40)])  # long ones
    given: dict[str, Any] = {"benchmarks": (("alpaca_eval", known.key),), "embedder": "minilm"}
    marked, _ = CleanRows(**given, layers=("words", "meaning")).apply(some, store.root)
    found = marked.filter("contaminated")
    by_source = Counter(found["source"])
    assert by_source["self_instruct_252"] == 160
    assert by_source["vicuna_bench"] == 52
    assert by_source["koala"] == 82
    assert by_source["arena_hard_v0.1"] == 0
    of = Counter(row["dataset"] for row in read(DATA / "alpaca_eval" / "pool.jsonl.gz"))
    assert sum(by_source[name] for name in ("self_instruct_252", "koala", "vicuna_bench")) == sum(
        of[name] for name in ("selfinstruct", "koala", "vicuna")
    )
    by_meaning = found.filter(pl.col("evidence").str.starts_with("cosine"))
    assert by_meaning.height <= 5
