"""Keep a store in order: verify that all of it is as it was written, and find what nobody needs any more."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from synthmill.schemas.artifacts import Manifest, PartSeal
from synthmill.schemas.errors import StoreError, SynthmillError
from synthmill.storage.artifacts import Store, are_files_whole, is_whole, read_manifest, read_seal
from synthmill.storage.call_index import runs_of
from synthmill.storage.calls import CallStore
from synthmill.storage.files import read_json
from synthmill.storage.published.folder import MARKER, check_whole
from synthmill.storage.runs import read_run
from synthmill.storage.segments import checked_key, sealed_sizes, segment_files, segment_sizes

DAY_S = 86_400


class Fault(NamedTuple):
    """Something that is not as it was written, with the remedy."""

    place: str
    what: str


class VerifyCounts(NamedTuple):
    """How much `verify` read."""

    artifacts: int
    parts: int
    rows: int
    answers: int


def verify(store: Store, faults: list[Fault]) -> VerifyCounts:
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
        if manifest.files and not are_files_whole(store.files_folder(manifest), manifest.files):
            faults.append(Fault(manifest.reference, "its files are not what was written; run its flow again"))
        for key, content in manifest.sources.items():
            if key not in keys:
                faults.append(Fault(manifest.reference, f"what it was made from is gone ({key[:8]})"))
            elif keys[key].content != content:
                faults.append(Fault(manifest.reference, f"{keys[key].reference} has changed; run its flow again"))
    faults += check_runs(store, set(keys))
    answers = check_calls(store, faults)
    return VerifyCounts(len(manifests), len(parts), sum(seal.rows for seal in parts.values()), answers)


def check_runs(store: Store, keys: set[str]) -> Iterator[Fault]:
    """Check that runs can be read, and that the artifacts and datasets of finished runs exist."""
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
        drops = pq.read_metadata(store.root / seal.dropped_file).num_rows
        if drops != sum(seal.dropped.values()):
            yield Fault(seal.dropped_file, f"it has {drops:,} rows, its seal says {sum(seal.dropped.values()):,}")


def check_calls(store: Store, faults: list[Fault]) -> int:
    """Check that segments are whole and that look-ups find every undamaged answer; returns how many there are."""
    calls = CallStore(store.calls)
    count = 0
    sizes = segment_sizes(store.calls)
    for name, size in sealed_sizes(runs_of(store.calls)).items():
        if sizes.get(name, -1) < size:
            problem = "gone" if name not in sizes else f"{sizes[name]:,} bytes long, and was {size:,}"
            faults.append(Fault(f"calls/{name}", f"it is {problem}; its answers are asked for again"))
    suspects: dict[Path, list[bytes]] = {}
    for path in segment_files(store.calls):
        keys, damaged = check_segment(path)
        count += len(keys)
        if damaged:
            problem = f"{damaged:,} lines are damaged; their answers are asked for again"
            faults.append(Fault(str(path.relative_to(store.root)), problem))
        if unfound := [key for key in keys if calls.find(key) is None]:
            suspects[path] = unfound
    calls.refresh()  # some answers are newer than the index
    for path, unfound in suspects.items():
        if missing := sum(calls.find(key) is None for key in unfound):
            remedy = "delete calls/*.index, they are made again"
            problem = f"{missing:,} answers are whole, and look-ups do not find them; {remedy}"
            faults.append(Fault(str(path.relative_to(store.root)), problem))
    return count


def check_segment(path: Path) -> tuple[list[bytes], int]:
    """Keys of a segment's undamaged answers, and how many lines are damaged: these count as never written."""
    keys, damaged = [], 0
    with path.open("rb") as file:
        for line in file:
            key = checked_key(line) if line.endswith(b"\n") else None
            damaged += key is None
            if key is not None and line[9:10] == b"A":
                keys.append(key)
    return keys, damaged


class Garbage(NamedTuple):
    """A file or folder that nobody needs, why, and its size."""

    path: Path
    why: str
    size: int


def garbage(store: Store, days: float) -> Iterator[Garbage]:
    """Files older than `days` that no run, dataset or other artifact refers to, and leftovers of killed processes.

    Raises StoreError where a run, manifest or dataset cannot be read, since its references are then unknown.
    """
    paths = list((store.root / "artifacts").glob("*/*.json"))
    manifests = {path.stem: ArtifactNeeds.of(read_manifest(path), store) for path in paths}
    cutoff = time.time() - days * DAY_S
    needed = set(referenced_keys(store))
    queue = list(needed)
    while queue:
        manifest = manifests.get(queue.pop())
        new = manifest.sources - needed if manifest else set()
        needed |= new
        queue += new
    kept = [manifest for key, manifest in manifests.items() if key in needed]
    parts = set[str]().union(*(manifest.parts for manifest in kept))
    files = set[Path]().union(*(manifest.files for manifest in kept))
    folders = {manifest.folder for manifest in kept}
    reasons = {path: "an artifact of no run" for path in paths if path.stem not in needed}
    for path in files_below(store.root / "parts"):
        if key_of(path) not in parts:
            reasons[path] = "a part of no artifact"
        elif path.suffix == ".parquet" and path not in files | current_files(store, path):
            reasons[path] = "of a part that was made again"
    witness_files = (store.root / "whole").glob("*/*.json")
    present = {*manifests, *(path.name for path in (store.root / "datasets").glob("*"))}
    reasons |= {path: "of an artifact or a dataset that is gone" for path in witness_files if path.stem not in present}
    reasons |= {path: "files of no artifact" for path in (store.root / "files").glob("*/*") if path not in folders}
    reasons |= dict.fromkeys(store.lock_path("", "").parent.glob("*"), "a lock of an artifact that is made")
    reasons |= dict.fromkeys(store.root.rglob(".*.tmp*"), "left by a killed process")
    for path, reason in sorted(reasons.items()):
        if path.exists() and path.stat().st_mtime < cutoff:
            yield Garbage(path, reason, size_of(path))


class ArtifactNeeds(NamedTuple):
    """What an artifact needs: keys of its sources and parts, its files, and its folder of other files."""

    sources: set[str]
    parts: set[str]
    files: set[Path]
    folder: Path

    @classmethod
    def of(cls, manifest: Manifest, store: Store) -> "ArtifactNeeds":
        names = [name for seal in manifest.parts for name in (seal.file, seal.dropped_file) if name]
        files = {store.root / name for name in names}
        return cls(set(manifest.sources), {seal.key for seal in manifest.parts}, files, store.files_folder(manifest))


def current_files(store: Store, path: Path) -> set[Path]:
    """The files that a part's seal names: the part may belong to no artifact yet."""
    stage = path.relative_to(store.root / "parts").parts[0]
    seal = read_seal(store, stage, key_of(path))
    return {store.root / name for name in (seal.file, seal.dropped_file) if name} if seal else {path}


def files_below(folder: Path) -> Iterator[Path]:
    return (Path(root, name) for root, _, names in os.walk(folder) for name in names)


def key_of(path: Path) -> str:
    """The key of the part that a file belongs to: KEY.parquet, KEY.dropped.parquet, KEY.json."""
    return path.name.partition(".")[0]


def referenced_keys(store: Store) -> Iterator[str]:
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
