"""The call store: every answer, written before anyone sees it, found again by what was asked.

Each writer appends to a segment of its own, so there is no lock and no server, and a shared folder will do. A segment
is lines:

    <crc32, 8 hex> <kind> <key, 32 hex> <JSON>\\n

kind Q (what was asked: messages, sampling, schema, choice; once per segment) or A (one answer to it). Lines make a
segment readable by eye and by grep, and a crash can only tear the last one: a torn or damaged line is never served. A
segment at rest is sealed by an index beside it: sorted 16-byte keys with offset and length, so that a look-up costs
microseconds. What lies behind the index, or has none, is scanned, whether its writer died or is at work. The Parquet
copies that DuckDB reads are made from sealed segments and are never needed to run.
"""

import fcntl
import os
import socket
import time
from binascii import hexlify
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import orjson

from schemas.calls import Completion
from schemas.errors import StoreError
from storage.files import sync, write_atomically

SUFFIX = ".calls"
SEAL_AT_BYTES = 256 << 20
HEAD = 8 + 1 + 1 + 1 + 32 + 1  # crc, blank, kind, blank, key, blank
SMALL = 100_000  # answers; smaller sealed segments are looked up together, so that many short runs cost one look-up
_numbers = count()


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


def halves(key: bytes) -> tuple[np.uint64, np.uint64]:
    return np.uint64(int.from_bytes(key[:8], "big")), np.uint64(int.from_bytes(key[8:], "big"))


def segment_files(place: Path) -> list[Path]:
    """The segments of a folder, the oldest first; or the one that `place` is."""
    return [place] if place.is_file() else [path for path in sorted(place.glob(f"*{SUFFIX}")) if path.is_file()]


class Index:
    """Sorted keys of sealed answers. table: (5, answers) uint64: key high, key low, offset, length, segment number."""

    def __init__(self, table: np.ndarray[Any, Any], segments: list["Segment"]) -> None:
        self.table = table
        self.segments = segments

    @classmethod
    def merged(cls, segments: list["Segment"]) -> "Index":
        """One index over several sealed segments; it is held in memory, 40 bytes an answer."""
        tables = []
        for number, segment in enumerate(segments):
            assert segment.sealed is not None
            tables.append(np.array(segment.sealed))
            tables[-1][4] = number
        table = np.concatenate(tables, axis=1)
        return cls(np.ascontiguousarray(table[:, np.argsort(table[0], kind="stable")]), segments)

    def find(self, high: np.uint64, low: np.uint64) -> "tuple[Segment, int, int] | None":
        row = int(self.table[0].searchsorted(high))
        while row < self.table.shape[1] and self.table[0, row] == high:
            if self.table[1, row] == low:
                return self.segments[int(self.table[4, row])], int(self.table[2, row]), int(self.table[3, row])
            row += 1
        return None


