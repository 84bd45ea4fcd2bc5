"""On the real inputs in ../shared, where they are."""

import json

import polars as pl
import pytest

from synthmill.schemas.settings import SourceSettings
from synthmill.storage.plain_files.rows import read_chunks
from synthmill.tasks.cuts.max_min_pairs import MaxMinPairs
from synthmill.tasks.dedup.duplicates import UniquePairs
from tests.conftest import SHARED
from tests.tasks.test_scores import NOWHERE, pool

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not (SHARED / "data").is_dir(), reason="the real inputs (../shared/data) are not beside this checkout"
    ),
]


def test_real_instructions_are_read_whole_and_turns_are_noted() -> None:
    source = SourceSettings(path=str(SHARED / "data" / "instructions" / "instructions.jsonl.gz"))
    chunks = list(read_chunks(source, 256))
    rows = [row for chunk in chunks for row in chunk.rows]
    assert (len(rows), sum(len(chunk.dropped) for chunk in chunks)) == (1221, 0)
    assert {row.source for row in rows} >= {"arena_hard_v0.1", "mt_bench"}
    two_turns = [row for row in rows if row.source == "mt_bench"]
    assert two_turns
    assert all(row.note == "1 later turns left out" for row in two_turns)


def test_exact_duplicates_do_not_collapse_prompts_in_other_scripts() -> None:
    source = SourceSettings(path=str(SHARED / "data" / "instructions" / "instructions.jsonl.gz"))
    rows = [row for chunk in read_chunks(source, 2000) for row in chunk.rows]
    frame = pl.DataFrame(
        [{"id": row.id, "system": row.system, "prompt": row.prompt} for row in rows], infer_schema_length=None
    )
    marked, _ = UniquePairs(columns=("system", "prompt"), layers=("exact",)).apply(frame, NOWHERE)
    duplicates = marked.filter(~pl.col("kept"))
    assert duplicates.height <= 20  # an ASCII-only normaliser finds 43 more, all false
    by_id = dict(marked.select("id", "prompt").iter_rows())
    for row in duplicates.iter_rows(named=True):
        assert "".join(row["prompt"].split()).casefold() == "".join(by_id[row["duplicate_of"]].split()).casefold()


def test_max_min_on_a_real_tie_heavy_matrix() -> None:
    matrix = json.loads((SHARED / "data" / "method_samples" / "wildbench_reward_matrix.json").read_text())["prompts"]
    pools = [pool(key, prompt["reward"]) for key, prompt in matrix.items()]
    kept, dropped = MaxMinPairs().apply(pl.DataFrame(pools), NOWHERE)
    assert (kept.height, [row.reason for row in dropped]) == (1007, ["equal_reward"] * 3)
    for pair in kept.iter_rows(named=True):
        rewards = matrix[pair["parent_id"]]["reward"]
        assert pair["chosen_index"] // 10 == rewards.index(max(rewards))
        assert pair["rejected_index"] // 10 == rewards.index(min(rewards))
