"""`synthmill show ID`: the way of a row, from its input through every stage, with what was asked on it."""

from typing import Any

from rich.console import Console
from rich.text import Text

from flows.terminal.tables import format_value, shortened
from schemas.errors import InputError
from storage.artifacts import Store
from storage.lineage import Call, Step, lineage_of

FIELD, ASKED = 400, 300


def show_way(store: Store, row_id: str) -> None:
    """Raises InputError where no artifact has such a row."""
    steps, drops = lineage_of(store, row_id)
    if not steps and not drops:
        raise InputError(
            f"{store.root} has no artifact and no row {row_id!r}; `synthmill ls` shows artifacts, and every exported "
            "row has its id in the column `id`"
        )
    console = Console(emoji=False)
    told: dict[str, Any] = {}
    for step in steps:
        show_step(console, step, told)
        told |= step.row
    for artifact, row in drops:
        console.print(Text(f"{artifact}: dropped, {row.reason} {row.detail}".strip(), style="red"))


def show_step(console: Console, step: Step, told: dict[str, Any]) -> None:
    """What is new in this artifact, and the calls it took."""
    identity = step.manifest.identity
    prompts = ", ".join(f"{name}@{hash}" for name, hash in identity.get("prompts", {}).items())
    console.print()
    console.print(
        Text.assemble((step.manifest.reference, "bold"), f"  row {step.row['id']}", (f"  {prompts}", "dim")),
        soft_wrap=True,
    )
    for name, value in step.row.items():
        if name in ("id", "parent_id") or value in (None, "", []) or told.get(name) == value:
            continue
        said = value if isinstance(value, str) else format_value(value)
        console.print(Text.assemble((f"  {name}: ", "cyan"), shortened(said, FIELD)))
    for call in step.calls:
        show_call(console, call)


def show_call(console: Console, call: Call) -> None:
    asked = call.messages[-1][1] if call.messages else ""
    tokens = f"{call.prompt_tokens:,} + {call.completion_tokens:,} tokens"
    console.print(Text(f"  call {call.key[:12]}, {call.role} {call.engine}, {tokens}", style="dim"))
    console.print(Text(f"    asked: {shortened(asked, ASKED)}", style="dim"))
    console.print(Text(f"    answered: {shortened(call.text, ASKED)}"))
