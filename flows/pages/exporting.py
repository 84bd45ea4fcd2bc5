"""A run's dataset in trainers' formats, split, with its card, to a folder or to the Hub."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from synthmill.flows.pages.card import CONFIG, config_file, with_card
from synthmill.flows.pages.report import PAGE, report_page
from synthmill.schemas.errors import InputError
from synthmill.schemas.export_settings import ExportSettings
from synthmill.schemas.formats import ThinkingPlace
from synthmill.schemas.hashing import content_hash
from synthmill.storage.artifacts import Store
from synthmill.storage.files import locked, scratch_folder
from synthmill.storage.plain_files.lines import HUB
from synthmill.storage.published.configurations import Dataset
from synthmill.storage.published.folder import CARD, card_for, files_of, is_ours, marker_of, read_dataset, write_dataset
from synthmill.storage.published.for_trainer import tables_for
from synthmill.storage.published.formats import format_tables, unsuited_formats
from synthmill.storage.published.hub import Target, plan_push, push
from synthmill.storage.published.leaks import check_no_secret
from synthmill.storage.published.provenance import public_file
from synthmill.storage.published.rows import REASONING
from synthmill.storage.published.splits import split_by_prompt
from synthmill.storage.published.thinking import CLOSING, OPENING, place_in, thinking_counts
from synthmill.storage.runs import RunRecord, manifests_of
from synthmill.tasks.verifiers.verdicts import verifier_fault

GUARDED = ("safety_questions",)
"""Stages whose rows are for one purpose only, which their settings say."""


def export_run(
    store: Store, run: RunRecord, settings: ExportSettings, dry_run: bool = False, *, quiet: bool = False
) -> dict[str, Any]:
    """Write or push a run's dataset: what was written, and where. dry_run: only print what would be; quiet: do not say
    how many rows a folder got.

    Raises InputError before anything is written, StoreError where the Hub fails.
    """
    to = Path(settings.to).expanduser().resolve()
    on_hub = settings.to.startswith(HUB)
    if not on_hub:
        check_place(to, settings, store)
    dataset, card = prepare_dataset(store, run, settings)
    check_purpose(store, run, settings)
    check_no_secret(dataset, card)
    if not on_hub and not settings.force:
        check_same(to, dataset)
    summary = {"run": run.id, "to": settings.to, "rows": dataset.rows}
    kept_parts = [] if on_hub else card_for(to, card, force=settings.force).kept
    if not on_hub and not dry_run:
        with locked(store.lock_path("export", content_hash(str(to))[:16]), lambda: None):
            write_dataset(to, dataset, card, force=settings.force, overwritten=print_overwritten)
        print_kept(kept_parts)
        if not quiet:
            print(f"{dataset.rows:,} rows -> {to}", file=sys.stderr)
        return summary
    with scratch_folder(store.root, "export") as folder:
        write_dataset(folder, dataset, card)
        if not on_hub:
            list_files(folder, {})
            names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
            print("".join(f"deleted: {name}\n" for name in sorted(files_of(to) - names)), end="")
            print_kept(kept_parts)
        elif dry_run:
            list_changes(folder, run, settings)
        else:
            summary |= push_to_hub(folder, dataset, run, settings)
    return summary


def check_purpose(store: Store, run: RunRecord, settings: ExportSettings) -> None:
    """Raises InputError where a stage that made the rows says what they are for, and the export is not forced."""
    made_by = [manifest for manifest in manifests_of(store, run).values() if manifest.stage in GUARDED]
    purposes = {str(manifest.identity["settings"]["purpose"]) for manifest in made_by}
    if purposes and not settings.force:
        raise InputError(
            f"these rows were made for one purpose only ({'; '.join(sorted(purposes))}); "
            "if this export serves it, say so with --force"
        )


def print_overwritten(name: str) -> None:
    print(f"{name} was not written by synthmill, and is written over", file=sys.stderr)


def print_kept(parts: Sequence[str]) -> None:
    """Say which parts of a card stay as its owner wrote them."""
    for part in parts:
        print(f"kept in {CARD}, as its owner has it: {part}", file=sys.stderr)


def prepare_dataset(store: Store, run: RunRecord, settings: ExportSettings) -> tuple[Dataset, str]:
    """A run's dataset, split and in the chosen formats, and its card. Raises InputError where it is gone, or no format
    suits.

    The run may be another version's: its settings are taken as they were written, not as today's.
    """
    dataset = read_dataset(store.root / "datasets" / Path(run.dataset).name)
    parted = split_by_prompt(dataset.tables, settings.test)
    if settings.trainer:
        tables, files, readme, left_out, places = tables_for(parted, settings, verifier_fault)
        dataset = replace(dataset, loading=readme)
        if left_out:
            print(f"not for {settings.trainer}: {', '.join(left_out)}", file=sys.stderr)
    else:
        for name in unsuited_formats(dataset.tables, settings.formats):
            kinds = ", ".join(sorted({table.kind for table in dataset.tables.values()}))
            print(f"no configuration can be written as {name}; they hold {kinds}", file=sys.stderr)
        tables, files = format_tables(parted, settings.formats, settings.thinking)
        places = {place_in(name, settings.thinking) for name in settings.formats}
    thinking, answers = thinking_counts(dataset.tables)
    if thinking and settings.thinking != "field":
        dataset = replace(dataset, body=f"{dataset.body}\n{thinking_in_words(thinking, answers, places)}".lstrip())
    own_files = {name: public_file(name, data) for name, data in dataset.files.items() if isinstance(data, bytes)}
    own_files[CONFIG] = config_file(yaml.safe_load(own_files[CONFIG]) if CONFIG in own_files else run.settings)
    page = report_page(store, run, dataset).encode()
    return with_card(
        store,
        run.flow,
        replace(dataset, tables=tables, files={**own_files, **files, PAGE: page}, shard_bytes=settings.shard_bytes),
        manifests_of(store, run),
        run.settings,
        place=settings.to.removeprefix(HUB) if settings.to.startswith(HUB) else Path(settings.to).resolve().name,
        run=run.id,
        method=run.method,
        parted=settings.test > 0,
        license=settings.license,
    )


def thinking_in_words(thinking: int, answers: int, places: Collection[ThinkingPlace]) -> str:
    """The card's section on what models thought, by the places where an export has it."""
    says = {
        "field": f"in the field `{REASONING}` of the message",
        "text": f"in the text, between `{OPENING}` and `{CLOSING}`",
        "drop": "left out here",
    }
    where = " or ".join(says[place] for place in says if place in places)
    return f"## Thinking\n\n{thinking:,} of {answers:,} answers were thought about before: {where}.\n"


