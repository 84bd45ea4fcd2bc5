"""Stores in folders with odd names, and stores that cannot be written: each works or says one clear line."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest

from synthmill.flows.commands.gc import collect_garbage
from synthmill.flows.commands.ls import show_list
from synthmill.flows.commands.show import find_artifact
from synthmill.flows.commands.verify import verify_store
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import InputError, StoreError
from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import Store, seal_part, write_manifest
from synthmill.storage.calls import CallStore
from synthmill.storage.catalog import query
from synthmill.storage.lineage import lineage_of
from synthmill.storage.plain_files.outputs import write_grown
from synthmill.storage.runs import StageRun, new_run, write_run
from synthmill.storage.sql import check_path, exact

ODD = ["a*b", "a?b", "a[1]b", "a[b", "a#b", "a'b", 'a"b', "a=b", "a{x}b", "a b", "**", "ä"]
CALL = "ab" * 16


def fill(root: Path) -> Store:
    """A store with one artifact of two rows and a drop, one call and one run."""
    store = Store(root)
    store.prepare()
    table = pa.table({"id": ["r1", "r2"], "source": ["x", "y"], "calls": [[CALL], []]})
    drops = [Dropped(id="r3", reason="too_short", detail="1 word")]
    seal = seal_part(store, "answers", "p1", table, drops, ids_in=["r1", "r2", "r3"])
    columns = {field.name: str(field.type) for field in table.schema}
    manifest = Manifest(stage="answers", key="k1" * 16, identity={}, columns=columns, parts=(seal,))
    manifest = write_manifest(store, manifest)
    calls = CallStore(store.calls, origin={"run": "run", "stage": "answers"})
    asked = b'{"messages":[["user","why?"]],"sampling":{},"sample":0}'
    calls.add(bytes.fromhex(CALL), b"q" * 16, asked, Completion(text="so"), engine="echo", role="student", sample=0)
    calls.close()
    stages = (StageRun.of(manifest, {}, 0.0),)
    write_run(store, new_run("f", {}).model_copy(update={"stages": stages, "status": "finished"}))
    return store


def looks(store: Store) -> None:
    """What every looking command needs."""
    described = query(store, "SELECT column_name FROM (DESCRIBE answers) ORDER BY 1")[1]
    assert [name for (name,) in described] == ["calls", "id", "source"]
    counts = (
        "SELECT (SELECT count(*) FROM answers), (SELECT count(*) FROM drops), (SELECT count(DISTINCT key) FROM calls)"
    )
    assert query(store, counts)[1] == [(2, 1, 1)]
    steps, drops = lineage_of(store, "r1")
    assert [step.row["source"] for step in steps] == ["x"] and not drops
    assert [call.text for call in steps[0].calls] == ["so"]
    assert [row.reason for _, row in lineage_of(store, "r3").drops] == ["too_short"]
    assert find_artifact(store, "answers")
    verify_store(store.root)
    collect_garbage(store.root, -1, delete=False)


@pytest.mark.parametrize("name", ODD)
def test_a_store_in_a_folder_with_an_odd_name(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "aXb")  # what the name would find as a pattern
    store = fill(tmp_path / name)
    looks(store)
    show_list(store.root)
    assert "answers_k1k1k1k1 3 2 1 " in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["a[1]b", "a*b"])
def test_an_output_in_a_folder_with_an_odd_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    out = tmp_path / name / "out.parquet"
    assert write_grown(out, "in", None, {"score": pa.float64()}, [[{"id": "a", "score": 1.0}]]) == 1


def test_a_path_that_duckdb_cannot_open_is_refused(tmp_path: Path) -> None:
    assert exact("/a*b[?") == "/a[*]b[[][?]"
    with pytest.raises(StoreError, match="holds a backslash, which DuckDB takes for a slash"):
        check_path("/a\\b")
    foreign = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    with pytest.raises(InputError, match=r"caf\\xe9 is not UTF-8; rename it"):
        Store(foreign).prepare()


@contextmanager
def only_read(root: Path) -> Iterator[None]:
    """Nothing below a folder can be written to, not by root either."""
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)
        for path in (root, *root.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("known", ["nothing", "an old catalog", "all"])
def test_a_store_that_cannot_be_written_can_be_looked_at(known: str) -> None:
    with TemporaryDirectory() as place:  # pytest's folders are closed to others
        Path(place).chmod(0o755)
        store = fill(Path(place) / "store")
        if known != "nothing":
            looks(store)
        if known == "an old catalog":
            shutil.rmtree(store.root / "artifacts" / "answers")
            query(store, "SELECT 1")
            fill(store.root)
        before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
        with only_read(store.root):
            looks(store)
        assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before