@dataclass
class Segment:
    """One file of calls, open for reading: its sealed index, or what was scanned of it so far."""

    path: Path
    sealed: np.ndarray[Any, Any] | None = None
    scanned: int = 0
    fresh: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    @property
    def index_path(self) -> Path:
        return self.path.with_suffix(".index.npy")

    def refresh(self) -> None:
        """Load the index if there is one, then scan what lies behind it, or was appended since the last time."""
        if self.sealed is None and self.index_path.exists():
            try:
                self.sealed = np.load(self.index_path, mmap_mode="r")
                size = self.path.stat().st_size
                if self.sealed.shape[1] and max(self.sealed[2].max(), self.sealed[3].max()) > size:
                    raise ValueError("an answer is said to lie behind the segment's end")
                self.scanned = int((self.sealed[2] + self.sealed[3]).max()) if self.sealed.shape[1] else 0
                self.fresh.clear()
            except (ValueError, IndexError, TypeError, EOFError, OSError):
                self.sealed, self.scanned = None, 0  # derived: made again from the segment
                self.index_path.unlink(missing_ok=True)
        if self.path.stat().st_size <= self.scanned:
            return
        self.scan()

    def scan(self) -> None:
        """Find the answers from `scanned` on, without the index."""
        for kind, key, offset, data in self.lines(self.scanned):
            if kind == b"A":
                self.fresh.setdefault(key, (offset, len(data)))
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

    def read(self, offset: int, length: int) -> bytes:
        descriptor = os.open(self.path, os.O_RDONLY)  # not kept open: a store has a segment per run and worker
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)

    def seal(self) -> None:
        """Write the sorted index of a segment that nobody appends to any more."""
        keys = np.frombuffer(b"".join(self.fresh), dtype=">u8").reshape(-1, 2).T
        places = np.array(list(self.fresh.values()), dtype=np.uint64).reshape(-1, 2).T
        table = np.concatenate([keys.astype(np.uint64), places, np.zeros((1, keys.shape[1]), dtype=np.uint64)])
        table = table[:, np.argsort(table[0], kind="stable")]

        def save(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.save(file, table)

        write_atomically(self.index_path, save)


class CallStore:
    """Read every segment of a folder (or one recording file), append to one of our own.

    `find` and `add` are for one thread, the driver's. `add` buffers; `flush` writes everything buffered with one
    system call and must come before an answer is shown to a recipe.
    """

    def __init__(self, place: Path, *, origin: dict[str, str] | None = None) -> None:
        """place: the folder of segments, or a single segment. origin: run and stage, written with every answer."""
        self.place = place
        self.origin = origin or {}
        self.segments: dict[Path, Segment] = {}
        self._file = -1
        self._own: Segment | None = None
        self._size = 0
        self._buffer: list[bytes] = []
        self._asks: set[bytes] = set()
        self.refresh()

    def refresh(self) -> None:
        """See what other writers have added."""
        paths = segment_files(self.place)
        for path in paths:
            segment = self.segments.setdefault(path, Segment(path))
            if segment is not self._own:
                segment.refresh()
        sealed = [segment for segment in self.segments.values() if segment.sealed is not None]
        small = [segment for segment in sealed if segment.sealed.shape[1] < SMALL]  # type: ignore[union-attr]
        large = [segment for segment in sealed if segment.sealed.shape[1] >= SMALL]  # type: ignore[union-attr]
        self._indexes = [Index.merged(small)] if small else []
        self._indexes += [Index(segment.sealed, [segment]) for segment in large]  # type: ignore[arg-type]
        self._open_segments = [segment for segment in self.segments.values() if segment.fresh or segment is self._own]

    def find(self, key: bytes) -> Completion | None:
        """The stored answer, or None. A line that no longer matches its checksum counts as absent."""
        for segment in self._open_segments:
            if (at := segment.fresh.get(key)) and (found := self._read(key, segment, *at)):
                return found
        if self._indexes:
            high, low = halves(key)
            for index in self._indexes:
                if (place := index.find(high, low)) and (found := self._read(key, *place)):
                    return found
        return None

    def _read(self, key: bytes, segment: Segment, offset: int, length: int) -> Completion | None:
        if segment is self._own:
            self.flush()
        data = segment.read(offset, length)
        return completion_of(orjson.loads(data[HEAD:])) if checked_key(data) == key else None

    def add(self, key: bytes, ask: bytes, asked: bytes, completion: Completion, **facts: Any) -> None:
        """Buffer one answer and, where this segment does not have it yet, what was asked."""
        if self._own is None or self._size > SEAL_AT_BYTES:
            self._open()
        if ask not in self._asks:
            self._asks.add(ask)
            self._append(line(b"Q", ask, asked))
        record = {
            "ask": ask.hex(),
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "latency_s": completion.latency_s,
            "at": time.time(),
            **self.origin,
            **facts,
        }
        if completion.logprobs is not None:
            record["logprobs"] = completion.logprobs
        data = line(b"A", key, orjson.dumps(record))
        assert self._own is not None
        self._own.fresh[key] = (self._size, len(data))
        self._append(data)

    def flush(self) -> None:
        """Hand everything buffered to the operating system (a killed process loses nothing after this)."""
        if self._buffer:
            data = b"".join(self._buffer)
            self._buffer.clear()
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(self._file, view) :]
                except OSError as error:
                    raise StoreError(
                        f"cannot write {self.place}: {error.strerror}; free space, then run the same command again"
                    ) from error

    def sync(self) -> None:
        """Make everything added so far survive a power cut."""
        self.flush()
        if self._file >= 0:
            os.fsync(self._file)

    def duplicate_descriptor(self) -> int | None:
        """A descriptor of our segment for an fsync in another thread (the caller closes it), if anything was added."""
        return os.dup(self._file) if self._file >= 0 else None

    def close(self) -> None:
        """Flush, fsync and seal our segment."""
        self._seal_own()

    def _append(self, data: bytes) -> None:
        self._buffer.append(data)
        self._size += len(data)

    def _seal_own(self) -> None:
        if self._own is not None:
            self.sync()
            self._own.seal()
            os.close(self._file)
            self._own, self._file = None, -1

    def _open(self) -> None:
        if self._own is not None:
            self._seal_own()
            self.refresh()
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{socket.gethostname()[:20]}-{os.getpid()}-{next(_numbers)}{SUFFIX}"
        path = self.place / name
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX)  # held while we write: seal_abandoned leaves it alone
            sync(self.place)
        except OSError as error:
            raise StoreError(
                f"cannot write {self.place}: {error.strerror}; choose a folder you may write to with --store"
            ) from error
        self._own = self.segments[path] = Segment(path)
        self._open_segments.append(self._own)
        self._size = 0
        self._asks.clear()


def completion_of(record: dict[str, Any]) -> Completion:
    """A stored record as the recipe sees it."""
    return Completion(
        text=record["text"],
        finish_reason=record["finish_reason"],
        prompt_tokens=record["prompt_tokens"],
        completion_tokens=record["completion_tokens"],
        latency_s=record["latency_s"],
        logprobs=record.get("logprobs"),
    )


def seal_abandoned(folder: Path) -> int:
    """Seal the segments whose writer is gone; returns how many. A live writer holds its file's lock."""
    sealed = 0
    for path in segment_files(folder):
        segment = Segment(path)
        segment.refresh()
        if not segment.fresh:
            continue
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            whole = Segment(path)
            whole.scan()
            whole.seal()
            sealed += 1
    return sealed


def record_to(folder: Path, recording: Path) -> int:
    """Copy every call of a store into one file that `replay:` can read; returns the number of answers."""
    answers = 0
    seen: set[bytes] = set()

    def save(temporary: Path) -> None:
        nonlocal answers
        with temporary.open("wb") as file:
            for path in segment_files(folder):
                for kind, key, _, data in Segment(path).lines():
                    if key not in seen:
                        seen.add(key)
                        answers += kind == b"A"
                        file.write(data)

    write_atomically(recording, save)
    return answers
