"""The answer's query gives the rows that the reference's query gives, in DuckDB.

Source: docs/papers.md#verifiers.
"""

from functools import lru_cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from synthmill.schemas.errors import InputError
from synthmill.tasks.texts.code_blocks import code_in
from synthmill.tasks.verifiers.verifier import Verdict, Verifier, failed

MOST_SETUPS = 8  # whose expected rows are held


class SqlQueries(Verifier):
    """The answer's SELECT gives the same rows as the reference's, in a database that `setup` makes (DuckDB)."""

    short_forms: ClassVar = ("sql",)
    isolated: ClassVar = True  # a recursive query may never end

    verifier: Literal["sql"] = "sql"
    setup: str = Field("", description="SQL that makes the tables and their rows")
    ordered: bool | None = Field(
        None, description="whether the rows' order counts; default: where the reference has ORDER BY"
    )

    def verdict(self, answer: str, reference: str) -> Verdict:
        from synthmill.storage.query_results import orders_its_rows, rows_of, same_rows

        wanted = expected_rows(self.setup, reference)
        query = code_in(answer, "sql", "duckdb", "sqlite", "postgresql", "mysql")
        try:
            rows = rows_of(self.setup, query)
        except InputError as error:
            return failed(f"query_fails: {error.message}")
        ordered = orders_its_rows(reference) if self.ordered is None else self.ordered
        if same_rows(rows, wanted, ordered=ordered):
            return Verdict(1.0)
        return failed(f"other_rows: it gives {len(rows):,}, the reference {len(wanted):,}")


@lru_cache(MOST_SETUPS)
def expected_rows(setup: str, reference: str) -> list[tuple[Any, ...]]:
    from synthmill.storage.query_results import rows_of

    return rows_of(setup, reference)
