"""`synthmill export`: a run's dataset in trainers' formats, split, with its card, to a folder or to the Hub."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from flows.card import publishable
from flows.looking import open_store
from flows.plans import FLOWS
from flows.report import PAGE, report_page
from schemas.errors import InputError
from storage.artifacts import Store
from storage.dataset_folder import Dataset, is_ours, read_dataset, write_dataset
from storage.files import scratch
from storage.formats import Format, formatted
from storage.hub import planned, push
from storage.leaks import check_no_secret
from storage.lines import HUB
from storage.runs import RunRecord, find_run, manifests_of
from storage.splits import split_by_prompt


class Export(NamedTuple):
    """What is asked for. to: a folder, or hf://datasets/OWNER/NAME; test: the share of rows for testing."""

    run: str
    to: str
    formats: Sequence[Format]
    test: float = 0.0
    shard_bytes: int = 256 << 20
    license: str = ""
    private: bool = False
    revision: str = ""
    tag: str = ""
    force: bool = False
    dry_run: bool = False


def export(place: Path, asked: Export) -> None:
    """Write or push, and say what and where.

    Raises InputError before anything is written, StoreError where the Hub fails.
    """
    store = open_store(place)
    run = find_run(store, asked.run)
    to = Path(asked.to).expanduser().resolve()
    on_hub = asked.to.startswith(HUB)
    if not on_hub:
        check_place(to, asked.force)
    dataset, card = prepared(store, run, asked)
    check_no_secret(dataset, card)
    if not on_hub and not asked.dry_run:
        write_dataset(to, dataset, card, asked.shard_bytes)
        print(f"{dataset.rows:,} rows -> {to}", file=sys.stderr)
        return
    with scratch(store.root, "export") as folder:
        write_dataset(folder, dataset, card, asked.shard_bytes)
        if on_hub:
            push_to_hub(folder, dataset, run, asked)
        else:
            list_files(folder, {})


def prepared(store: Store, run: RunRecord, asked: Export) -> tuple[Dataset, str]:
    """A run's dataset as it is asked for, and its card. Raises InputError where there is none, or no format suits."""
    if not run.dataset:
        raise InputError(
            f"run {run.id} ({run.flow}) is {run.status} and has no dataset; run its flow again to finish it"
        )
    made = read_dataset(store.root / "datasets" / Path(run.dataset).name)
    tables, files = formatted(split_by_prompt(made.tables, asked.test), asked.formats)
    return publishable(
        store,
        run.flow,
        replace(made, tables=tables, files={**made.files, **files, PAGE: report_page(store, run, made).encode()}),
        manifests_of(store, run),
        FLOWS[run.flow][0].model_validate(run.settings),
        place=asked.to.removeprefix(HUB) if asked.to.startswith(HUB) else Path(asked.to).name,
        run=run.id,
        parted=asked.test > 0,
        license=asked.license,
    )


def check_place(to: Path, force: bool) -> None:
    """Raises InputError where something else would be written over."""
    if not force and not is_ours(to):
        raise InputError(f"{to} holds something else; choose another folder, or write into this one with --force")


def list_files(folder: Path, doing: Mapping[str, str]) -> None:
    """What would be written, with sizes, and what would be done with it."""
    from rich.console import Console

    from flows.looking import table

    shown = table("file", "bytes", "", numbers=("bytes",))
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = str(path.relative_to(folder))
        shown.add_row(name, f"{path.stat().st_size:,}", doing.get(name, "write"))
    Console(emoji=False).print(shown)


def push_to_hub(folder: Path, dataset: Dataset, run: RunRecord, asked: Export) -> None:
    """Send a written dataset; in a dry run only say what would be sent."""
    repo = asked.to.removeprefix(HUB).strip("/")
    if asked.dry_run:
        list_changes(folder, repo, asked)
        return
    done = push(
        folder,
        repo,
        f"synthmill {run.flow}, run {run.id}",
        private=asked.private,
        revision=asked.revision,
        tag=asked.tag,
        default_tag=run.id,
        force=asked.force,
        tell=lambda said: print(said, file=sys.stderr, flush=True),
    )
    sent, deleted = len(done.changes.sent), len(done.changes.deleted)
    what = (
        f"{sent} files sent, {len(done.changes.same)} as they were, {deleted} deleted"
        if sent or deleted
        else "nothing to send"
    )
    print(f"{dataset.rows:,} rows -> {done.url}: {what}; tag {done.tag}", file=sys.stderr)
    print(f'load_dataset("{repo}", revision="{done.tag}")')


def list_changes(folder: Path, repo: str, asked: Export) -> None:
    """What a push would do; raises InputError as it would."""
    changes = planned(folder, repo, asked.revision, asked.force)
    list_files(folder, {**dict.fromkeys(changes.sent, "send"), **dict.fromkeys(changes.same, "same")})
    for name in changes.deleted:
        print(f"deleted on the Hub: {name}")
