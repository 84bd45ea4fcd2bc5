"""`synthmill show`: an artifact; or a row's lineage, from its input through every stage, with the calls it took."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.text import Text

from synthmill.flows.commands.existing_store import existing_store
from synthmill.flows.terminal.tables import format_value, print_json, shortened
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import InputError
from synthmill.storage.artifacts import Store, read_dropped, read_manifest, read_part
from synthmill.storage.lineage import Call, Step, lineage_of
from synthmill.storage.runs import runs

FIELD, MESSAGE = 400, 300  # characters
ROW_ID = re.compile("[0-9a-f]{24}")
"""What ids that are content hashes look like."""


def show_name(place: Path, name: str, rows: int, as_json: bool = False) -> None:
    """Print the artifact of this name, or else the lineage of this row. Raises InputError where there is neither.

    What looks like the id of a row is looked up as one first: each look opens the catalog.
    """
    store = existing_store(place)
    if ROW_ID.fullmatch(name):
        is_there = show_lineage(store, name, as_json) or show_artifact(store, name, rows, as_json)
    else:
        is_there = show_artifact(store, name, rows, as_json) or show_lineage(store, name, as_json)
    if not is_there:
        raise InputError(
            f"{store.root} has no artifact and no row {name!r}; `synthmill ls` shows artifacts, and every exported "
            "row has its id in the column `id`"
        )


def show_artifact(store: Store, name: str, rows: int, as_json: bool = False) -> bool:
    """Print an artifact; False where none has this name."""
    artifact = find_artifact(store, name)
    if artifact is None:
        return False
    manifest, sources = artifact
    parts = manifest.parts if manifest.dropped else ()
    dropped = list(islice((row for seal in parts for row in read_dropped(store, seal)), rows))
    if as_json:
        described = {"artifact": manifest.reference, **manifest.model_dump(mode="json", exclude={"parts"})}
        kept = list(first_rows(store, manifest, rows))
        print_json({**described, "made_from": sources, "first_rows": kept, "first_dropped": [*map(dict, dropped)]})
        return True
    console = Console(emoji=False)
    print_manifest(console, manifest, sources)
    if manifest.dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items())
        console.print(f"  dropped: {reasons}", markup=False)
        for row in dropped:
            console.print(f"    {row.id}: {row.reason} {row.detail}"[:300], highlight=False, markup=False)
    print_rows(console, store, manifest, rows)
    return True


def find_artifact(store: Store, name: str) -> tuple[Manifest, list[str]] | None:
    """By reference, by key or its beginning, by stage (the latest), or by step (of the latest run
    that has it); with the names of what it was made from.
    """
    from synthmill.storage.catalog import open_catalog

    with open_catalog(store, calls=False) as catalog:
        row = catalog.execute(
            "SELECT stage, key FROM artifacts WHERE artifact = $name OR stage = $name "
            "OR (length($name) >= 6 AND starts_with(key, $name)) ORDER BY made_at DESC LIMIT 1",
            {"name": name},
        ).fetchone() or step_of_latest_run(store, name)
        if row is None:
            return None
        manifest = read_manifest(store.manifest_path(*row))
        references = catalog.execute(
            "SELECT key, artifact FROM artifacts WHERE key IN (SELECT unnest(?))", [list(manifest.sources)]
        ).fetchall()
    return manifest, [dict(references).get(key, key) for key in manifest.sources]


def step_of_latest_run(store: Store, step: str) -> tuple[str, str] | None:
    """Stage and key of the latest artifact that a run called so."""
    steps = (made for run in reversed(list(runs(store))) for made in run.stages)
    return next(((made.stage, made.key) for made in steps if made.step_id == step), None)


def print_manifest(console: Console, manifest: Manifest, sources: list[str]) -> None:
    """How an artifact was made, of what, and what it took."""
    console.print(
        f"[bold]{manifest.reference}[/bold]  {manifest.rows:,} rows of {manifest.rows_in:,}, "
        f"{len(manifest.parts)} parts"
    )
    console.print(f"made {manifest.made_at} by run {manifest.run}", highlight=False)
    for name, value in manifest.identity.items():
        if value not in ("", {}, []):
            text = value if isinstance(value, str) else orjson.dumps(value).decode()
            console.print(f"  {name}: {text}", soft_wrap=True, highlight=False, markup=False)
    for source in sources:
        console.print(f"  made from: {source}", highlight=False)
    for role, spent in manifest.spent.items():
        numbers = ", ".join(f"{number:,} {what}" for what, number in spent.items() if number)
        console.print(f"  {role}: {numbers}", highlight=False, markup=False)
    if manifest.notes:
        notes = orjson.dumps(manifest.notes).decode()
        console.print(f"  notes: {notes}", soft_wrap=True, highlight=False, markup=False)
    console.print("  columns: " + ", ".join(manifest.columns), soft_wrap=True, highlight=False, markup=False)


def print_rows(console: Console, store: Store, manifest: Manifest, count: int) -> None:
    """The first rows of an artifact, a line per column."""
    for row in first_rows(store, manifest, count):
        console.print()
        for column, value in row.items():
            text = " ".join(str(value).split())
            text = f"{text[:FIELD]}{'…' if len(text) > FIELD else ''}"
            console.print(f"  {column}: {text}", highlight=False, markup=False, soft_wrap=True)


def first_rows(store: Store, manifest: Manifest, count: int) -> Iterator[dict[str, Any]]:
    parts = (read_part(store, seal) for seal in manifest.parts)
    return islice((row for part in parts for row in part.slice(0, count).to_pylist()), count)


def show_lineage(store: Store, row_id: str, as_json: bool = False) -> bool:
    """Print a row's way through every stage; False where no artifact has such a row."""
    steps, drops = lineage_of(store, row_id)
    if not steps and not drops:
        return False
    ids = step_ids_of(store)
    if as_json:
        way = [
            {"step": ids.get(step.manifest.key, step.manifest.stage), "artifact": step.manifest.reference}
            | {"row": step.row, "calls": [call._asdict() for call in step.calls]}
            for step in steps
        ]
        print_json({"steps": way, "dropped": [{"artifact": artifact, **dict(row)} for artifact, row in drops]})
        return True
    console = Console(emoji=False)
    printed: dict[str, Any] = {}
    for step in steps:
        print_step(console, step, ids.get(step.manifest.key, ""), printed)
        printed |= step.row
    for artifact, row in drops:
        console.print(Text(f"{artifact}: dropped, {row.reason} {row.detail}".strip(), style="red"))
    return True


