"""A DuckDB query as a source: a `.sql` file, whose last statement's rows are the source's rows.

File names in it are relative to its folder. Attach a database read-only:

    ATTACH 'logs.duckdb' AS logs (READ_ONLY);
    SELECT id, prompt FROM logs.turns WHERE rating >= 4 ORDER BY at;

ORDER BY a growing column keeps the parts that are already made; answers are found again in any case.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synthmill.schemas.errors import InputError
from synthmill.schemas.texts import loads

QUERY = ".sql"
RUN = Path(__file__).with_name("run_query.py")


def lines_of_query(path: Path) -> Iterator[bytes]:
    """A query's rows as JSON lines. Raises InputError for a query that fails, and for SQL that does more than read."""
    if not path.is_file():
        raise InputError(f"{path} is not there; expected a file of SQL")
    file = path.resolve()
    command = [sys.executable, "-P", str(RUN), str(file)]
    with subprocess.Popen(command, cwd=file.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stderr
            yield from process.stdout
            errors = process.stderr.read().decode(errors="replace").splitlines()
        finally:
            process.kill()
    if process.returncode:
        raise InputError(f"{path}: {errors[0] if errors else 'its query was ended'}")


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a query, one at a time. Raises InputError."""
    return map(loads, lines_of_query(path))


def checksum_of(path: Path) -> str:
    """What identifies a query's result: its rows, in their order. Raises InputError."""
    hasher = hashlib.blake2b(digest_size=16)
    for line in lines_of_query(path):
        hasher.update(line)
    return hasher.hexdigest()
