"""Where answers are: sorted runs of keys with the place of each answer, on the disk, and a filter of a byte or two an
answer in memory.

A run covers one sealed segment or many. Runs are merged so that each is at least eight times as large as all smaller
ones together, so there are few runs, however many segments there are. A look-up asks each run's filter, and reads one
bucket of a run whose filter says yes. A file holds

    records   32 bytes each, sorted by key: key (16), offset (8), length (4), number of the segment (4)
    starts    where each bucket begins (the bucket of a key is its first bits)
    sums      a checksum of each bucket's records
    filter    two bits an answer of a Bloom filter
    header    JSON: segments with their sizes, counts, and costs by run, step, role and engine
    tail      the header's length, a checksum of starts, sums, filter and header, and a mark

Runs are derived from segments: a damaged run is ignored, and its segments are scanned.
"""

import fcntl
import os
import secrets
import struct
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import orjson

from synthmill.schemas.errors import StoreError
from synthmill.schemas.usage import COUNTERS
from synthmill.storage.files import write_atomically

INDEX = ".index"
RECORD = np.dtype([("high", ">u8"), ("low", ">u8"), ("offset", "<u8"), ("length", "<u4"), ("segment", "<u4")])
TAIL = struct.Struct("<II8s")
MARK = b"synthidx"
PER_BUCKET = 32  # records
FILTER_BITS = 8  # an answer, at least
FEWER = 8  # a run stays unmerged if it is over so many times as large as all smaller ones together
MERGED_AT_ONCE = 1 << 20  # records

ZEROS: list[float] = [0] * len(COUNTERS)
Table = np.ndarray[Any, Any]
Spend = dict[tuple[str, str, str, str, str], list[float]]
"""(run, stage, step, role, engine) -> what its answers add up to, in the order of COUNTERS (schemas/usage.py)."""


class DamagedIndex(StoreError):
    """A run whose file is damaged."""


@dataclass(frozen=True)
class Header:
    """A run's header. segments: name -> size when it was sealed."""

    segments: dict[str, int]
    count: int
    bucket_bits: int
    filter_bits: int
    spend: Spend

    def dumps(self) -> bytes:
        spent = [[*origin, *numbers] for origin, numbers in self.spend.items()]
        return orjson.dumps({**self.__dict__, "spend": spent})

    @classmethod
    def loads(cls, data: bytes) -> "Header":
        """An earlier version's rows of spending are shorter, because it counted less; a later one's may be longer."""
        fields = orjson.loads(data)
        spend = {tuple(row[:5]): [*row[5:], *ZEROS[len(row) - 5 :]][: len(ZEROS)] for row in fields["spend"]}
        return cls(**{**fields, "spend": spend})


class Descriptors:
    """Keeps the descriptors of the files read last open, at most `most` of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: OrderedDict[Path, int] = OrderedDict()

    def of(self, path: Path) -> int:
        """A descriptor to read from, good until the next call. Raises OSError."""
        if (descriptor := self._open.get(path)) is not None:
            self._open.move_to_end(path)
            return descriptor
        while len(self._open) >= self.most:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = descriptor = os.open(path, os.O_RDONLY)
        return descriptor

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


class Run:
    """One run for look-ups. Raises DamagedIndex for a damaged file, OSError where it cannot be read."""

    def __init__(self, path: Path, descriptors: Descriptors) -> None:
        self.path, self._descriptors = path, descriptors
        try:
            self._load(descriptors.of(path))
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise DamagedIndex(f"{path} is damaged ({error}); it is made anew") from error

    def _load(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size < TAIL.size:
            raise ValueError("it is too short")
        length, checksum, mark = TAIL.unpack(os.pread(descriptor, TAIL.size, size - TAIL.size))
        if mark != MARK:
            raise ValueError("it ends without its mark")
        end = size - TAIL.size
        self.header = header = Header.loads(read_at(descriptor, length, end - length))
        first = header.count * RECORD.itemsize
        rest = read_at(descriptor, end - first, first)
        if crc32(rest) != checksum:
            raise ValueError("its checksum does not hold")
        sums, marks = 4 * ((1 << header.bucket_bits) + 1), 4 * ((2 << header.bucket_bits) + 1)
        self._starts = memoryview(rest[:sums]).cast("I")
        self._sums = memoryview(rest[sums:marks]).cast("I")
        self._filter = rest[marks : len(rest) - length]
        self._mask = (1 << header.filter_bits) - 1
        self._shift = 32 - header.bucket_bits
        self.names = list(header.segments)

    def find(self, key: bytes) -> list[tuple[str, int, int]]:
        """(segment, offset, length) of every answer stored under a key. Raises DamagedIndex."""
        bits = int.from_bytes(key[8:], "big")
        place = bits & self._mask
        if not self._filter[place >> 3] >> (place & 7) & 1:
            return []
        place = (bits >> 32) & self._mask
        if not self._filter[place >> 3] >> (place & 7) & 1:
            return []
        data = self._bucket(int.from_bytes(key[:4], "big") >> self._shift)
        places = []
        position = data.find(key)
        while position >= 0:
            if position % RECORD.itemsize == 0:
                offset, length, segment = struct.unpack_from("<QII", data, position + 16)
                places.append((self.names[segment], offset, length))
            position = data.find(key, position + 1)
        return places

    def _bucket(self, bucket: int) -> bytes:
        start, end = self._starts[bucket], self._starts[bucket + 1]
        data = os.pread(self._descriptors.of(self.path), (end - start) * RECORD.itemsize, start * RECORD.itemsize)
        if crc32(data) != self._sums[bucket]:
            raise DamagedIndex(f"{self.path} is damaged; it is made anew")
        return data

    def check(self) -> None:
        """Read every record; raises DamagedIndex."""
        for bucket in range(len(self._sums)):
            self._bucket(bucket)

    def records(self) -> Table:
        """All records, mapped from the file."""
        if not self.header.count:
            return np.empty(0, RECORD)
        mapped: Table = np.memmap(self.path, RECORD, "r", shape=(self.header.count,))
        return mapped


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Read `length` bytes; a single `pread` returns at most 2 GiB."""
    if length < 0 or offset < 0:
        raise ValueError("its lengths do not add up")
    pieces = []
    while length:
        if not (piece := os.pread(descriptor, min(length, 1 << 30), offset)):
            raise ValueError("it ends early")
        pieces.append(piece)
        length, offset = length - len(piece), offset + len(piece)
    return b"".join(pieces)


