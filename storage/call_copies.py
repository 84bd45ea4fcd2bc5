"""Parquet copies of sealed segments of calls, for DuckDB: an answer a row, with what was asked."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from storage.calls import HEAD, Segment, segment_files
from storage.copies import Copies, footer

COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("engine", pa.string()),
        ("role", pa.string()),
        ("stage", pa.string()),
        ("run", pa.string()),
        ("sample", pa.int64()),
        ("messages", pa.string()),
        ("sampling", pa.string()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("latency_s", pa.float64()),
        ("at", pa.float64()),
    ]
)
COPIES = "parquet"
NO_CALLS = (
    "SELECT "
    + ", ".join(
        f"NULL::{ {pa.string(): 'VARCHAR', pa.int64(): 'BIGINT'}.get(field.type, 'DOUBLE') } AS {field.name}"
        for field in COLUMNS
    )
    + " WHERE false"
)
ANSWERS_PER_BATCH = 20_000
BYTES_PER_COPY = 256 << 20  # of segments


def is_sealed(path: Path) -> bool:
    """Whether nobody writes to a segment any more."""
    return Segment(path).index_path.exists()


def copy_calls(folder: Path, target: Path | None = None) -> list[Path]:
    """Parquet copies of the sealed segments of a folder, each segment in one of them; what is new is copied.

    target: where new copies go; default: where the others are.
    """
    segments = {path.stem: path for path in segment_files(folder) if is_sealed(path)}
    copies = Copies(folder / COPIES, segments, exact=True, target=target)
    missing = [segments[name] for name in sorted(copies.missing)]
    for batch in batches(missing):
        copies.add(lambda path, batch=batch: write_copy(batch, path))  # type: ignore[misc]
    if target is None:
        copies.merge()
        copies.sweep()
    return sorted(copies.files)


def batches(segments: Sequence[Path]) -> Iterator[list[Path]]:
    """Segments, as many at once as make a copy of a good size."""
    batch: list[Path] = []
    size = 0
    for path in segments:
        batch.append(path)
        size += path.stat().st_size
        if size >= BYTES_PER_COPY:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def write_copy(segments: Sequence[Path], path: Path) -> Collection[str]:
    names = [segment.stem for segment in segments]
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(path, COLUMNS, compression="zstd") as writer:
        for segment in segments:
            for row in answers(Segment(segment)):
                rows.append(row)
                if len(rows) == ANSWERS_PER_BATCH:
                    writer.write_table(pa.Table.from_pylist(rows, COLUMNS))
                    rows.clear()
        writer.write_table(pa.Table.from_pylist(rows, COLUMNS))
        writer.add_key_value_metadata(footer(names))
    return names


def answers(segment: Segment) -> Iterator[dict[str, Any]]:
    """Each answer of a segment, with what was asked."""
    asked: dict[str, tuple[str, str]] = {}
    for kind, key, _, data in segment.lines():
        record = orjson.loads(data[HEAD:])
        if kind == b"Q":
            asked[key.hex()] = orjson.dumps(record["messages"]).decode(), orjson.dumps(record["sampling"]).decode()
        else:
            messages, sampling = asked.get(record["ask"], ("[]", "{}"))
            yield {**record, "key": key.hex(), "messages": messages, "sampling": sampling}
