"""The call store: it writes every answer before anyone sees it, and finds it again by its question.

Each writer appends to a segment of its own (segments.py), so it needs no lock and no server, and a shared folder works.
A finished segment is sealed: its answers are in an index (call_index.py), and a look-up costs microseconds. Segments
without an index, or the rest beyond it, are scanned, whether the writer died or is at work. The Parquet copies that
DuckDB reads are made from sealed segments and are never needed to run.
"""

import fcntl
import os
import socket
import time
from binascii import hexlify
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import StoreError
from synthmill.storage import segments
from synthmill.storage.call_index import DamagedIndex, Descriptors, Run, compact, open_runs
from synthmill.storage.files import sync, write_atomically
from synthmill.storage.segments import (
    HEAD,
    SUFFIX,
    Segment,
    index_old_segments,
    line,
    sealed_sizes,
    segment_files,
    segment_sizes,
)

OPEN_FILES = 32  # descriptors kept open for reading
WINDOW = 1 << 18  # bytes read at once where look-ups follow about the order of storage
NEAR_AFTER = 3  # the read in a window, counted from 1, that loads all of it
NEAR_BYTES = 4 << 20
MERGED_AT_WORK = 1 << 22  # answers, about a second
FURTHER = ("reasoning", "refusal", "tool_calls", "usage", "estimated")
"""What an answer's record has only where the engine said it."""
_numbers = count()


class Reader:
    """Reads answers from segments, with few descriptors open. Where look-ups hit neighbours, as in a replay, it reads
    and decodes a window of a segment at once; the answers in it then need no look at an index.
    """

    def __init__(self, folder: Path, descriptors: Descriptors) -> None:
        self.folder, self._descriptors = folder, descriptors
        self._recent: dict[bytes, Completion] = {}
        self._older: dict[bytes, Completion] = {}  # the windows before those in _recent
        self._recent_bytes = 0
        self._reads: dict[tuple[str, int], int] = {}

    def cached_answer(self, name: bytes) -> Completion | None:
        """An answer from the windows in memory, by its key in hexadecimal."""
        return self._recent.get(name) or self._older.get(name)

    def read(self, name: bytes, segment: str, offset: int, length: int) -> Completion | None:
        """The answer at a place; None where it is damaged, of another key, or its segment is gone."""
        window = segment, offset // WINDOW
        self._reads[window] = times = self._reads.get(window, 0) + 1
        try:
            if times == NEAR_AFTER:
                self._read_window(segment, window[1] * WINDOW)
            return completion_in(name, os.pread(self._descriptors.of(self.folder / segment), length, offset))
        except FileNotFoundError:
            return None

    def _read_window(self, segment: str, start: int) -> None:
        if self._recent_bytes > NEAR_BYTES:
            self._older, self._recent = self._recent, {}
            self._reads.clear()
            self._recent_bytes = 0
        data = os.pread(self._descriptors.of(self.folder / segment), WINDOW, start)
        self._recent_bytes += len(data)
        for answer in data.split(b"\n")[1:-1]:  # the first and the last may be cut
            if answer[9:10] == b"A":
                name = answer[11:43]
                if name not in self._recent and (completion := completion_in(name, answer + b"\n")):
                    self._recent[name] = completion