def write_run(path: Path, segments: Mapping[str, int], spend: Spend, count: int, chunks: Iterable[Any]) -> None:
    """Write a run. chunks: arrays of RECORD, sorted by key over all of them; count: records in all."""
    bucket_bits = max(0, min(31, (count // PER_BUCKET).bit_length()))
    filter_bits = max(3, min(32, (count * FILTER_BITS).bit_length()))
    starts = np.zeros((1 << bucket_bits) + 1, "<u4")
    sums = np.zeros(1 << bucket_bits, "<u4")
    marks = np.zeros(1 << (filter_bits - 3), np.uint8)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for chunk in chunks:
                records = np.ascontiguousarray(chunk, RECORD)  # numpy joins arrays in native byte order
                file.write(records.tobytes())
                counts = counts_of_buckets(records, bucket_bits)
                starts[1:] += counts
                add_checksums(sums, counts, records.tobytes())
                add_to_filter(marks, records, filter_bits)
            header = Header(dict(segments), count, bucket_bits, filter_bits, spend).dumps()
            rest = np.cumsum(starts, dtype="<u4").tobytes() + sums.tobytes() + marks.tobytes() + header
            file.write(rest + TAIL.pack(len(header), crc32(rest), MARK))

    write_atomically(path, write)


def counts_of_buckets(records: Table, bucket_bits: int) -> Table:
    """How many records each bucket has: the first bits of the key name it."""
    bucket = records["high"] >> np.uint64(32) >> np.uint64(32 - bucket_bits)
    return np.bincount(bucket.astype(np.int64), minlength=1 << bucket_bits).astype("<u4")


def add_checksums(sums: Table, counts: Table, records: bytes) -> None:
    """Extend each bucket's checksum by its records; counts: how many records each bucket has here."""
    view, start = memoryview(records), 0
    for bucket in np.flatnonzero(counts):
        end = start + int(counts[bucket]) * RECORD.itemsize
        sums[bucket] = crc32(view[start:end], int(sums[bucket]))
        start = end


def add_to_filter(marks: Table, records: Table, filter_bits: int) -> None:
    """Set two bits of the Bloom filter for every record; `Run.find` reads the same bits of the key's second half."""
    bits = records["low"].astype(np.uint64)
    for half in (bits, bits >> np.uint64(32)):
        place = half & np.uint64((1 << filter_bits) - 1)
        bit = np.uint8(1) << (place & np.uint64(7)).astype(np.uint8)
        np.bitwise_or.at(marks, place >> np.uint64(3), bit)


def table_of(places: Mapping[bytes, tuple[int, int]], segment: int) -> Table:
    """Records of one segment, from key -> (offset, length); segment: its number in the run."""
    table = np.zeros(len(places), RECORD)
    keys = np.frombuffer(b"".join(places), ">u8").reshape(-1, 2)
    table["high"], table["low"] = keys[:, 0], keys[:, 1]
    table["offset"] = [offset for offset, _ in places.values()]
    table["length"] = [length for _, length in places.values()]
    table["segment"] = segment
    return table


def sorted_by_key(tables: Sequence[Table]) -> Table:
    """All records of several tables."""
    table = np.concatenate(tables)
    records: Table = table[np.lexsort((table["segment"], table["low"], table["high"]))]
    return records


def run_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(INDEX)) if folder.is_dir() else []


def open_runs(
    folder: Path, descriptors: Descriptors, loaded: Mapping[Path, Run], damaged: Collection[Path] = ()
) -> list[Run]:
    """The runs of a folder, those with most segments first. loaded: open runs, to be used again. Damaged runs, and
    runs that a larger one covers, are ignored. Raises StoreError where files cannot be opened.
    """
    runs: list[Run] = []
    try:
        for path in run_paths(folder):
            if path not in damaged:
                with suppress(DamagedIndex, FileNotFoundError):  # merged meanwhile: its segments are scanned
                    runs.append(loaded.get(path) or Run(path, descriptors))
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error.strerror}; see to that, then run it again") from error
    kept: list[Run] = []
    covered: set[tuple[str, int]] = set()
    for run in sorted(runs, key=lambda run: -len(run.header.segments)):
        if not run.header.segments.items() <= covered:
            kept.append(run)
            covered |= run.header.segments.items()
    return kept


def runs_of(folder: Path) -> list[Run]:
    """The runs of a folder, for their headers only."""
    descriptors = Descriptors(1)
    try:
        return open_runs(folder, descriptors, {})
    finally:
        descriptors.close()


def compact(folder: Path, limit: int = 1 << 62) -> None:
    """Merge runs until there are few. One process at a time merges, the others go on with the runs as they are. limit:
    the most records to merge, for callers in a hurry.
    """
    with suppress(OSError), (folder / ".compact.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        paths = run_paths(folder)  # listed first: runs written meanwhile are left alone
        runs = runs_of(folder)
        current = {run.path for run in runs}
        for path in paths:  # covered by others, or damaged
            if path not in current:
                path.unlink(missing_ok=True)
        if len(merged := [run for run in to_merge(runs, limit) if is_good(run)]) > 1:
            merge(folder, merged)
            for run in merged:
                run.path.unlink(missing_ok=True)


def is_good(run: Run) -> bool:
    """Whether a run's records are undamaged; a damaged run is deleted, and its segments are sealed anew."""
    descriptors = Descriptors(1)
    try:
        Run(run.path, descriptors).check()
    except DamagedIndex:
        run.path.unlink(missing_ok=True)
        return False
    finally:
        descriptors.close()
    return True


def to_merge(runs: Sequence[Run], limit: int) -> list[Run]:
    """The smallest runs, up to the first that is FEWER times as large as they together, or beyond `limit` records."""
    chosen: list[Run] = []
    total = 0
    for run in sorted(runs, key=lambda run: run.header.count):
        if chosen and (run.header.count > FEWER * total or run.header.count + total > limit):
            break
        chosen.append(run)
        total += run.header.count
    return chosen


def merge(folder: Path, runs: Sequence[Run]) -> None:
    """Merge several runs into one, some million records at a time."""
    segments: dict[str, int] = {}
    for run in runs:
        for name, size in run.header.segments.items():
            segments[name] = max(size, segments.get(name, 0))
    segments = dict(sorted(segments.items()))
    numbers = {name: number for number, name in enumerate(segments)}
    spend: Spend = {}
    for run in runs:
        add_spend(spend, run.header.spend)
    tables = [(run.records(), np.array([numbers[name] for name in run.names], "<u4")) for run in runs]
    count = sum(run.header.count for run in runs)
    pieces = -(-count // MERGED_AT_ONCE)

    def chunks() -> Iterable[Any]:
        starts = [0] * len(tables)
        for piece in range(1, pieces + 1):
            bound = np.uint64((piece << 64) // pieces - 1)
            parts = []
            for number, (table, new_numbers) in enumerate(tables):
                end = int(table["high"].searchsorted(bound, "right")) if piece < pieces else len(table)
                part = np.array(table[starts[number] : end])
                part["segment"] = new_numbers[part["segment"]]
                parts.append(part)
                starts[number] = end
            yield sorted_by_key(parts)

    name = f"merged-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{secrets.token_hex(4)}{INDEX}"
    write_run(folder / name, segments, spend, count, chunks())


def add_spend(total: Spend, addition: Spend) -> None:
    """Add to `total`; numbers that are missing at the end are 0."""
    for origin, numbers in addition.items():
        if (sums := total.get(origin)) is None:
            sums = total[origin] = list(ZEROS)
        for place, number in enumerate(numbers):
            sums[place] += number
