"""verify finds what is amiss, gc what nobody needs; a run whose process is gone is a crashed one."""

import threading
import time

import pyarrow as pa
import pytest

from synthmill.flows.commands.gc import collect_garbage
from synthmill.flows.commands.migrate import migrate_store
from synthmill.flows.commands.verify import verify_store
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import StoreError
from synthmill.storage.artifacts import Store, seal_part, write_manifest
from synthmill.storage.call_index import write_run
from synthmill.storage.files import locked, sweep_lock, write_json
from synthmill.storage.keeping import Fault, garbage, verify
from synthmill.storage.migrating import migrate
from synthmill.storage.runs import StageRun, is_gone, new_run, runs, sweep_crashed_runs, sweeping_lock, this_process
from synthmill.storage.runs import write_run as write_record
from synthmill.storage.segments import segment_files
from tests.conftest import Echo, instructions
from tests.tasks.test_driver import Chain, drive


def artifact(store: Store, stage: str, key: str, sources: dict[str, str] | None = None) -> Manifest:
    table = pa.table({"id": ["a", "b"], "text": [key, key]})
    seal = seal_part(store, stage, f"part-{key}", table, (), ids_in=["a", "b"])
    return write_manifest(store, Manifest(stage=stage, key=key, identity={}, sources=sources or {}, parts=(seal,)))


def faults_of(store: Store) -> list[Fault]:
    faults: list[Fault] = []
    verify(store, faults)
    return faults


def test_a_whole_store_and_each_way_of_not_being_one(store: Store) -> None:
    first = artifact(store, "one", "k1")
    artifact(store, "two", "k2", {"k1": first.content})
    drive(Chain(), Echo(), store.calls, instructions(3))
    faults: list[Fault] = []
    assert tuple(verify(store, faults)) == (2, 2, 4, 9) and faults == []
    [segment] = segment_files(store.calls)
    data = segment.read_bytes()
    segment.write_bytes(data[:-20] + b"x" * 19 + b"\n")
    assert [fault.what for fault in faults_of(store)] == ["1 lines are damaged; their answers are asked for again"]
    segment.write_bytes(data)
    part = store.root / first.parts[0].file
    part.write_bytes(part.read_bytes()[:-1])
    assert [fault.place for fault in faults_of(store)] == [first.parts[0].file]
    store.manifest_path("one", "k1").write_text("{")
    said = [fault.what for fault in faults_of(store)]
    assert any("damaged" in one for one in said) and any("is gone (k1)" in one for one in said)


def test_what_nobody_needs_goes_and_nothing_else(store: Store) -> None:
    first = artifact(store, "one", "k1")
    last = artifact(store, "two", "k2", {"k1": first.content})
    old_part = artifact(store, "two", "old").parts[0].file
    write_record(store, new_run("f", {}).model_copy(update={"stages": (StageRun.of(last, {}, 0.0),)}))
    (store.root / "parts" / "one" / ".x.tmp").write_text("left")
    with locked(store.lock_path("one", "k1"), lambda: None):
        pass
    assert list(garbage(store, 1)) == []
    found = {one.path.relative_to(store.root).as_posix(): one.why for one in garbage(store, -1)}
    assert found == {
        "artifacts/two/old.json": "an artifact of no run",
        "parts/two/pa/part-old.json": "a part of no artifact",
        old_part: "a part of no artifact",
        "parts/one/.x.tmp": "left by a killed process",
        "locks/one-k1": "a lock of an artifact that is made",
    }


def test_a_lock_is_swept_only_when_nobody_holds_it(store: Store) -> None:
    path = store.lock_path("one", "k1")
    waited: list[int] = []

    def take_turns() -> None:
        with locked(path, lambda: waited.append(1), 0.01):
            assert path.exists()

    with locked(path, lambda: None):
        sweep_lock(path)
        assert path.exists()
        other = threading.Thread(target=take_turns)
        other.start()
        while not waited:
            time.sleep(0.01)
        path.unlink()  # even so: whoever waited for the old file takes a new one
        with locked(path, lambda: None):
            pass
    other.join()
    sweep_lock(path)
    assert not path.exists()