def step_ids_of(store: Store) -> dict[str, str]:
    """What the latest run that used an artifact calls its step, by the artifact's key, where that is not its stage."""
    stages = (stage for run in runs(store) for stage in run.stages)
    return {stage.key: stage.step_id for stage in stages if stage.step_id != stage.stage}


def print_step(console: Console, step: Step, step_id: str, printed: Mapping[str, Any]) -> None:
    """What is new in this artifact, and the calls it took. printed: the values of the steps before."""
    prompts = ", ".join(f"{name}@{hash}" for name, hash in step.manifest.identity.get("prompts", {}).items())
    console.print()
    console.print(
        Text.assemble(
            (f"{step_id}  " if step_id else "", "bold"),
            (step.manifest.reference, "bold"),
            f"  row {step.row['id']}",
            (f"  {prompts}", "dim"),
        ),
        soft_wrap=True,
    )
    for name, text in prompt_texts(step.manifest.identity).items():
        console.print(Text.assemble((f"  {name}: ", "cyan"), (shortened(text, FIELD), "dim")))
    for name, value in step.row.items():
        if name in ("id", "parent_id") or value in (None, "", []) or printed.get(name) == value:
            continue
        text = value if isinstance(value, str) else format_value(value)
        console.print(Text.assemble((f"  {name}: ", "cyan"), shortened(text, FIELD)))
    for call in step.calls:
        print_call(console, call)


def prompt_texts(identity: Mapping[str, Any]) -> dict[str, str]:
    """The templates that the identity of a stage holds, by the names of its prompts; none for other stages' files."""
    settings = identity.get("settings", {})
    if "own_prompts" not in settings:
        return {}
    stage, own_prompts = identity["stage"], settings["own_prompts"]
    several = {f"{stage}/{name}": str(own["prompt"]) for name, own in own_prompts}
    return several or {name: str(settings["prompt"]) for name in identity["prompts"]}


def print_call(console: Console, call: Call) -> None:
    question = call.messages[-1][1] if call.messages else ""
    tokens = f"{call.prompt_tokens:,} + {call.completion_tokens:,} tokens"
    console.print(Text(f"  call {call.key[:12]}, {call.role} {call.engine}, {tokens}", style="dim"))
    console.print(Text(f"    asked: {shortened(question, MESSAGE)}", style="dim"))
    console.print(Text(f"    answered: {shortened(call.text, MESSAGE)}"))
