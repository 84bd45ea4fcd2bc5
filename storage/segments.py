"""Segments: files that one writer appends to, line by line, and that an index seals when the writer is done.

A segment is lines:

    <crc32, 8 hex> <kind> <key, 32 hex> <JSON>\\n

kind Q (the question: messages, sampling, schema, choice; once per segment), A (one answer to it), or R (a
repeated answer, paid for beside others: its cost counts, its text is never served). Lines keep a segment readable by
eye and by grep, and a crash can only tear the last one: a torn or damaged line is never served.
"""

import fcntl
import os
from binascii import hexlify
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson

from synthmill.schemas.errors import StoreError
from synthmill.schemas.usage import PLAIN, Facts, counters_of, tokens_of
from synthmill.storage.call_index import (
    INDEX,
    Run,
    Spend,
    add_spend,
    compact,
    runs_of,
    sorted_by_key,
    table_of,
    write_run,
)

SUFFIX = ".calls"
OLD_INDEX = ".index.npy"
SEAL_AT_BYTES = 256 << 20
FACTS = {"estimated", "asked_again", "batch"}
"""What an answer's record says of its cost, where it is so."""
HEAD = 8 + 1 + 1 + 1 + 32 + 1  # crc, blank, kind, blank, key, blank


def line(kind: bytes, key: bytes, record: bytes) -> bytes:
    """One checksummed line around a JSON record."""
    body = b"%b %b %b\n" % (kind, hexlify(key), record)
    return b"%08x %b" % (crc32(body), body)


def checked_key(data: bytes) -> bytes | None:
    """The key of one whole line, or None when the line is torn, damaged or foreign."""
    try:
        good = len(data) > HEAD and int(data[:8], 16) == crc32(data[9:])
        return bytes.fromhex(data[11:43].decode()) if good else None
    except ValueError:
        return None


def segment_sizes(place: Path) -> dict[str, int]:
    """The segments of a folder, or the one that `place` is, the oldest first: name -> bytes."""
    if not place.is_dir():
        return {place.name: place.stat().st_size} if place.is_file() else {}
    with os.scandir(place) as entries:
        return dict(
            sorted(
                (entry.name, entry.stat().st_size)
                for entry in entries
                if entry.name.endswith(SUFFIX) and entry.is_file()
            )
        )


def segment_files(place: Path) -> list[Path]:
    """The segments of a folder, the oldest first; or the one that `place` is."""
    return [place / name for name in segment_sizes(place)] if place.is_dir() else [place] if place.is_file() else []


@dataclass
class Segment:
    """One file of calls. fresh: answers that are in no index, scanned or appended: key -> (offset, length); spend: the
    costs of appended ones.
    """

    path: Path
    scanned: int = 0
    fresh: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    spend: Spend = field(default_factory=dict)

    def append(self, key: bytes, offset: int, length: int, record: dict[str, Any], repeated: bool) -> None:
        """Note an answer that this process appends at `offset`."""
        if not repeated:
            self.fresh.setdefault(key, (offset, length))
        add_spend(self.spend, spend_of(record, repeated))

    def scan(self, spend: Spend | None = None) -> None:
        """Find the answers from `scanned` on; their costs are added to `spend`."""
        for kind, key, offset, data in self.lines(self.scanned):
            if kind == b"A":
                self.fresh.setdefault(key, (offset, len(data)))
            if spend is not None and kind in (b"A", b"R"):
                add_spend(spend, spend_of(orjson.loads(data[HEAD:]), repeated=kind == b"R"))
            self.scanned = offset + len(data)

    def lines(self, start: int = 0) -> Iterator[tuple[bytes, bytes, int, bytes]]:
        """(kind, key, offset, line) of every whole, undamaged line from `start`; a torn last line ends it."""
        offset = start
        with self.path.open("rb") as file:
            file.seek(start)
            for data in file:
                if not data.endswith(b"\n"):
                    break
                if (key := checked_key(data)) is not None:
                    yield data[9:10], key, offset, data
                offset += len(data)

    def seal(self) -> None:
        """Write the index of a finished segment, whatever wrote it."""
        seal_together([self.path])

    def seal_appended(self, size: int) -> None:
        """Write the index of a segment that this process has written, without reading it again. size: its bytes."""
        table = sorted_by_key([table_of(self.fresh, 0)])
        write_run(self.path.with_suffix(INDEX), {self.path.name: size}, self.spend, len(table), [table])


