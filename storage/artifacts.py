"""Artifacts: Parquet parts in a common pool, each with a seal, and manifests that list them.

    store/parts/<stage>/<ke>/<key>.<sum>.parquet          kept rows, and per row the keys of the calls it was made from
    store/parts/<stage>/<ke>/<key>.<sum>.dropped.parquet  rows that could not be made, with the reason
    store/parts/<stage>/<ke>/<key>.json                   the seal, written last: without it the part does not exist
    store/files/<stage>/<key>/                   what is not Parquet: an index
    store/artifacts/<stage>/<key>.json           the manifest, written when every part is sealed
    store/whole/<stage>/<key>.json               what its files looked like when all of them matched their checksums

<ke>: the key's first two digits; <sum>: the first eight of the file's checksum, so that two
processes that make the same part at once never overwrite each other. Parts directly in <stage>, without <sum>, are
read as well.

A part is keyed by its stage's identity and the content of its own input rows, so artifacts over a source that grew
share the parts that did not change. A part that does not match its checksum is not used: it is made again.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from synthmill.schemas.artifacts import FORMAT, Loss, Manifest, PartSeal
from synthmill.schemas.errors import StoreError, SynthmillError
from synthmill.schemas.hashing import SETTLED_NS, HashedBytes, content_hash, file_checksum, file_witness
from synthmill.schemas.rows import Dropped, Row, from_arrow, to_arrow
from synthmill.storage.files import read_json, write_bytes, write_json, write_then_name
from synthmill.storage.sql import check_encoding

CALLS = "calls"
MARKER = "synthmill.json"
BUGS = ("recipe_error", "stage_error")
"""Reasons of rows that a bug in somebody's code dropped."""


@dataclass(frozen=True)
class Store:
    """One folder that holds everything of a project's runs."""

    root: Path
    retry_lost: bool = False
    """Whether this run asks again for answers that failing engines lost in two runs."""

    @property
    def calls(self) -> Path:
        return self.root / "calls"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def catalog(self) -> Path:
        return self.root / "catalog.duckdb"

    def prepare(self) -> None:
        """Make the folder; raises StoreError when it cannot be written or is not a synthmill store."""
        marker = self.root / MARKER
        check_encoding(str(self.root))
        try:
            if self.root.exists() and not self.root.is_dir():
                raise StoreError(f"{self.root} is a file; choose a folder with --store")
            ours = marker.exists() or (self.root / "artifacts").is_dir()
            if not ours and self.root.is_dir() and any(MARKER not in path.name for path in self.root.iterdir()):
                raise StoreError(f"{self.root} is no synthmill store and not empty; choose another folder")
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)  # private until its owner opens it to others
            if not marker.exists():
                write_marker(self, FORMAT)  # fails now, not after a day of work
            self.check_format()
            for folder in ("artifacts", "parts", "calls", "runs"):
                (self.root / folder).mkdir(exist_ok=True)
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot write {self.root}: {error}; choose another folder with --store") from error

    def check_format(self) -> None:
        """Raises StoreError for a store of another format, and for one whose marker is damaged."""
        if (self.root / MARKER).exists() and (number := format_of(self)) < FORMAT:
            raise StoreError(
                f"{self.root} has store format {number}, this synthmill reads {FORMAT}; bring it there with "
                f"`synthmill migrate --store {self.root}`"
            )

    def manifest_path(self, stage: str, key: str) -> Path:
        return self.root / "artifacts" / stage / f"{key}.json"

    def lock_path(self, stage: str, key: str) -> Path:
        """The lock of an artifact: one process makes it, others wait and find it."""
        return self.root / "locks" / f"{stage}-{key}"

    def witness_path(self, manifest: Manifest) -> Path:
        return self.root / "whole" / manifest.stage / f"{manifest.key}.json"

    def seal_path(self, stage: str, key: str) -> Path:
        return self.root / "parts" / stage / key[:2] / f"{key}.json"

    def flat_seal_path(self, stage: str, key: str) -> Path:
        """Where seals were before folders fanned out."""
        return self.root / "parts" / stage / f"{key}.json"

    def files_folder(self, manifest: Manifest) -> Path:
        """The folder of an artifact's files that are not Parquet."""
        return self.root / "files" / manifest.stage / manifest.key

    def manifests(self) -> Iterator[Manifest]:
        """Every artifact, the oldest first, without damaged manifests, which their stages make again."""
        manifests = []
        for path in (self.root / "artifacts").glob("*/*.json"):
            try:
                manifests.append(read_manifest(path))
            except StoreError:
                continue
        yield from sorted(manifests, key=lambda manifest: manifest.made_at)