def test_an_older_store_is_brought_here_step_by_step(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert migrate(store) == [1]
    for module in ("synthmill.storage.artifacts", "synthmill.storage.migrating"):
        monkeypatch.setattr(f"{module}.FORMAT", 3)
    with pytest.raises(StoreError, match="store format 1, this synthmill reads 3; bring it there with `synthmill mig"):
        store.prepare()
    done: list[int] = []

    def step(number: int) -> None:
        done.append(number)
        if done == [1, 2]:
            raise StoreError("killed in the middle")

    monkeypatch.setattr("synthmill.storage.migrating.STEPS", {1: lambda _: step(1), 2: lambda _: step(2)})
    with pytest.raises(StoreError, match="killed"):
        migrate(store)
    assert migrate(store) == [2, 3]
    assert done == [1, 2, 2]
    store.prepare()
    monkeypatch.setattr("synthmill.storage.artifacts.FORMAT", 1)
    with pytest.raises(StoreError, match="store format 3, this synthmill reads 1; upgrade synthmill"):
        store.prepare()


def test_what_cannot_be_read_stops_the_sweeping(store: Store) -> None:
    manifest = artifact(store, "one", "k1")
    run = new_run("f", {}).model_copy(update={"stages": (StageRun.of(manifest, {}, 0.0),), "status": "finished"})
    write_record(store, run.model_copy(update={"dataset": "/elsewhere/f-1"}))
    assert [fault.place for fault in faults_of(store)] == [run.id]
    path = store.runs / f"{run.id}.json"
    data = path.read_bytes()
    path.write_bytes(data[:50])
    with pytest.raises(StoreError, match="damaged"):
        list(garbage(store, -1))
    assert "it is damaged" in faults_of(store)[0].what
    path.write_bytes(data.replace(run.id.encode(), b"../../evil"))
    assert list(runs(store)) == []
    path.write_bytes(data)
    store.manifest_path("one", "k1").write_text("{")
    with pytest.raises(StoreError):
        list(garbage(store, -1))


def test_a_run_whose_process_is_gone_has_crashed(store: Store) -> None:
    living = write_record(store, new_run("f", {}))
    host, pid, ticks = this_process().split(" ")
    dead = [f"{host} {pid} 1", f"{host} 999999999 {ticks}"]
    for process in (*dead, "another-host 1 1"):
        write_record(store, new_run("f", {}).model_copy(update={"process": process}))
    assert [is_gone(process) for process in (living.process, *dead, "")] == [False, True, True, False]
    assert len(sweep_crashed_runs(store)) == 2 and sweep_crashed_runs(store) == []
    assert sorted(run.status for run in runs(store)) == ["crashed", "crashed", "running", "running"]


def test_an_answer_that_look_ups_do_not_find_is_a_fault(store: Store) -> None:
    drive(Chain(), Echo(), store.calls, instructions(3))
    [segment] = segment_files(store.calls)
    assert faults_of(store) == []
    for index in store.calls.glob("*.index"):
        index.unlink()
    write_run(store.calls / "merged.index", {segment.name: segment.stat().st_size}, {}, 0, [])  # it leaves all out
    [fault] = faults_of(store)
    assert "answers are whole, and look-ups do not find them; delete calls/*.index" in fault.what
    for path in store.calls.rglob("*index*"):
        path.unlink()
    assert faults_of(store) == []


def test_a_run_that_starts_while_gc_deletes_waits_for_it(store: Store) -> None:
    artifact(store, "one", "old")
    started: list[str] = []
    run = new_run("f", {})
    start = threading.Thread(target=lambda: started.append(write_record(store, run).id))
    with locked(sweeping_lock(store), lambda: None):
        start.start()
        start.join(0.2)
        assert not started and list(runs(store)) == []
    start.join()
    assert [record.id for record in runs(store)] == started


def test_gc_looks_for_runs_when_none_can_start_any_more(store: Store) -> None:
    artifact(store, "one", "old")
    outcome: list[str] = []

    def sweep_store() -> None:
        try:
            collect_garbage(store.root, -1, delete=True)
        except StoreError as error:
            outcome.append(error.message)

    gc = threading.Thread(target=sweep_store)
    with locked(sweeping_lock(store), lambda: None):  # as a run holds it that starts
        gc.start()
        gc.join(0.2)
        run = new_run("f", {})
        write_json(store.runs / f"{run.id}.json", run.model_dump(mode="json"))
    gc.join()
    assert outcome and "is under way" in outcome[0]
    assert store.manifest_path("one", "old").exists()


def test_parts_in_folders_of_folders_are_kept_and_swept(store: Store) -> None:
    manifest = artifact(store, "one", "k1")
    [seal] = manifest.parts
    folder = store.root / "parts" / "one" / "ab"
    folder.mkdir()
    file = (store.root / seal.file).rename(folder / f"{seal.key}.parquet")
    moved = seal.model_copy(update={"file": str(file.relative_to(store.root))})
    write_manifest(store, manifest.model_copy(update={"parts": (moved,)}))
    write_record(store, new_run("f", {}).model_copy(update={"stages": (StageRun.of(manifest, {}, 0.0),)}))
    (folder / "other.json").write_text("{}")
    assert faults_of(store) == []
    assert [item.path for item in garbage(store, -1)] == [folder / "other.json"]


def test_a_store_in_use_is_not_swept_and_one_of_another_format_not_looked_at(store: Store) -> None:
    artifact(store, "one", "old")
    run = write_record(store, new_run("f", {}))
    with pytest.raises(StoreError, match=f"run {run.id} .f. is under way"):
        collect_garbage(store.root, -1, delete=True)
    write_record(store, run.model_copy(update={"status": "stopped"}))
    for marker in ('{"format": 99}', '{"format": -1}', '{"format": "x"}', "{", "[]"):
        (store.root / "synthmill.json").write_text(marker)
        for look in (verify_store, migrate_store, lambda place: collect_garbage(place, -1, delete=True)):
            with pytest.raises(StoreError):
                look(store.root)
    assert store.manifest_path("one", "old").exists()


def test_a_segment_that_is_gone_or_shorter_is_a_fault(store: Store) -> None:
    drive(Chain(), Echo(), store.calls, instructions(3))
    [segment] = segment_files(store.calls)
    data = segment.read_bytes()
    segment.write_bytes(b"")
    assert any("0 bytes long, and was" in fault.what for fault in faults_of(store))
    segment.unlink()
    assert [fault.what for fault in faults_of(store)] == ["it is gone; its answers are asked for again"]
    segment.write_bytes(data)
    assert faults_of(store) == []


def test_files_of_a_part_that_was_made_again_are_garbage(store: Store) -> None:
    made = artifact(store, "one", "k1")
    write_record(store, new_run("f", {}).model_copy(update={"stages": (StageRun.of(made, {}, 0.0),)}))
    [old] = [path for path in (store.root / "parts").rglob("*.parquet")]
    left = old.with_name(old.name.replace(".", ".0", 1))
    left.write_bytes(old.read_bytes())
    assert [each.path for each in garbage(store, -1)] == [left]


def test_runs_of_one_second_stand_in_their_order(store: Store) -> None:
    records = []
    for _ in range(5):
        records.append(write_record(store, new_run("f", {})))
        time.sleep(0.001)
    assert [run.id for run in runs(store)] == [record.id for record in records]
