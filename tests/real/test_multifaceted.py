"""The multifaceted filter and taxonomy on the real inputs in ../shared, where they are."""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from synthmill.schemas.rows import Instruction, to_arrow
from synthmill.schemas.settings import SourceSettings
from synthmill.storage.plain_files.rows import read_chunks
from synthmill.storage.plain_files.taxonomies import read_taxonomy
from synthmill.tasks.generators.multifaceted.filtering import FilterInstructions
from tests.conftest import SHARED

DATA = SHARED / "data"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real inputs (../shared/data) are not beside this checkout"),
]


@pytest.fixture(scope="module")
def real() -> pl.DataFrame:
    source = SourceSettings(path=str(DATA / "instructions" / "instructions.jsonl.gz"))
    return pl.DataFrame(to_arrow(Instruction, [row for chunk in read_chunks(source, 256) for row in chunk.rows]))


def test_most_real_instructions_pass_and_the_reasons_are_right(real: pl.DataFrame, tmp_path: Path) -> None:
    kept, dropped = FilterInstructions().apply(real, tmp_path)
    assert kept.height + len(dropped) == real.height
    reasons = Counter(row.reason for row in dropped)
    assert set(reasons) <= {"language", "persona", "too_long", "too_short", "duplicate"}
    assert 0.8 < kept.height / real.height < 0.9
    texts = dict(real.select("id", "prompt").iter_rows())
    foreign = [texts[row.id] for row in dropped if row.reason == "language"]
    ascii_share = [sum(character.isascii() for character in text) / len(text) for text in foreign]
    assert sum(share < 0.99 for share in ascii_share) / len(foreign) > 0.85  # the others are mostly code
    assert any(row.detail.lower() == "act as" for row in dropped if row.reason == "persona")


def test_the_papers_tree_is_a_taxonomy_and_ours_repeats_none_of_its_values() -> None:
    theirs = read_taxonomy(str(DATA / "method_samples" / "janus_taxonomy_from_sunburst.json"))
    ours = read_taxonomy("")
    assert (len(theirs.dimensions), theirs.values) == (4, 102)
    seeds = {seed for dimension in theirs.dimensions for seed in dimension.seeds}
    assert not seeds & {seed for dimension in ours.dimensions for seed in dimension.seeds}
