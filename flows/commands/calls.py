"""`synthmill calls`: what was asked and spent; or every stored answer in one recording."""

import sys
from pathlib import Path

from rich.console import Console

from synthmill.flows.commands.existing_store import existing_store
from synthmill.flows.terminal.tables import print_json, table
from synthmill.schemas.bill import Counters, added_up, money_text, tokens_in, tokens_out, wasted
from synthmill.storage.calls import record_to
from synthmill.storage.spending import bill_of


def show_calls(place: Path, record: Path | None, as_json: bool = False) -> None:
    """Calls, tokens and money by step, role and engine. record: the file to write every answer to, instead."""
    store = existing_store(place)
    if record:
        answers = record_to(store.calls, record.expanduser().resolve())
        print(f"{answers:,} answers -> {record}; replay them with an engine replay:{record}", file=sys.stderr)
        return
    bill = list(bill_of(store))
    total = added_up(counters for *_, counters in bill)
    if as_json:
        lines = [
            dict(zip(("step", "role", "engine"), origin, strict=True)) | {**counters} for *origin, counters in bill
        ]
        print_json({"calls": lines, "all": total})
        return
    names = ["step", "role", "engine", "calls", "tokens in", "tokens out", "wasted"]
    lines = table(*names, *(["money"] if total.get("money") else []))
    for *origin, counters in [*bill, ("all", "", "", total)] if len(bill) > 1 else bill:
        money = [money_text(counters["money"])] if total.get("money") else []
        lines.add_row(*origin, *cells_of(counters), *money)
    Console(emoji=False).print(lines)
    if estimated := int(total.get("estimated", 0)):
        print(f"~: {estimated:,} answers came without usage; their tokens are estimates", file=sys.stderr)


def cells_of(counters: Counters) -> list[str]:
    batch = f" ({int(counters['batch']):,} in batches)" if counters.get("batch") else ""
    calls = f"{int(counters.get('calls', 0)):,}{batch}"
    return [calls, tokens_in(counters), tokens_out(counters), wasted(counters)]