class CallStore:
    """Read every segment of a folder (or one recording file), append to one of our own.

    `find` and `add` are for one thread, the driver's. `add` buffers; `flush` writes everything buffered with one
    system call and must come before a recipe sees an answer.
    """

    def __init__(self, place: Path, *, origin: dict[str, str] | None = None) -> None:
        """place: the folder of segments, or a single segment. origin: run and stage, written with every answer."""
        self.place = place
        self.origin = origin or {}
        self._runs: list[Run] = []
        self._damaged: set[Path] = set()
        self._unsealed: dict[str, Segment] = {}
        self._descriptors = Descriptors(OPEN_FILES)
        self._reader = Reader(place.parent if place.is_file() else place, self._descriptors)
        self._file = -1
        self._own: Segment | None = None
        self._size = self._written = 0
        self._buffer: list[bytes] = []
        self._asks: set[bytes] = set()
        self.refresh()

    def refresh(self) -> None:
        """Load what other writers have added. Raises StoreError where the folder cannot be read."""
        if self.place.is_dir():
            index_old_segments(self.place)
            loaded = {run.path: run for run in self._runs}
            self._runs = open_runs(self.place, self._descriptors, loaded, self._damaged)
        sealed = sealed_sizes(self._runs)
        unsealed = {}
        for name, size in segment_sizes(self.place).items():
            if size <= sealed.get(name, -1):
                continue
            path = self.place if self.place.name == name else self.place / name
            segment = self._unsealed.get(name) or Segment(path, sealed.get(name, 0))
            if segment is not self._own:
                segment.scan()
            unsealed[name] = segment
        self._unsealed = unsealed

    def find(self, key: bytes) -> Completion | None:
        """The stored answer, or None. A line that no longer matches its checksum counts as absent."""
        name = hexlify(key)
        if completion := self._reader.cached_answer(name):
            return completion
        for segment in self._unsealed.values():
            if span := segment.fresh.get(key):
                if segment is self._own:
                    self.flush()
                if completion := self._reader.read(name, segment.path.name, *span):
                    return completion
        try:
            for run in self._runs:
                for place in run.find(key):
                    if completion := self._reader.read(name, *place):
                        return completion
        except FileNotFoundError:  # merged into another
            self.refresh()
            return self.find(key)
        except DamagedIndex:
            self._damaged.add(run.path)  # its segments are scanned now, and sealed anew when a run ends
            with suppress(OSError):
                run.path.unlink()
            self.refresh()
            return self.find(key)
        return None

    def add(
        self, key: bytes, ask: bytes, question: bytes, completion: Completion, repeated: bool = False, **facts: Any
    ) -> None:
        """Buffer one answer and, where this segment lacks it, its question. repeated: another answer is already stored
        under this key, and look-ups find that one; this one only adds to the costs.
        """
        if self._own is None or self._size > segments.SEAL_AT_BYTES:
            self._open()
        if ask not in self._asks:
            self._asks.add(ask)
            self._append(line(b"Q", ask, question))
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
        for name in FURTHER:
            if value := getattr(completion, name):
                record[name] = value
        data = line(b"R" if repeated else b"A", key, orjson.dumps(record))
        assert self._own is not None
        self._own.append(key, self._size, len(data), record, repeated)
        self._append(data)

    def flush(self) -> None:
        """Hand everything buffered to the operating system (a killed process loses nothing after this). Raises
        StoreError where the write fails; earlier answers can still be found, and the next answer goes to another
        segment.
        """
        if self._buffer:
            data = b"".join(self._buffer)
            self._buffer.clear()
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(self._file, view) :]
            except OSError as error:
                self._abandon()
                raise StoreError(
                    f"cannot write {self.place}: {error.strerror}; free space, then run the same command again"
                ) from error
            self._written += len(data)

    def sync(self) -> None:
        """Make everything added so far survive a power cut."""
        self.flush()
        if self._file >= 0:
            os.fsync(self._file)

    def duplicate_descriptor(self) -> int | None:
        """A descriptor of our segment, for an fsync elsewhere; the caller closes it. None if nothing was added."""
        return os.dup(self._file) if self._file >= 0 else None

    def close(self) -> None:
        """Flush, fsync and seal our segment."""
        try:
            if self._own is not None:
                self._seal_own()
                compact(self.place)
        finally:
            if self._file >= 0:
                os.close(self._file)
                self._own, self._file = None, -1
            self._descriptors.close()
            self._runs = []

    def _append(self, data: bytes) -> None:
        self._buffer.append(data)
        self._size += len(data)

    def _seal_own(self) -> None:
        assert self._own is not None
        self.sync()
        self._own.seal_appended(self._size)
        os.close(self._file)
        self._own, self._file = None, -1

    def _abandon(self) -> None:
        """Give up a segment after a failed write: cut off the partial write, and scan the segment for its answers."""
        assert self._own is not None
        with suppress(OSError):
            os.ftruncate(self._file, self._written)
        os.close(self._file)
        segment, self._own, self._file = self._own, None, -1
        segment.fresh.clear()
        segment.scanned = 0
        segment.scan()

    def _open(self) -> None:
        if self._own is not None:
            self._seal_own()
            compact(self.place, MERGED_AT_WORK)
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
        self._own = self._unsealed[name] = Segment(path)
        self._size = self._written = 0
        self._asks.clear()


def completion_in(name: bytes, data: bytes) -> Completion | None:
    """The completion in a line; None for a damaged line, or that of another key. name: the key in hexadecimal."""
    try:
        if data[11:43] != name or int(data[:8], 16) != crc32(data[9:]):
            return None
    except ValueError:
        return None
    record = orjson.loads(data[HEAD:])
    return Completion(
        record["text"],
        record["finish_reason"],
        record["prompt_tokens"],
        record["completion_tokens"],
        record["latency_s"],
        record.get("logprobs"),
        None,
        record.get("reasoning", ""),
        record.get("refusal", ""),
        record.get("tool_calls"),
        record.get("usage"),
        record.get("estimated", False),
    )


def record_to(folder: Path, recording: Path) -> int:
    """Copy every call of a store into one file that `replay:` can read; returns the number of answers."""
    answers = 0
    keys: set[bytes] = set()

    def save(temporary: Path) -> None:
        nonlocal answers
        with temporary.open("wb") as file:
            for path in segment_files(folder):
                for kind, key, _, data in Segment(path).lines():
                    if key not in keys:
                        keys.add(key)
                        answers += kind == b"A"
                        file.write(data)

    write_atomically(recording, save)
    return answers
