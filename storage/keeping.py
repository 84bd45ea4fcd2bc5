"""Keeping a store in order: whether all of it is as it was written, and what nobody needs any more."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from schemas.artifacts import Manifest, PartSeal
from schemas.errors import StoreError, SynthmillError
from storage.artifacts import Store, files_whole, is_whole, read_manifest
from storage.calls import checked_key, segment_files
from storage.dataset_folder import MARKER, check_whole
from storage.files import read_json
from storage.runs import read_run

DAY_S = 86_400


class Fault(NamedTuple):
    """Something that is not as it was written, and what to do."""

    place: str
    what: str


class Checked(NamedTuple):
    """How much was looked at."""

    artifacts: int
    parts: int
    rows: int
    answers: int


def verify(store: Store, faults: list[Fault]) -> Checked:
    """Read everything: checksums, counts, lineage, answers. Faults are added to the list."""
    manifests: list[Manifest] = []
    for path in sorted((store.root / "artifacts").glob("*/*.json")):
        try:
            manifests.append(read_manifest(path))
        except Exception as error:
            faults.append(Fault(str(path.relative_to(store.root)), str(error)))
    keys = {manifest.key: manifest for manifest in manifests}
    parts = {seal.file: seal for manifest in manifests for seal in manifest.parts}
    for seal in parts.values():
        faults += check_part(store, seal)
    for manifest in manifests:
        if manifest.files and not files_whole(store.files_folder(manifest), manifest.files):
            faults.append(Fault(manifest.reference, "its files are not what was written; run its flow again"))
        for key, content in manifest.sources.items():
            if key not in keys:
                faults.append(Fault(manifest.reference, f"what it was made from is gone ({key[:8]})"))
            elif keys[key].content != content:
                faults.append(Fault(manifest.reference, f"{keys[key].reference} has changed; run its flow again"))
    faults += check_runs(store, set(keys))
    answers = sum(check_segment(store, path, faults) for path in segment_files(store.calls))
    return Checked(len(manifests), len(parts), sum(seal.rows for seal in parts.values()), answers)


def check_runs(store: Store, keys: set[str]) -> Iterator[Fault]:
    """Whether runs can be read, and what finished ones made is there."""
    for path in sorted(store.runs.glob("*.json")):
        try:
            run = read_run(path)
        except (StoreError, ValueError) as error:
            yield Fault(str(path.relative_to(store.root)), f"it is damaged ({' '.join(str(error).split())[:100]})")
            continue
        if run.status != "finished":
            continue
        yield from (
            Fault(run.id, f"{stage.artifact}, which it made, is gone") for stage in run.stages if stage.key not in keys
        )
        if run.dataset:
            try:
                check_whole(store.root / "datasets" / Path(run.dataset).name)
            except SynthmillError as error:
                yield Fault(run.id, error.message)


def check_part(store: Store, seal: PartSeal) -> Iterator[Fault]:
    if not is_whole(store, seal):
        yield Fault(seal.file, "it does not match its checksum; run its flow again, it is made anew")
        return
    if (rows := pq.read_metadata(store.root / seal.file).num_rows) != seal.rows:
        yield Fault(seal.file, f"it has {rows:,} rows, its seal says {seal.rows:,}")
    if seal.dropped_file:
        gone = pq.read_metadata(store.root / seal.dropped_file).num_rows
        if gone != sum(seal.dropped.values()):
            yield Fault(seal.dropped_file, f"it has {gone:,} rows, its seal says {sum(seal.dropped.values()):,}")


def check_segment(store: Store, path: Path, faults: list[Fault]) -> int:
    """How many answers of a segment are whole; a line that is not counts as never written."""
    good = bad = 0
    with path.open("rb") as file:
        for line in file:
            whole = line.endswith(b"\n") and checked_key(line) is not None
            good += whole and line[9:10] == b"A"
            bad += not whole
    if bad:
        faults.append(
            Fault(str(path.relative_to(store.root)), f"{bad:,} lines are damaged; their answers are asked for again")
        )
    return good


class Garbage(NamedTuple):
    """A file or folder that nobody needs, why, and its size."""

    path: Path
    why: str
    size: int


def garbage(store: Store, days: float) -> Iterator[Garbage]:
    """What no run, dataset or other artifact refers to and is older than so many days; what killed processes left.

    Raises StoreError where a run, manifest or dataset cannot be read: what it refers to is not known.
    """
    for path in (store.root / "artifacts").glob("*/*.json"):
        read_manifest(path)
    until = time.time() - days * DAY_S
    manifests = {manifest.key: manifest for manifest in store.manifests()}
    needed = set(referred(store))
    ahead = list(needed)
    while ahead:
        manifest = manifests.get(ahead.pop())
        new = set(manifest.sources) - needed if manifest else set()
        needed |= new
        ahead += new
    kept = [manifest for key, manifest in manifests.items() if key in needed]
    parts = {seal.key for manifest in kept for seal in manifest.parts}
    folders = {store.files_folder(manifest) for manifest in kept}
    found = [
        (path, "an artifact of no run")
        for path in (store.root / "artifacts").glob("*/*.json")
        if path.stem not in needed
    ]
    found += [
        (path, "a part of no artifact")
        for path in (store.root / "parts").glob("*/*")
        if path.name.partition(".")[0] not in parts
    ]
    found += [(path, "files of no artifact") for path in (store.root / "files").glob("*/*") if path not in folders]
    found += [(path, "a lock of an artifact that is made") for path in store.lock_path("", "").parent.glob("*")]
    found += [(path, "left by a killed process") for path in store.root.rglob(".*.tmp")]
    for path, why in sorted(set(found)):
        if path.exists() and path.stat().st_mtime < until:
            yield Garbage(path, why, size_of(path))


def referred(store: Store) -> Iterator[str]:
    """Keys of the artifacts that runs and datasets name. Raises StoreError for one that cannot be read."""
    for path in store.runs.glob("*.json"):
        try:
            yield from (stage.key for stage in read_run(path).stages)
        except ValueError as error:
            raise StoreError(f"{path} is damaged; delete it if its run is not needed") from error
    for marker in (store.root / "datasets").glob(f"*/{MARKER}"):
        yield from read_json(marker).get("artifacts", {}).values()


def size_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