def spend_of(record: dict[str, Any], repeated: bool = False) -> Spend:
    """What one stored answer cost, under its run, stage, step, role and engine."""
    stage = str(record.get("stage", ""))
    origin = str(record.get("run", "")), stage, str(record.get("step", stage)), str(record.get("role", ""))
    tokens = tokens_of(record["prompt_tokens"], record["completion_tokens"], record.get("usage"))
    facts = PLAIN
    if repeated or not FACTS.isdisjoint(record):
        estimated, asked_again, batch = (bool(record.get(name)) for name in ("estimated", "asked_again", "batch"))
        facts = Facts(estimated, asked_again, repeated, batch)
    return {(*origin, str(record.get("engine", ""))): counters_of(tokens, record["latency_s"], facts)}


def seal_together(paths: Sequence[Path]) -> None:
    """Write one index for finished segments of one folder."""
    spend: Spend = {}
    sizes: dict[str, int] = {}
    tables = []
    for number, path in enumerate(paths):
        segment = Segment(path)
        sizes[path.name] = path.stat().st_size  # includes a torn tail: nobody appends to it
        segment.scan(spend)
        tables.append(table_of(segment.fresh, number))
    table = sorted_by_key(tables)
    write_run(paths[-1].with_suffix(INDEX), sizes, spend, len(table), [table])


def sealed_sizes(runs: list[Run]) -> dict[str, int]:
    """The segments that runs cover -> the size up to which they do."""
    sizes: dict[str, int] = {}
    for run in runs:
        for name, size in run.header.segments.items():
            sizes[name] = max(size, sizes.get(name, 0))
    return sizes


def sealed_segments(folder: Path) -> set[str]:
    """The names of the segments that an index covers to their end."""
    sealed = sealed_sizes(runs_of(folder))
    return {name for name, size in segment_sizes(folder).items() if size <= sealed.get(name, -1)}


def index_old_segments(folder: Path) -> None:
    """Index segments that an earlier version sealed in its own way; in a read-only folder they are scanned instead."""
    with os.scandir(folder) as entries:
        old_indexes = [folder / entry.name for entry in entries if entry.name.endswith(OLD_INDEX)]
    with suppress(OSError, StoreError):
        for group in groups_of([path for path in map(segment_of, sorted(old_indexes)) if path.exists()]):
            seal_together(group)
            for path in group:
                path.with_name(path.stem + OLD_INDEX).unlink(missing_ok=True)


def segment_of(old_index: Path) -> Path:
    return old_index.with_name(old_index.name.removesuffix(OLD_INDEX) + SUFFIX)


def groups_of(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Groups of segments to seal together, each of at most `SEAL_AT_BYTES` unless one alone is larger."""
    group: list[Path] = []
    size = 0
    for path in paths:
        if group and size + path.stat().st_size > SEAL_AT_BYTES:
            yield group
            group, size = [], 0
        group.append(path)
        size += path.stat().st_size
    if group:
        yield group


def seal_abandoned(folder: Path) -> int:
    """Seal the segments whose writer is gone, merge indexes; returns how many it sealed. A live writer holds a lock."""
    if not folder.is_dir():
        return 0
    index_old_segments(folder)
    sealed = sealed_sizes(runs_of(folder))
    unsealed = [folder / name for name, size in segment_sizes(folder).items() if size > sealed.get(name, -1)]
    abandoned = [path for path in unsealed if is_abandoned(path)]
    for group in groups_of(abandoned):
        seal_together(group)
    compact(folder)
    return len(abandoned)


def is_abandoned(path: Path) -> bool:
    """Whether nobody writes to a segment any more."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def spent_in(folder: Path) -> Spend:
    """What the answers of a folder cost: from the indexes, and from the segments that have none."""
    spend: Spend = {}
    runs = runs_of(folder)
    for run in runs:
        add_spend(spend, run.header.spend)
    sealed = sealed_sizes(runs)
    for name, size in segment_sizes(folder).items():
        if size > sealed.get(name, -1):
            Segment(folder / name, sealed.get(name, 0)).scan(spend)
    return spend