def format_of(store: Store) -> int:
    """Raises StoreError for a folder that is no store, and for a store of a newer synthmill."""
    number = read_json(store.root / MARKER).get("format")
    if not isinstance(number, int) or not 0 < number <= FORMAT:
        raise StoreError(
            f"{store.root} has store format {number}, this synthmill reads {FORMAT}; upgrade synthmill, or choose "
            "another --store"
        )
    return number


def write_marker(store: Store, number: int) -> None:
    write_json(store.root / MARKER, {"format": number, "what": "a synthmill store"})


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; raises StoreError that names the file and the remedy."""
    try:
        return Manifest.model_validate(read_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        raise StoreError(
            f"{path} is damaged or from another version ({field}: {fault['msg']}); delete it and run again"
        ) from error


def read_seal(store: Store, stage: str, key: str) -> PartSeal | None:
    """The seal of a part, without a look at its files; None where no seal can be read."""
    for path in (store.seal_path(stage, key), store.flat_seal_path(stage, key)):
        if path.exists():
            with suppress(StoreError, ValidationError):
                return PartSeal.model_validate(read_json(path))
    return None


def sealed_part(store: Store, stage: str, key: str) -> PartSeal | None:
    """The seal of a part whose files match it and that has no answer left to ask for; else None."""
    seal = read_seal(store, stage, key)
    return seal if seal and is_settled(store, seal) and is_whole(store, seal) else None


def is_settled(store: Store, seal: PartSeal) -> bool:
    """Whether a part has no answer left to ask for: a lost answer is asked for in two runs, later only on demand.

    Rows that a bug in a recipe or in a stage of the user's dropped are made again on demand, too.
    """
    has_bugs = not seal.dropped.keys().isdisjoint(BUGS)
    return seal.is_settled and not (store.retry_lost and (seal.lost_answers or has_bugs))


def losses_of(store: Store, stage: str, key: str) -> dict[str, Loss]:
    """The answers that earlier runs lost in a part, by call key; empty with `retry_lost`, which asks for all again."""
    seal = read_seal(store, stage, key)
    return {} if seal is None or store.retry_lost else seal.lost


def is_whole(store: Store, seal: PartSeal) -> bool:
    """Whether a part's files exist and match their checksums."""
    files = [(seal.file, seal.checksum), (seal.dropped_file, seal.dropped_checksum)]
    try:
        return all(file_checksum(store.root / file) == checksum for file, checksum in files if file)
    except OSError:
        return False


def sealed_artifact(store: Store, stage: str, key: str, sources: Mapping[str, str]) -> Manifest | None:
    """The manifest of a finished artifact: readable, with unchanged sources and whole, settled parts; else None."""
    path = store.manifest_path(stage, key)
    if not path.exists():
        return None
    try:
        manifest = read_manifest(path)
    except StoreError:
        return None
    if manifest.sources != dict(sources) or not all(is_settled(store, seal) for seal in manifest.parts):
        return None
    return manifest if is_artifact_whole(store, manifest) else None


def is_artifact_whole(store: Store, manifest: Manifest) -> bool:
    """Whether every file of an artifact exists and matches its checksum; see `match_checksums`."""
    return match_checksums(artifact_files(store, manifest), store.witness_path(manifest), digest_of(manifest))


