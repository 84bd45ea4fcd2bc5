"""`synthmill calls`: what was asked and spent; or every stored answer in one recording."""

import sys
from pathlib import Path

from synthmill.flows.commands.existing_store import open_store
from synthmill.flows.commands.sql import show_query

SPEND = """
    SELECT stage, role, engine, sum(calls)::BIGINT AS calls, sum(prompt_tokens)::BIGINT AS "tokens in",
    sum(completion_tokens)::BIGINT AS "tokens out" FROM spend GROUP BY ALL ORDER BY ALL"""


def show_calls(place: Path, record: Path | None) -> None:
    """Calls and tokens by stage, role and engine. record: the file to write every answer to, instead."""
    from synthmill.storage.calls import record_to

    store = open_store(place)
    if record:
        answers = record_to(store.calls, record.expanduser().resolve())
        print(f"{answers:,} answers -> {record}; replay them with an engine replay:{record}", file=sys.stderr)
        return
    show_query(place, SPEND, as_csv=False)
