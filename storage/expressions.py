"""SQL expressions over the columns of a row, computed by DuckDB in this process.

An expression sees its own row and nothing else: no file, no setting, no other row, no clock, no chance. So a row's
value is the same in every part and in every run. DuckDB's own list of functions says which ones keep to that.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from typing import Any, NamedTuple

import duckdb
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from synthmill.schemas.column_names import absent
from synthmill.schemas.errors import InputError
from synthmill.storage.sql import literal, quoted

ROWS = "rows"
LOCKED: dict[str, Any] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "temp_directory": "",
    "memory_limit": "2GB",
    "threads": 1,
}
REFUSED = {
    "SUBQUERY": "a query within it would read other rows",
    "WINDOW": "a window reads other rows",
    "STAR": "it stands for several columns",
    "PARAMETER": "a parameter has no value here",
    "POSITIONAL_REFERENCE": "a place in a list of columns has no meaning here",
    "DEFAULT": "a row has no defaults",
}
WIDENED = ((re.compile(r"DECIMAL\(\d+,\d+\)"), "DOUBLE"), (re.compile(r"\bU?HUGEINT\b"), "BIGINT"))
"""Types of exact arithmetic, which literals like 1.5 and sums of lists have, and what users expect instead."""


class Parsed(NamedTuple):
    """An expression that was checked. names: what it uses, columns if it is right; parameters: of its lambdas."""

    text: str
    names: tuple[str, ...]
    parameters: tuple[str, ...]


class Computed(NamedTuple):
    """values: a column per expression, in the rows' order; failed: per expression, the rows where it has no value
    because its computation failed, for instance a text that is no number; faults: per such expression, an example.
    """

    values: pa.Table
    failed: dict[str, list[int]]
    faults: dict[str, str]


@lru_cache(maxsize=1)
def database(process: int) -> duckdb.DuckDBPyConnection:
    """A database that reads no file and whose settings are locked: one per process, because opening and closing it
    takes five times as long as the work on a part. process: its id, so that a forked one opens its own. One thread:
    parts are small, and there are workers for more.
    """
    connection = duckdb.connect(config=LOCKED)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    return connection


@lru_cache(maxsize=1024)
def parse(text: str) -> Parsed:
    """Check an expression without its columns. Raises InputError where it depends on more than its row."""
    with closing(database(os.getpid()).cursor()) as connection:
        tree = syntax_tree(text, f"SELECT (\n{text}\n) FROM {ROWS}", connection)
        if len(tree) != 1 or len(syntax_tree(text, f"SELECT \n{text}\n", connection)) != 1:  # a, b would be one row
            raise InputError(f"{text!r} is more than one SQL expression; expected one, over the columns of a row")
        nodes = list(nodes_of(tree))
        for node in nodes:
            if why := REFUSED.get(node.get("class", "")):
                raise InputError(f"{text!r} cannot be computed row by row: {why}; expected an expression over columns")
            if node.get("function_name") == "age" and len(node.get("arguments", node.get("children", ()))) == 1:
                raise InputError(f"{text!r}: age of one date depends on the time; give it a second one")
        check_functions(text, {node["function_name"].lower() for node in nodes if "function_name" in node}, connection)
    parameters = {name for node in nodes if node.get("class") == "LAMBDA" for name in names_in(node["lhs"])}
    parameters -= {name for node in nodes if node.get("syntax_type") == "SINGLE_ARROW" for name in names_in(node)}
    names = dict.fromkeys(name for name in names_in(tree) if name not in parameters)
    return Parsed(text, tuple(names), tuple(sorted(parameters)))


def syntax_tree(text: str, query: str, connection: duckdb.DuckDBPyConnection) -> list[Any]:
    """What a query of one expression selects. Raises InputError where it is none, or does more than select."""
    answer = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchone()
    tree = orjson.loads(answer[0] if answer else "{}")
    if tree.get("error"):
        raise InputError(f"{text!r} is no SQL expression: {tree.get('error_message')}")
    [select, *others] = [statement["node"] for statement in tree["statements"]]
    clauses = [select.get(name) for name in ("where_clause", "having", "qualify", "sample", "group_expressions")]
    selected: list[Any] = select.get("select_list") or []
    if others or any(clauses) or select["type"] != "SELECT_NODE" or any(node.get("alias") for node in selected):
        raise InputError(f"{text!r} is more than an SQL expression; expected one, over the columns of a row")
    return selected


def nodes_of(tree: Any) -> Iterator[dict[str, Any]]:
    """Every node of a parsed expression."""
    if isinstance(tree, dict):
        yield tree
    for branch in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from nodes_of(branch)


def names_in(tree: Any) -> Iterator[str]:
    """The first part of every name in a parsed expression: `meta` of `meta.topic`."""
    return (node["column_names"][0] for node in nodes_of(tree) if node.get("class") == "COLUMN_REF")


def check_functions(text: str, names: Iterable[str], connection: duckdb.DuckDBPyConnection) -> None:
    """Raises InputError for a function that depends on other rows, time, chance or the session, also within a macro."""
    for name in sorted(names):
        if name == "unnest":
            raise InputError(f"{text!r}: unnest makes several rows of one; use the stage explode for that")
        for kind, stability, definition in functions_called(name, os.getpid()):
            if kind in ("aggregate", "window"):
                raise InputError(
                    f"{text!r}: {name} reads other rows, so its result would depend on how rows are divided; expected "
                    "an expression over one row (for a list within a row: list_sum, list_avg, list_max, ...)"
                )
            if kind == "scalar" and stability != "CONSISTENT":
                raise InputError(f"{text!r}: {name} depends on time, chance or the session; expected one over columns")
            if kind == "macro":
                check_macro(text, name, definition, connection)


@lru_cache(maxsize=4096)
def functions_called(name: str, process: int) -> list[tuple[str, str, str]]:
    """The kind, stability and definition of every function of a name; DuckDB takes 20 ms for each look at its list."""
    with closing(database(process).cursor()) as connection:
        return connection.execute(
            """SELECT function_type, stability, macro_definition FROM duckdb_functions() WHERE function_name = ?
            AND function_type IN ('scalar', 'aggregate', 'window', 'macro')""",
            [name],
        ).fetchall()


def check_macro(text: str, name: str, definition: str, connection: duckdb.DuckDBPyConnection) -> None:
    """check_functions for what a macro stands for."""
    answer = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT {definition}"]).fetchone()
    nodes = list(nodes_of(orjson.loads(answer[0] if answer else "{}")["statements"]))
    if any(node.get("class") in ("SUBQUERY", "WINDOW") for node in nodes):
        raise InputError(f"{text!r}: {name} reads more than its row; expected an expression over one row's columns")
    functions = {node["function_name"].lower() for node in nodes if "function_name" in node}
    check_functions(text, functions - {name}, connection)


def needed_columns(expressions: Iterable[str], columns: Sequence[str]) -> list[str]:
    """The columns that expressions read. Names are found in any case, as everywhere in SQL. Raises InputError."""
    by_fold: dict[str, list[str]] = {}
    for column in columns:
        by_fold.setdefault(column.casefold(), []).append(column)
    needed = dict[str, None]()
    for text in expressions:
        parsed = parse(text)
        also_columns = [name for name in parsed.parameters if name.casefold() in by_fold]
        for name in (*parsed.names, *also_columns):
            matches = by_fold.get(name.casefold(), [])
            if not matches and name.lower().startswith(("current_", "local")):
                raise InputError(
                    f"{text!r}: {name} depends on time or the session; expected an expression over columns"
                )
            if not matches:
                raise InputError(
                    f"{text!r}: {absent(name, columns)} (a text is written in single quotes: {literal(name)})"
                )
            if len(matches) > 1:
                raise InputError(
                    f"{text!r}: {name} may be {' or '.join(matches)}, which are one name in SQL; rename one of them"
                )
            needed[matches[0]] = None
    return list(needed)


def compute(table: pa.Table, expressions: Mapping[str, str]) -> Computed:
    """The values of expressions, by name, for every row of a table. Raises InputError where an expression, or its type,
    cannot be; a row that fails is no error.
    """
    rows = table.select(needed_columns(expressions.values(), table.column_names) or table.column_names[:1])
    with closing(database(os.getpid()).cursor()) as connection:
        connection.register(ROWS, rows)
        selected = {name: cast_expression(text, connection) for name, text in expressions.items()}
        try:
            return Computed(select(selected, connection), {}, {})
        except duckdb.Error:
            return compute_apart(selected, connection)


def cast_expression(text: str, connection: duckdb.DuckDBPyConnection) -> str:
    """An expression with a type that tables have: no decimals, no numbers of 128 bits. Raises InputError."""
    try:
        [kind] = connection.sql(f"SELECT (\n{text}\n) FROM {ROWS}").types
    except duckdb.Error as error:
        raise InputError(f"{text!r}: {first_line(error)}") from error
    wider = str(kind)
    for pattern, replacement in WIDENED:
        wider = pattern.sub(replacement, wider)
    if "INTERVAL" in wider:
        raise InputError(f"{text!r} gives an interval, which a table cannot hold; take its seconds with epoch(...)")
    return f"(\n{text}\n)" if wider == str(kind) else f"CAST((\n{text}\n) AS {wider})"


def select(expressions: Mapping[str, str], connection: duckdb.DuckDBPyConnection) -> pa.Table:
    columns = ", ".join(f"{text} AS {quoted(name)}" for name, text in expressions.items())
    return connection.sql(f"SELECT {columns} FROM {ROWS}").to_arrow_table()


def compute_apart(expressions: Mapping[str, str], connection: duckdb.DuckDBPyConnection) -> Computed:
    """Each expression by itself, with null where it fails. Raises InputError where even that fails."""
    columns, failed, faults = dict[str, Any](), dict[str, list[int]](), dict[str, str]()
    for name, text in expressions.items():
        try:
            columns[name] = select({name: text}, connection)[name]
        except duckdb.Error as error:
            faults[name] = first_line(error)
            try:  # one query each, else DuckDB computes what they share outside of TRY; a hash is null in no other case
                columns[name] = select({name: f"TRY({text})"}, connection)[name]
                missing = select({name: f"TRY(hash({text})) IS NULL"}, connection)[name]
            except duckdb.Error as second:
                raise InputError(f"{name} cannot be computed: {first_line(second)}") from second
            failed[name] = pc.indices_nonzero(missing).to_pylist()
    return Computed(pa.table(columns), failed, faults)


def first_line(error: duckdb.Error) -> str:
    return str(error).partition("\n")[0].strip()[:300]
