"""The views of a catalog: one for each artifact, one for each stage's latest artifact, drops, calls.

DuckDB opens a file to create a view over it, so only new and changed artifacts get one.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb

from synthmill.storage.artifacts import Store
from synthmill.storage.catalog_update import delete_rows
from synthmill.storage.copies import Copies
from synthmill.storage.sql import insert, parquet, quoted

RESERVED = ("runs", "artifacts", "lineage", "drops", "calls", "spend", "store")
VIEWS = f"""(SELECT artifact AS name, stage, arg_max(key, made_at || key) AS key FROM artifacts GROUP BY ALL
    UNION ALL SELECT stage AS name, stage, arg_max(key, made_at || key) AS key FROM artifacts
    WHERE stage NOT IN {RESERVED} GROUP BY ALL)"""
VIEWS_PER_BATCH = 100
DROPS = ("id", "reason", "detail")


def update_views(database: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Views over artifacts. An artifact that DuckDB cannot open is left out of the catalog."""
    while True:
        outgoing = database.execute(
            f"SELECT name FROM internal.views ANTI JOIN {VIEWS} USING (name) WHERE key != ''"
        ).fetchall()
        drop_views(database, [name for (name,) in outgoing])
        new = database.execute(
            f"""SELECT name, stage, key, stamp, list(file ORDER BY position)
            FROM {VIEWS} JOIN internal.manifests USING (stage, key)
            ANTI JOIN internal.views USING (name, stage, key, stamp)
            JOIN (SELECT stage, key, position, file FROM internal.parts) USING (stage, key) GROUP BY ALL"""
        ).fetchall()
        failed = create_views(database, store, {name: files for name, *_, files in new})
        rows = [{"name": n, "stage": s, "key": key, "stamp": stamp} for n, s, key, stamp, _ in new if n not in failed]
        database.execute("DELETE FROM internal.views WHERE name IN (SELECT unnest(?))", [[row["name"] for row in rows]])
        insert(database, "internal.views", rows)
        if not failed:
            return
        drop_views(database, failed)
        delete_rows(database, ["artifacts"], {(stage, key) for name, stage, key, *_ in new if name in failed})


def drop_views(database: duckdb.DuckDBPyConnection, names: list[str]) -> None:
    for name in names:
        database.execute(f"DROP VIEW IF EXISTS {quoted(name)}")
    database.execute("DELETE FROM internal.views WHERE name IN (SELECT unnest(?))", [names])


def create_views(database: duckdb.DuckDBPyConnection, store: Store, views: Mapping[str, list[str]]) -> list[str]:
    """Create views, name -> files; returns the names of those that DuckDB cannot create."""
    statements = {
        name: f"CREATE OR REPLACE VIEW {quoted(name)} AS SELECT * FROM {parquet(store.root / file for file in files)}"
        for name, files in views.items()
    }
    names = list(statements)
    batches = [names[start : start + VIEWS_PER_BATCH] for start in range(0, len(names), VIEWS_PER_BATCH)]

    def failed(batch: list[str]) -> list[str]:
        with database.cursor() as cursor:
            try:
                cursor.execute("; ".join(["BEGIN", *(statements[name] for name in batch), "COMMIT"]))
                return []
            except duckdb.Error:
                cursor.execute("ROLLBACK")
                return batch

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        suspects = [name for names in threads.map(failed, batches) for name in names]
    return [name for name in suspects if not is_executed(database, statements[name])]


def is_executed(database: duckdb.DuckDBPyConnection, statement: str) -> bool:
    try:
        database.execute(statement)
    except duckdb.Error:
        return False
    return True


def update_drops(database: duckdb.DuckDBPyConnection, store: Store, folder: Path, target: Path | None) -> None:
    """Update the view of drops, over copies of the parts' files of drops. target: where new copies go, if elsewhere.

    A copy names the checksum of each row's file, so that artifacts which share a part share its copy.
    """
    rows = database.execute(
        "SELECT DISTINCT dropped_checksum, dropped_file FROM internal.parts JOIN artifacts USING (stage, key) "
        "WHERE dropped_checksum IS NOT NULL"
    ).fetchall()
    files = {checksum: store.root / file for checksum, file in rows}
    copies = Copies(folder, files, target=target)
    copies.add_files(files, {f"{name} VARCHAR": name for name in DROPS})
    if target is None:
        copies.merge()
        copies.sweep()
    if copies.files:
        rows_of = f"""SELECT artifact, stage, {", ".join(DROPS)} FROM internal.parts JOIN artifacts USING (stage, key)
            JOIN {parquet(sorted(copies.files))} AS copy ON copy.source = parts.dropped_checksum"""
    else:
        rows_of = "SELECT '' AS artifact, '' AS stage, '' AS id, '' AS reason, '' AS detail WHERE false"
    replace_view(database, "drops", rows_of)


def replace_view(database: duckdb.DuckDBPyConnection, name: str, query: str) -> bool:
    """Replace a view if its query is another one; returns whether it was."""
    stamp = database.execute("SELECT stamp FROM internal.views WHERE name = ? AND key = ''", [name]).fetchone()
    if stamp == (query,):
        return False
    database.execute(f"CREATE OR REPLACE VIEW {quoted(name)} AS {query}")
    database.execute("DELETE FROM internal.views WHERE name = ? AND key = ''", [name])
    insert(database, "internal.views", [{"name": name, "stage": "", "key": "", "stamp": query}])
    return True
