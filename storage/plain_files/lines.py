"""Raw rows of files, queries and Hub datasets: JSONL, JSON, CSV, TSV (also packed with gzip), Parquet and SQL.

A bad row has no fields and a reason; a bad file stops everything before any work.
"""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.texts import loads
from synthmill.storage.plain_files.json_arrays import ArrayReader, Whole
from synthmill.storage.plain_files.queries import QUERY, rows_of

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
FORMATS = ".jsonl, .json, .csv, .tsv (also with .gz), .parquet or .sql, or hf://datasets/OWNER/NAME[@REVISION][#SPLIT]"
HUB = "hf://datasets/"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""With which a file in this encoding begins."""


class Line(NamedTuple):
    """One raw row: its place, and its fields, or the reason why it has none. file: its name within a folder."""

    place: str
    fields: dict[str, Any] | None
    fault: str = ""
    file: str = ""


def suffix_of(path: Path) -> str:
    name = path.name.lower()
    for suffix in (*SUFFIXES, ".parquet", QUERY):
        if name.endswith(suffix) or (suffix in SUFFIXES and name.endswith(f"{suffix}.gz")):
            return suffix
    raise InputError(f"{path} has an unknown ending; expected {FORMATS}")


def files_in(folder: Path) -> dict[str, Path]:
    """A folder's files of rows, sorted by name, without hidden ones. Raises InputError where there is none."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and has_rows(path):
            files[path.name] = path
    if not files:
        raise InputError(f"{folder} has no file of rows; expected some that end in {FORMATS}")
    return files


def has_rows(path: Path) -> bool:
    try:
        return suffix_of(path) != QUERY
    except InputError:
        return False


def lines_of(place: str) -> Iterator[Line]:
    """Raw rows of a file or a Hub dataset, one at a time. Raises InputError when the file itself is damaged."""
    if place.startswith(HUB):
        yield from read_hub(place)
        return
    path = Path(place).expanduser()
    if path.is_dir():
        for name, file in files_in(path).items():
            yield from (line._replace(place=f"{name}:{line.place}", file=name) for line in lines_of(str(file)))
        return
    suffix = suffix_of(path)
    if suffix == QUERY:
        yield from (Line(f"row-{number}", fields) for number, fields in enumerate(rows_of(path), 1))
        return
    try:
        if suffix == ".parquet":
            yield from read_parquet(path)
            return
        with open_file(path) as file:
            if file.peek(2)[:2] in UTF_16:
                raise InputError(f"{path} is UTF-16; expected UTF-8: save it again in that encoding")
            if suffix in (".csv", ".tsv"):
                yield from read_csv(file, "excel-tab" if suffix == ".tsv" else "excel")
            else:
                yield from read_jsonl(file) if suffix == ".jsonl" else read_json_array(path, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is not a whole gzip file ({error}); fetch it again") from error
    except csv.Error as error:
        raise InputError(f"{path} is not valid CSV: {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there; expected a file that ends in {FORMATS}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def open_file(path: Path) -> Any:
    """Open a file's bytes, unpacked if its name ends in .gz."""
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def read_json_array(path: Path, file: IO[bytes]) -> Iterator[Line]:
    """The objects of one JSON array; a trajectory (forms/atif.py) is a file's only row. Raises InputError for anything
    else.
    """
    try:
        for number, fields in enumerate(ArrayReader(file).members(), 1):
            if isinstance(fields, Whole):
                fields = fields.value
                if not isinstance(fields, dict) or "schema_version" not in fields:
                    raise InputError(
                        f"{path} holds {type(fields).__name__}; expected an array of objects; one a line is .jsonl"
                    )
            fault = "" if isinstance(fields, dict) else f"not_an_object: found {type(fields).__name__}"
            yield Line(f"row-{number}", None if fault else fields, fault)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}; for one object per line, name it .jsonl") from error


def is_padded(place: str) -> bool:
    """Whether all rows of a file share one type, so that a null field may only be another row's."""
    return place.startswith(HUB) or suffix_of(Path(place)) == ".parquet"


def read_jsonl(file: io.BufferedIOBase) -> Iterator[Line]:
    for number, data in enumerate(file, 1):
        if not data.strip():
            continue
        place = f"line-{number}"
        data = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
        try:
            data.decode()
            fields = parse_json(data)
        except UnicodeDecodeError as error:
            yield Line(place, None, f"not_utf8: {error.reason} at byte {error.start}")
        except (orjson.JSONDecodeError, RecursionError) as error:
            yield Line(place, None, f"bad_json: {error}")
        else:
            if isinstance(fields, dict):
                yield Line(place, fields)
            else:
                yield Line(place, None, f"not_an_object: found {type(fields).__name__}")


def parse_json(data: bytes) -> Any:
    """JSON, also with the NaN, Infinity and endless numbers that Python's own writer makes."""
    try:
        return loads(data)
    except orjson.JSONDecodeError as error:
        if b"NaN" in data or b"Infinity" in data or "infinity" in str(error):
            with suppress(ValueError, RecursionError):
                return json.loads(data)
        raise


def read_csv(file: Any, dialect: str) -> Iterator[Line]:
    csv.field_size_limit(sys.maxsize)
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        is_tsv = dialect == "excel-tab"  # a stray quote must not swallow lines: only whole fields are in quotes
        reader = csv.DictReader(text, dialect=dialect, quoting=csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL)
        for fields in reader:
            values = {name: value if value != "" else None for name, value in fields.items() if name}
            if is_tsv:
                values = {name: unquoted(value) if isinstance(value, str) else value for name, value in values.items()}
            yield Line(f"line-{reader.line_num}", values)


def unquoted(field: str) -> str:
    is_quoted = len(field) > 1 and field[0] == field[-1] == '"'
    return field[1:-1].replace('""', '"') if is_quoted else field


def read_parquet(path: Path) -> Iterator[Line]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for fields in batch.to_pylist():
                number += 1
                yield Line(f"row-{number}", fields)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}; write or fetch it again") from error


def hub_commit(place: str) -> tuple[str, str, str]:
    """(dataset, commit, split) of hf://datasets/OWNER/NAME[@REVISION][#SPLIT], as the Hub has it now."""
    from huggingface_hub import HfApi

    name, _, split = place.removeprefix(HUB).partition("#")
    name, _, revision = name.partition("@")
    try:
        commit = HfApi().dataset_info(name, revision=revision or None).sha
    except Exception as error:  # the client's own errors, its HTTP library's, the system's
        raise InputError(f"{place} cannot be reached on the Hub: {' '.join(str(error).split())[:200]}") from error
    return name, commit or revision, split or "train"


def read_hub(place: str) -> Iterator[Line]:
    """Rows of a Hub dataset at one commit, streamed through `datasets`."""
    from datasets import load_dataset

    name, commit, split = hub_commit(place)
    try:
        for number, fields in enumerate(load_dataset(name, revision=commit, split=split, streaming=True), 1):
            yield Line(f"row-{number}", dict(fields))
    except (ValueError, OSError) as error:
        raise InputError(f"{place} cannot be read: {' '.join(str(error).split())[:200]}") from error


def text_of(value: Any, field: str) -> str:
    """A field that is a text. Raises Drop."""
    if value is None:
        raise Drop(f"null_{field}")
    if not isinstance(value, str):
        raise Drop(f"{field}_not_text: found {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Drop("not_utf8") from None
    return value
