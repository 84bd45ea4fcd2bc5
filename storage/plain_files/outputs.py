"""Rows into a plain file, part by part: JSONL, JSONL.gz, JSON or Parquet, by its ending; all or nothing."""

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from synthmill.schemas.errors import InputError
from synthmill.storage.files import write_atomically
from synthmill.storage.sql import exact

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".parquet")
Rows: TypeAlias = list[dict[str, Any]] | pa.Table


def check_out(out: Path, *sources: str) -> None:
    """Raises InputError, before any token is spent, when the output cannot be written or would replace the input."""
    if not out.name.endswith(ENDINGS):
        raise InputError(f"{out} has an unknown ending; expected one of {', '.join(ENDINGS)}")
    if out.resolve() in [Path(source).expanduser().resolve() for source in sources if source]:
        raise InputError(f"{out} is the input, too; choose another --out")
    if out.is_dir() or not os.access(out.resolve().parent, os.W_OK):
        raise InputError(f"{out} cannot be written; expected a file in a folder that is there and may be written to")


def line_of(row: dict[str, Any]) -> bytes:
    """A row as a line of JSON; bytes and invalid Unicode are written as readable text."""
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        return json.dumps(row, ensure_ascii=False, default=str).encode(errors="replace") + b"\n"


def write_grown(
    out: Path, source: str, schema: pa.Schema | None, added: Mapping[str, pa.DataType], parts: Iterable[Rows]
) -> int:
    """Write a file's rows with columns that were added; schema: the file's own, where it has one. Returns how many.

    Raises InputError when rows of different kinds do not fit one Parquet table.
    """
    if out.suffix != ".parquet":
        return write_rows(out, None, parts)
    if schema is not None:
        fields = [field for field in schema if field.name not in added]
        return write_rows(out, pa.schema([*fields, *(pa.field(name, kind) for name, kind in added.items())]), parts)
    with TemporaryDirectory(dir=out.resolve().parent, prefix=".rows-") as folder:
        rows, typed = Path(folder) / "rows.jsonl", Path(folder) / "rows.parquet"
        if not write_rows(rows, None, parts):
            return write_rows(out, pa.schema([pa.field(name, kind) for name, kind in added.items()]), [])
        import polars as pl  # the commands that need no table start without it

        try:
            kinds = {
                name: pl.DataFrame(pa.schema([pa.field(name, kind)]).empty_table()).schema[name]
                for name, kind in added.items()
            }
            pl.scan_ndjson(exact(str(rows)), infer_schema_length=None, schema_overrides=kinds).sink_parquet(typed)
        except pl.exceptions.PolarsError as error:
            raise InputError(
                f"the rows of {source} do not fit one table ({' '.join(str(error).split())[:100]}); write --out "
                "OUT.jsonl: nothing is done twice"
            ) from error
        file = pq.ParquetFile(typed)
        tables: Iterator[Rows] = (pa.table(batch) for batch in file.iter_batches())
        return write_rows(out, file.schema_arrow, tables)


def write_rows(out: Path, columns: pa.Schema | None, parts: Iterable[Rows]) -> int:
    """Write rows as `out` ends; columns: their Arrow schema, which Parquet needs. Returns how many."""
    written = 0

    def write(path: Path) -> None:
        nonlocal written
        if out.suffix == ".parquet":
            with pq.ParquetWriter(path, columns, compression="zstd") as writer:
                for rows in parts:
                    writer.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, columns))
                    written += len(rows)
            return
        is_array = out.suffix == ".json"
        with gzip.GzipFile(path, "wb", mtime=0) if out.suffix == ".gz" else path.open("wb") as file:
            for rows in parts:
                dicts = rows.to_pylist() if isinstance(rows, pa.Table) else rows
                for number, line in enumerate(map(line_of, dicts), written):
                    file.write((b",\n" if number else b"[\n") + line[:-1] if is_array else line)
                written += len(rows)
            if is_array:
                file.write(b"\n]\n" if written else b"[]\n")

    write_atomically(out, write)
    return written