def match_checksums(files: Mapping[Path, str], memory: Path, digest: str) -> bool:
    """Whether files, path -> checksum, exist and match. Files that matched once, and that nobody has changed since, are
    not read again here; `verify` reads them, and so does every use of their rows.

    memory: a file that says what they looked like when all of them matched; digest: identifies all checksums together.
    """
    try:
        witnesses = [list(file_witness(path)) for path in files]
    except OSError:
        return False
    if remembered_witnesses(memory, digest) == witnesses:
        return True
    with ThreadPoolExecutor(4) as threads:
        matches = all(threads.map(lambda path: file_checksum(path) == files[path], files))
    newest = max((max(mtime, ctime) for _, mtime, ctime, _ in witnesses), default=0)
    if matches and time.time_ns() - newest > SETTLED_NS:
        with suppress(StoreError):  # a store that cannot be written is read again each time
            write_bytes(memory, orjson.dumps([digest, witnesses]))
    return matches


def remembered_witnesses(memory: Path, digest: str) -> list[list[int]]:
    """The witnesses of files when they last matched their checksums; empty where none are stored."""
    try:
        known_digest, witnesses = orjson.loads(memory.read_bytes())
        return list(witnesses) if known_digest == digest else []
    except (OSError, ValueError, TypeError):
        return []


def digest_of(manifest: Manifest) -> str:
    """A hash of all checksums in a manifest."""
    sums = [[seal.file, seal.checksum, seal.dropped_file, seal.dropped_checksum] for seal in manifest.parts]
    return content_hash([sums, manifest.files])


def artifact_files(store: Store, manifest: Manifest) -> dict[Path, str]:
    """Every file of an artifact and its checksum."""
    files = {store.root / seal.file: seal.checksum for seal in manifest.parts}
    files |= {
        store.root / seal.dropped_file: seal.dropped_checksum or "" for seal in manifest.parts if seal.dropped_file
    }
    return files | {store.files_folder(manifest) / name: checksum for name, checksum in manifest.files.items()}


