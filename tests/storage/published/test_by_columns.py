"""Rows as a dataset publishes them, told by their columns."""

import polars as pl
import pytest

from synthmill.schemas.errors import InputError
from synthmill.storage.published.by_columns import TableForm, table_of
from synthmill.storage.published.row_streams import RowStream

ROWS = pl.DataFrame({"id": ["a"], "prompt": ["Why?"], "completion": ["So."], "confidence": [0.5]})
NAMES = ROWS.columns


@pytest.mark.parametrize("form", [TableForm(), TableForm(kind="completions"), TableForm(answer="completion")])
def test_a_completion_of_the_rows_own_needs_no_answer(form: TableForm) -> None:
    form.check(NAMES, "step rows")
    table = table_of(RowStream.of(ROWS), form=form)
    [row] = pl.concat(table.splits["train"].batches()).to_dicts()
    assert table.kind == "completions" and row["completion"] == [{"role": "assistant", "content": "So."}]
    assert row["prompt"] == [{"role": "user", "content": "Why?"}] and row["confidence"] == 0.5


def test_what_completions_lack_is_named() -> None:
    with pytest.raises(InputError, match="completions need `answer`"):
        TableForm(kind="completions").check(["id", "prompt"], "step rows")
    with pytest.raises(
        InputError, match="step rows has no column 'student' for `answer`; it has id, prompt, completion"
    ):
        TableForm(answer="student").check(NAMES, "step rows")
    TableForm(answer="student").check(["id", "prompt", "answers"], "step rows")
    with pytest.raises(InputError, match="completions need prompt; step rows has id, completion"):
        TableForm(kind="completions").check(["id", "completion"], "step rows")