def check_place(to: Path, settings: ExportSettings, store: Store) -> None:
    """Raises InputError where something else would be written over."""
    if settings.to.startswith("hf:"):
        raise InputError(f"{settings.to} is no place on the Hub; expected {HUB}OWNER/NAME")
    if blocking := next((path for path in (to, *to.parents) if path.exists() and not path.is_dir()), None):
        raise InputError(f"{blocking} is a file; expected a folder")
    if set("[]*?") & set(str(to)):
        print(f"`datasets` cannot load from {to} by its name: brackets and stars mean something to it", file=sys.stderr)
    if to == store.root or store.root in to.parents or to in store.root.parents:
        raise InputError(f"{to} and the store {store.root} lie within each other; choose another folder")
    if not settings.force and not is_ours(to):
        raise InputError(f"{to} holds something else; choose another folder, or write into this one with --force")


def check_same(to: Path, dataset: Dataset) -> None:
    """Raises InputError where a folder holds another dataset of ours."""
    marker = marker_of(to)
    for what in ("flow", "sources"):
        if marker and marker.get(what) != dataset.facts[what]:
            raise InputError(
                f"{to} holds another dataset: its {what} is {marker.get(what)}, here it is {dataset.facts[what]}; "
                "choose another folder, or --force"
            )


def list_files(folder: Path, actions: Mapping[str, str]) -> None:
    """The files that would be written, with sizes. actions: what would be done, by file; default: write."""
    from rich.console import Console

    from synthmill.flows.terminal.tables import table

    lines = table("file", "bytes", "", numbers=("bytes",))
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = str(path.relative_to(folder))
        lines.add_row(name, f"{path.stat().st_size:,}", actions.get(name, "write"))
    Console(emoji=False).print(lines)


def push_to_hub(folder: Path, dataset: Dataset, run: RunRecord, settings: ExportSettings) -> dict[str, Any]:
    """Push a written dataset: its commit and tag."""
    target = target_of(run, settings)
    message = f"synthmill {run.flow}, run {run.id}"
    pushed = push(folder, target, message, lambda line: print(line, file=sys.stderr, flush=True))
    print_kept(pushed.changes.kept)
    sent, deleted = len(pushed.changes.sent), len(pushed.changes.deleted)
    what = f"{sent} files sent, {len(pushed.changes.same)} as they were, {deleted} deleted"
    if not sent and not deleted:
        what = "nothing to send"
    print(f"{dataset.rows:,} rows -> {pushed.url}: {what}; tag {pushed.tag}", file=sys.stderr)
    print(f'load_dataset("{target.repo}", revision="{pushed.tag}")')
    return {"commit": pushed.commit, "tag": pushed.tag, "sent": sent}


def target_of(run: RunRecord, settings: ExportSettings) -> Target:
    repo = settings.to.removeprefix(HUB).strip("/")
    return Target(repo, settings.private, settings.revision, settings.tag, default_tag=run.id, force=settings.force)


def list_changes(folder: Path, run: RunRecord, settings: ExportSettings) -> None:
    """Print what a push would do. Raises InputError where the push would."""
    changes = plan_push(folder, target_of(run, settings))
    list_files(folder, {**dict.fromkeys(changes.sent, "send"), **dict.fromkeys(changes.same, "same")})
    for name in changes.deleted:
        print(f"deleted on the Hub: {name}")
    print_kept(changes.kept)
