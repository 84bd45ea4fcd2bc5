"""A catalog that is brought up to date says what one made from nothing says, and reads only what is new."""

import os
import resource
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.scale_catalog import DERIVED, DROPS, ROWS, STAGES, add_segment, forget, make, make_artifact, row_id
from synthmill.schemas.artifacts import Manifest
from synthmill.storage.artifacts import Store
from synthmill.storage.call_copies import COPIES
from synthmill.storage.calls import segment_files
from synthmill.storage.catalog import open_catalog, query, rebuild
from synthmill.storage.lineage import lineage_of
from synthmill.storage.runs import new_run, write_run

opens: list[str] = []
sys.addaudithook(lambda event, values: opens.append(str(values[0])) if event == "open" else None)
TABLES = {
    "runs": "run, status",
    "artifacts": "artifact, rows, dropped",
    "lineage": "*",
    "drops": "*",
    "calls": "key",
    "spend": "run, calls",
}


def contents(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """Everything that a catalog says, views over artifacts included."""
    with open_catalog(store) as catalog:
        views = catalog.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1").fetchall()
        rows = {
            name: catalog.execute(f"SELECT {columns} FROM {name} ORDER BY ALL").fetchall()
            for name, columns in TABLES.items()
        }
        for (name,) in views:
            rows[f"rows of {name}"] = catalog.sql(f'SELECT * FROM "{name}" ORDER BY ALL').fetchall()
    return rows


def part_of(store: Store, manifest: Manifest) -> Path:
    return store.root / manifest.parts[0].file


def with_stamp(path: Path, data: bytes) -> None:
    """Change a file so that nobody sees it who does not read it."""
    status = path.stat()
    path.write_bytes(data[: status.st_size].ljust(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def chains(store: Store) -> Store:
    make(store, 2 * len(STAGES), runs=2, segments=3)
    return store


def test_what_comes_changes_and_goes(chains: Store) -> None:
    store = chains
    manifests = list(store.manifests())
    data = part_of(store, manifests[1]).read_bytes()
    record = write_run(store, new_run("f", {}))
    changes = {
        "nothing": lambda: None,
        "an artifact": lambda: make_artifact(store, 100, None),
        "its manifest again": lambda: make_artifact(store, 100, None),
        "a stage's latest is gone": lambda: store.manifest_path(STAGES[0], manifests[4].key).unlink(),
        "a part is gone": lambda: part_of(store, manifests[1]).unlink(),
        "a part is there again": lambda: part_of(store, manifests[1]).write_bytes(data),
        "a part is damaged": lambda: part_of(store, manifests[5]).write_bytes(b"PAR1 nonsense"),
        "a manifest is damaged": lambda: store.manifest_path(STAGES[2], manifests[2].key).write_text("{"),
        "another's manifest": lambda: store.manifest_path(STAGES[3], "k").write_text(manifests[3].model_dump_json()),
        "a run ends": lambda: write_run(store, record.model_copy(update={"status": "finished"})),
        "a run's record is gone": lambda: next(store.runs.glob("*.json")).unlink(),
        "calls": lambda: add_segment(store, 50),
        "a segment is gone": lambda: segment_files(store.calls)[0].unlink(),
    }
    for what, change in changes.items():
        change()
        rebuild(store)
        updated = contents(store)
        forget(store)
        assert updated == contents(store), what
    assert len(updated["artifacts"]) == 2 * len(STAGES) + 1 - 3
    assert len(updated["calls"]) == 30


def test_only_what_is_new_is_read(chains: Store) -> None:
    rebuild(chains)
    for manifest in chains.manifests():  # whoever opened one of these would see it
        with_stamp(part_of(chains, manifest), b"nonsense")
    last = make_artifact(chains, 99, None)
    record = write_run(chains, new_run("f", {}))
    opens.clear()
    rebuild(chains)
    read = {Path(path).name for path in opens if path.endswith(".json") and str(chains.root) in path}
    assert read == {f"{last.key}.json", f"{record.id}.json"}
    assert query(chains, "SELECT count(*) FROM artifacts")[1] == [(2 * len(STAGES) + 1,)]


def test_a_damaged_artifact_takes_nothing_with_it(chains: Store) -> None:
    first, second, *_ = chains.manifests()
    part_of(chains, first).write_bytes(b"PAR1 nonsense")
    chains.manifest_path(second.stage, second.key).write_bytes(b"{")
    rebuild(chains)
    names = {name for (name,) in query(chains, "SELECT artifact FROM artifacts")[1]}
    assert len(names) == 6 and not {first.reference, second.reference} & names
    assert query(chains, f"SELECT count(*) FROM {STAGES[0]}")[1] == [(ROWS,)]  # the latest that is whole
    opens.clear()
    rebuild(chains)
    assert not [path for path in opens if str(chains.root / "artifacts") in path]  # nor are they looked at again


def test_copies_stay_few_however_many_runs_there_are(chains: Store) -> None:
    for number in range(30):
        make_artifact(chains, 300 + 3 * number, None)
        add_segment(chains, 300 + number)
        rebuild(chains)
    with open_catalog(chains) as catalog:
        views = dict(catalog.execute("SELECT view_name, sql FROM duckdb_views() WHERE NOT internal").fetchall())
    assert views["drops"].count(".parquet") < 8 and views["calls"].count(".parquet") < 8
    assert query(chains, "SELECT count(*) FROM drops")[1] == [(DROPS * (3 + 30),)]
    assert query(chains, "SELECT count(*), count(DISTINCT key) FROM calls")[1] == [(330, 330)]
    assert query(chains, "SELECT sum(calls)::INT FROM spend")[1] == [(330,)]


def test_copies_of_single_segments_are_used_and_few_files_are_open(chains: Store) -> None:
    for number in range(300):
        add_segment(chains, 100 + number)
    rebuild(chains)
    [copy] = (chains.calls / COPIES).iterdir()
    for segment in segment_files(chains.calls):  # as they were made one by one
        table = pq.read_table(copy).slice(0, 10).replace_schema_metadata(None)
        pq.write_table(table, copy.with_name(f"{segment.stem}.parquet"))
    copy.unlink()
    chains.catalog.unlink()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = max(int(path.name) for path in Path("/proc/self/fd").iterdir())  # by the tests before this one
    resource.setrlimit(resource.RLIMIT_NOFILE, (held + 200, limits[1]))
    try:
        assert query(chains, "SELECT count(*), count(DISTINCT key) FROM calls")[1] == [(3030, 10)]  # of the copies
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with open_catalog(chains) as catalog:
        [sql] = catalog.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'calls'").fetchone() or ()
    assert sql.count(".parquet") < 8


def test_looking_at_artifacts_copies_no_calls(chains: Store) -> None:
    rebuild(chains, calls=False)
    assert not (chains.calls / COPIES).exists()
    assert query(chains, "SELECT count(*) FROM calls")[1] == [(30,)]
    rebuild(chains, calls=False)
    with open_catalog(chains, calls=False) as catalog:
        assert catalog.execute("SELECT sum(calls)::INT FROM spend").fetchall() == [(30,)]


def test_a_row_is_found_by_the_index_of_ids(chains: Store) -> None:
    rebuild(chains)
    index = chains.root / DERIVED[1] / "rows"
    assert not index.exists()  # nobody has asked yet
    assert [step.row["id"] for step in lineage_of(chains, row_id(3, 7)).steps] == [row_id(n, 7) for n in range(4)]
    for manifest in list(chains.manifests())[4:]:
        with_stamp(part_of(chains, manifest), b"nonsense")
    assert len(lineage_of(chains, f"{row_id(2, 7)}-chosen").steps) == 3
    assert lineage_of(chains, row_id(3, ROWS)).drops[0][1].reason == "too_short"
    assert lineage_of(chains, "nobody") == ([], [])
    make_artifact(chains, 7 * 4, None)
    before = len(list(index.iterdir()))
    rebuild(chains)
    assert len(list(index.iterdir())) == before + 1
    assert len(lineage_of(chains, row_id(28, 1)).steps) == 1
