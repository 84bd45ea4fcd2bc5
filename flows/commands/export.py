"""`synthmill export`: a run's dataset in trainers' formats, split, with its card, to a folder or to the Hub."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from flows.commands.existing_store import open_store
from flows.pages.card import CONFIG, config_file, with_card
from flows.pages.report import PAGE, report_page
from schemas.errors import InputError
from schemas.export_settings import ExportSettings
from schemas.hashing import content_hash
from storage.artifacts import Store
from storage.files import locked, scratch_folder
from storage.plain_files.lines import HUB
from storage.published.folder import CARD, Dataset, card_for, files_of, is_ours, marker_of, read_dataset, write_dataset
from storage.published.formats import format_tables
from storage.published.hub import Target, plan_push, push
from storage.published.leaks import check_no_secret
from storage.published.provenance import public_file
from storage.published.splits import split_by_prompt
from storage.runs import RunRecord, find_run, manifests_of


def export(asked: ExportSettings, dry_run: bool = False) -> dict[str, Any]:
    """Write or push; says what and where, and returns it. dry_run: only say.

    Raises InputError before anything is written, StoreError where the Hub fails.
    """
    store = open_store(Path(asked.store))
    run = find_run(store, asked.run, published=True)
    to = Path(asked.to).expanduser().resolve()
    on_hub = asked.to.startswith(HUB)
    if not on_hub:
        check_place(to, asked, store)
    dataset, card = prepared(store, run, asked)
    check_no_secret(dataset, card)
    if not on_hub and not asked.force:
        check_same(to, dataset)
    told = {"run": run.id, "to": asked.to, "rows": dataset.rows}
    kept = [] if on_hub else card_for(to, card, force=asked.force).kept
    if not on_hub and not dry_run:
        with locked(store.lock_path("export", content_hash(str(to))[:16]), lambda: None):
            write_dataset(to, dataset, card, force=asked.force, overwritten=tell_overwritten)
        print_kept(kept)
        print(f"{dataset.rows:,} rows -> {to}", file=sys.stderr)
        return told
    with scratch_folder(store.root, "export") as folder:
        write_dataset(folder, dataset, card)
        if not on_hub:
            list_files(folder, {})
            there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
            print("".join(f"deleted: {name}\n" for name in sorted(files_of(to) - there)), end="")
            print_kept(kept)
        elif dry_run:
            list_changes(folder, run, asked)
        else:
            told |= push_to_hub(folder, dataset, run, asked)
    return told


def tell_overwritten(name: str) -> None:
    print(f"{name} was not written by synthmill, and is written over", file=sys.stderr)


def print_kept(kept: Sequence[str]) -> None:
    """What of a card's owner stays in it."""
    for what in kept:
        print(f"kept in {CARD}, as its owner has it: {what}", file=sys.stderr)


def prepared(store: Store, run: RunRecord, asked: ExportSettings) -> tuple[Dataset, str]:
    """A run's dataset as it is asked for, and its card. Raises InputError where it is gone, or no format suits.

    The run may be another version's: its settings are taken as they were written, not as today's.
    """
    made = read_dataset(store.root / "datasets" / Path(run.dataset).name)
    tables, files = format_tables(split_by_prompt(made.tables, asked.test), asked.formats)
    beside = {name: public_file(name, data) for name, data in made.files.items() if isinstance(data, bytes)}
    beside[CONFIG] = config_file(yaml.safe_load(beside[CONFIG]) if CONFIG in beside else run.settings)
    page = report_page(store, run, made).encode()
    return with_card(
        store,
        run.flow,
        replace(made, tables=tables, files={**beside, **files, PAGE: page}, shard_bytes=asked.shard_bytes),
        manifests_of(store, run),
        run.settings,
        place=asked.to.removeprefix(HUB) if asked.to.startswith(HUB) else Path(asked.to).resolve().name,
        run=run.id,
        parted=asked.test > 0,
        license=asked.license,
    )


def check_place(to: Path, asked: ExportSettings, store: Store) -> None:
    """Raises InputError where something else would be written over."""
    if asked.to.startswith("hf:"):
        raise InputError(f"{asked.to} is no place on the Hub; expected {HUB}OWNER/NAME")
    if blocking := next((one for one in (to, *to.parents) if one.exists() and not one.is_dir()), None):
        raise InputError(f"{blocking} is a file; expected a folder")
    if set("[]*?") & set(str(to)):
        print(f"`datasets` cannot load from {to} by its name: brackets and stars mean something to it", file=sys.stderr)
    if to == store.root or store.root in to.parents or to in store.root.parents:
        raise InputError(f"{to} and the store {store.root} lie within each other; choose another folder")
    if not asked.force and not is_ours(to):
        raise InputError(f"{to} holds something else; choose another folder, or write into this one with --force")


def check_same(to: Path, dataset: Dataset) -> None:
    """Raises InputError where a folder holds another dataset of ours."""
    there = marker_of(to)
    for what in ("flow", "sources"):
        if there and there.get(what) != dataset.facts[what]:
            raise InputError(
                f"{to} holds another dataset: its {what} is {there.get(what)}, here it is {dataset.facts[what]}; "
                "choose another folder, or --force"
            )


def list_files(folder: Path, doing: Mapping[str, str]) -> None:
    """What would be written, with sizes, and what would be done with it."""
    from rich.console import Console

    from flows.terminal.tables import table

    shown = table("file", "bytes", "", numbers=("bytes",))
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = str(path.relative_to(folder))
        shown.add_row(name, f"{path.stat().st_size:,}", doing.get(name, "write"))
    Console(emoji=False).print(shown)


def push_to_hub(folder: Path, dataset: Dataset, run: RunRecord, asked: ExportSettings) -> dict[str, Any]:
    """Send a written dataset; its commit and tag."""
    target = target_of(run, asked)
    message = f"synthmill {run.flow}, run {run.id}"
    done = push(folder, target, message, lambda said: print(said, file=sys.stderr, flush=True))
    print_kept(done.changes.kept)
    sent, deleted = len(done.changes.sent), len(done.changes.deleted)
    what = f"{sent} files sent, {len(done.changes.same)} as they were, {deleted} deleted"
    if not sent and not deleted:
        what = "nothing to send"
    print(f"{dataset.rows:,} rows -> {done.url}: {what}; tag {done.tag}", file=sys.stderr)
    print(f'load_dataset("{target.repo}", revision="{done.tag}")')
    return {"commit": done.commit, "tag": done.tag, "sent": sent}


def target_of(run: RunRecord, asked: ExportSettings) -> Target:
    repo = asked.to.removeprefix(HUB).strip("/")
    return Target(repo, asked.private, asked.revision, asked.tag, default_tag=run.id, force=asked.force)


def list_changes(folder: Path, run: RunRecord, asked: ExportSettings) -> None:
    """What a push would do; raises InputError as it would."""
    changes = plan_push(folder, target_of(run, asked))
    list_files(folder, {**dict.fromkeys(changes.sent, "send"), **dict.fromkeys(changes.same, "same")})
    for name in changes.deleted:
        print(f"deleted on the Hub: {name}")
    print_kept(changes.kept)
