"""Runs one file of SQL and prints its rows as JSON lines: `python -P run_query.py FILE`, in FILE's folder.

It is a process of its own (storage/plain_files/queries.py starts it), so that file names are relative to FILE's folder,
and a long query can be killed. It imports nothing of the project. An error is one line on stderr.
"""

import re
import signal
import sys
from pathlib import Path
from typing import Any

import duckdb
import orjson

BATCH = 1024
COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.S)
ATTACHED = re.compile(r"\((?:[^)']*,)?\s*READ_ONLY(?:\s+true)?\s*(?:,[^)']*)?\)\s*;?\s*$", re.I)
LOADED = re.compile(r"\s*LOAD\b", re.I)
OPTIONS: Any = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}


def only_reads(statement: Any) -> bool:
    sql = COMMENTS.sub(" ", statement.query)
    if statement.type == duckdb.StatementType.ATTACH:
        return bool(ATTACHED.search(sql))
    if statement.type == duckdb.StatementType.LOAD:  # DuckDB gives INSTALL the same type
        return bool(LOADED.match(sql))
    return bool(statement.type == duckdb.StatementType.SELECT)


def line_of(row: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(row, default=json_default)
    except TypeError:  # numbers and times that JSON does not know
        return orjson.dumps({name: as_json_value(value) for name, value in row.items()}, default=json_default)


def as_json_value(value: Any) -> Any:
    try:
        orjson.dumps(value, default=json_default)
    except TypeError:
        return str(value)
    return value


def json_default(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def run(sql: str) -> None:
    with duckdb.connect(config=OPTIONS) as database:
        statements = database.extract_statements(sql)
        if not statements or statements[-1].type != duckdb.StatementType.SELECT:
            raise ValueError("its last statement gives no rows; expected a SELECT")
        for statement in statements:
            if not only_reads(statement):
                excerpt = " ".join(statement.query.split())[:80]
                raise ValueError(
                    f"{excerpt!r} does not only read; expected SELECT, LOAD, and ATTACH 'FILE' AS NAME (READ_ONLY)"
                )
        for statement in statements[:-1]:
            database.execute(statement)
        database.execute("SET lock_configuration = true")
        result = database.execute(statements[-1])
        columns = [column[0] for column in result.description]
        if len(set(columns)) < len(columns):
            raise ValueError(f"it gives two columns of one name ({', '.join(columns)}); name one AS another")
        while rows := result.fetchmany(BATCH):
            sys.stdout.buffer.writelines(line_of(dict(zip(columns, row, strict=True))) + b"\n" for row in rows)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        run(Path(sys.argv[1]).read_text(encoding="utf-8-sig"))
        sys.stdout.flush()
    except Exception as error:
        kind = "" if type(error) is ValueError else f"it cannot be run: {type(error).__name__}: "
        sys.exit(kind + " ".join(str(error).split())[:300])


if __name__ == "__main__":
    main()
