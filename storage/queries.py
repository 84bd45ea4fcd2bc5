"""A DuckDB query as a source: a `.sql` file, whose last statement's rows are the source's rows.

Names of files in it are relative to its folder. A database is attached, to be read only:

    ATTACH 'logs.duckdb' AS logs (READ_ONLY);
    SELECT id, prompt FROM logs.turns WHERE rating >= 4 ORDER BY at;

ORDER BY something that grows keeps the parts that are made already; answers are found again in any case.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from schemas.errors import InputError

QUERY = ".sql"
BATCH = 1024
READ_ONLY = re.compile(r"\((?:[^)']*,)?\s*READ_ONLY(?:\s+true)?\s*(?:,[^)']*)?\)\s*;?\s*$", re.I)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a query, one at a time. Raises InputError for what cannot be run, and for what does not only read."""
    import duckdb

    select, attach = duckdb.StatementType.SELECT, duckdb.StatementType.ATTACH
    try:
        folder = str(path.parent.resolve())
        options = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
        with duckdb.connect(config={**options, "file_search_path": folder}) as database:
            statements = database.extract_statements(path.read_text(encoding="utf-8"))
            if not statements or statements[-1].type != select:
                raise InputError(f"{path}: its last statement gives no rows; expected a SELECT")
            for statement in statements:
                read_only = statement.type != attach or READ_ONLY.search(bare(statement.query))
                if statement.type not in (select, attach, duckdb.StatementType.LOAD) or not read_only:
                    said = " ".join(statement.query.split())[:80]
                    expected = "SELECT, LOAD, and ATTACH 'FILE' AS NAME (READ_ONLY)"
                    raise InputError(f"{path}: {said!r} does not only read; expected {expected}")
            for statement in statements[:-1]:
                database.execute(attached_in(folder, bare(statement.query)))
            result = database.execute(statements[-1])
            columns = [column[0] for column in result.description]
            if len(set(columns)) < len(columns):
                raise InputError(
                    f"{path} gives two columns of one name ({', '.join(columns)}); name one of them AS another"
                )
            while rows := result.fetchmany(BATCH):
                yield from (dict(zip(columns, row, strict=True)) for row in rows)
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there; expected a file of SQL") from error
    except (duckdb.Error, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be run: {' '.join(str(error).split())[:300]}") from error


def bare(statement: str) -> str:
    """A statement without its comments."""
    return re.sub(r"--[^\n]*|/\*.*?\*/", " ", statement, flags=re.S)


def attached_in(folder: str, query: str) -> str:
    """ATTACH does not look for files where the others are looked for."""
    found = re.match(r"(\s*ATTACH\s+(?:DATABASE\s+)?(?:IF\s+NOT\s+EXISTS\s+)?')([^':]+)(')", query, re.I)
    if not found:
        return query
    file = Path(folder.replace("'", "''")) / found[2]
    return f"{found[1]}{file.as_posix()}{found[3]}{query[found.end() :]}"


def checksum_of(path: Path) -> str:
    """What identifies a query's result: its rows, in their order. Raises InputError."""
    told = hashlib.blake2b(digest_size=16)
    for row in rows_of(path):
        told.update(orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS))
    return told.hexdigest()