def are_files_whole(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether files, name -> checksum, exist and match; False for no files."""
    try:
        return bool(files) and all(file_checksum(folder / name) == checksum for name, checksum in files.items())
    except OSError:
        return False


def seal_part(
    store: Store,
    stage: str,
    key: str,
    table: pa.Table,
    dropped: Sequence[Dropped],
    *,
    ids_in: Sequence[str],
    lost: Mapping[str, Loss] | None = None,
    spent: Mapping[str, Mapping[str, int]] | None = None,
    seconds: float = 0.0,
) -> PartSeal:
    """Write a part's rows, its drops and, last, its seal. Raises SynthmillError if an input row is in neither."""
    check_conserved(stage, ids_in, table, dropped)
    reasons: dict[str, int] = {}
    for row in dropped:
        reasons[row.reason] = reasons.get(row.reason, 0) + 1
    dropped_file = dropped_checksum = None
    if dropped:
        dropped_file, dropped_checksum = write_table(store, stage, key, ".dropped.parquet", to_arrow(Dropped, dropped))
    file, checksum = write_table(store, stage, key, ".parquet", table)
    seal = PartSeal(
        key=key,
        stage=stage,
        file=file,
        checksum=checksum,
        content=table_content(table),
        rows_in=len(ids_in),
        rows=table.num_rows,
        dropped_file=dropped_file,
        dropped_checksum=dropped_checksum,
        dropped=reasons,
        lost_answers=len(lost or {}),
        lost=dict(lost or {}),
        spent={role: dict(numbers) for role, numbers in (spent or {}).items()},
        seconds=round(seconds, 3),
    )
    write_json(store.seal_path(stage, key), seal.model_dump(mode="json"))
    return seal


def reseal_part(store: Store, seal: PartSeal, key: str, table: pa.Table) -> PartSeal:
    """Seal the same rows with other columns, as a part of its own; what was dropped and spent stays."""
    file, checksum = write_table(store, seal.stage, key, ".parquet", table)
    facts = {"key": key, "file": file, "checksum": checksum, "content": table_content(table), "rows": table.num_rows}
    resealed = seal.model_copy(update=facts)
    write_json(store.seal_path(seal.stage, key), resealed.model_dump(mode="json"))
    return resealed


def write_table(store: Store, stage: str, key: str, suffix: str, table: pa.Table) -> tuple[str, str]:
    """Write a part's table; returns its path within the store and its checksum, taken of the bytes
    written here, not of the file that lies there afterwards.
    """
    folder = store.seal_path(stage, key).parent
    checksum = ""

    def write(temporary: Path) -> Path:
        nonlocal checksum
        pq.write_table(table, temporary, compression="zstd")
        checksum = file_checksum(temporary)
        return folder / f"{key}.{checksum[:8]}{suffix}"

    path = write_then_name(folder / f"{key}{suffix}", write)
    return str(path.relative_to(store.root)), checksum


def check_conserved(stage: str, ids_in: Sequence[str], table: pa.Table, dropped: Sequence[Dropped]) -> None:
    """Check that every input id is a row, the parent of one, or dropped, none of them both, and no id twice."""
    drop_counts = Counter(row.id for row in dropped)
    row_counts = Counter(table["id"].to_pylist())
    kept_ids = set(row_counts) | set(table["parent_id"].to_pylist() if "parent_id" in table.column_names else ())
    lost = [row_id for row_id in ids_in if row_id not in kept_ids and row_id not in drop_counts]
    doubled = sorted(
        {row_id for row_id, count in (drop_counts + row_counts).items() if count > 1} | (drop_counts.keys() & kept_ids)
    )
    for problem, ids in (("lost", lost), ("doubled", doubled)):
        if ids:
            raise SynthmillError(
                f"stage {stage} {problem} {len(ids)} of {len(ids_in)} rows, the first {ids[0]}; this is a bug in the "
                "stage"
            )


def table_content(table: pa.Table) -> str:
    """A hash of a table's rows; the column of call keys is provenance, not content."""
    kept = table.drop_columns([CALLS]) if CALLS in table.column_names else table
    hashed = HashedBytes()
    with pa.PythonFile(hashed, "w") as sink, pa.ipc.new_stream(sink, kept.schema) as stream:
        stream.write_table(kept.combine_chunks())
    return hashed.digest.hexdigest()


def write_manifest(store: Store, manifest: Manifest) -> Manifest:
    """Write an artifact's manifest, which makes it exist."""
    manifest = manifest.model_copy(update={"made_at": datetime.now(UTC).isoformat(timespec="milliseconds")})
    write_json(store.manifest_path(manifest.stage, manifest.key), manifest.model_dump(mode="json"))
    return manifest


def rows_to_table(model: type[Row], rows: Sequence[Row], calls: Sequence[Sequence[str]]) -> pa.Table:
    """Rows and, per row, the keys of the calls they were made from."""
    return with_calls(to_arrow(model, rows), calls)


def with_calls(table: pa.Table, calls: Sequence[Sequence[str]]) -> pa.Table:
    """A table with the keys of the calls that each row was made from."""
    return table.append_column(CALLS, pa.array(calls, pa.list_(pa.string())))


def read_part(store: Store, seal: PartSeal, columns: Sequence[str] | None = None) -> pa.Table:
    """A part's kept rows, all columns or some; raises StoreError when they do not match the seal."""
    path = store.root / seal.file
    if not is_whole(store, seal):
        raise StoreError(f"{path} does not match its checksum; run the same command again, the part is made anew")
    return read_parquet(path, columns)


def read_dropped(store: Store, seal: PartSeal) -> list[Dropped]:
    """A part's drops; none where their file is gone."""
    if not seal.dropped_file or not (store.root / seal.dropped_file).exists():
        return []
    return from_arrow(Dropped, read_parquet(store.root / seal.dropped_file))


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A part's table, on one thread: half the time of `pyarrow.parquet.read_table`, which looks for a dataset first."""
    with pq.ParquetFile(path) as file:
        return file.read(columns and list(columns), use_threads=False)


def read_artifact(store: Store, manifest: Manifest, columns: Sequence[str] | None = None) -> pa.Table:
    """All kept rows of an artifact, in order; all columns or some."""
    return pa.concat_tables([read_part(store, seal, columns) for seal in manifest.parts])
