"""Ray: parts spread over actors, a dead worker's part is taken over, and sums that cannot work are refused."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from synthmill.schemas.errors import EngineError, InputError, Stopped
from synthmill.schemas.settings import EngineSettings, SourceSettings
from synthmill.storage.artifacts import Store, read_artifact
from synthmill.tasks.generators.answers import Answers
from synthmill.tasks.running.job import Job, Planned
from synthmill.tasks.running.parallel import RayPool, start_ray
from synthmill.tasks.running.sharing import parts_ahead, workers_for
from synthmill.tasks.running.stages import ingest, run_stage
from synthmill.tasks.scorers.r3 import R3
from tests.conftest import ChatServer, prompts, write_jsonl
from tests.tasks.stages import in_process

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    import ray

    start_ray(None)
    yield
    ray.shutdown()


class KeptRay(RayPool):
    """A pool that leaves Ray running, because starting it takes seconds and each test does not need its own."""

    def close(self) -> None:
        self._actors.end()


@pytest.fixture
def pool(store: Store, local_ray: None) -> Iterator[RayPool]:
    made = KeptRay(store, "run", threading.Event(), 2, None)
    yield made
    made.close()


def planned_over(store: Store, tmp_path: Path, server: ChatServer, rows: int, **engine: Any) -> tuple[Planned, Any]:
    source = ingest(store, SourceSettings(path=str(write_jsonl(tmp_path / "in.jsonl", prompts(rows)))), 20, "run")
    settings = EngineSettings.model_validate({"spec": server.spec, "concurrency": 8, **engine})
    return Planned(Answers(count=2), {"student": settings}, source.key), source


def test_actors_make_what_one_process_makes(store: Store, tmp_path: Path, server: ChatServer, pool: RayPool) -> None:
    planned, source = planned_over(store, tmp_path, server, 100)
    seen: list[Any] = []
    made = run_stage(store, planned, source, pool, "run", seen.append)
    assert server.stats()["total"] == 200
    assert server.stats()["most_in_flight"] <= 8
    assert seen[-1].rows == 100
    assert seen[-1].spent["student"]["sent"] == 200
    scored = run_stage(store, Planned(R3(embedder="minilm"), {}, made.key), made, pool, "run")
    assert scored.rows == 100
    alone = Store(tmp_path / "alone")
    alone.prepare()
    with in_process(alone) as single:
        again, source = planned_over(alone, tmp_path, server, 100)
        assert read_artifact(alone, run_stage(alone, again, source, single, "run")).equals(read_artifact(store, made))


def worker_pids() -> list[int]:
    return [process.pid for process in psutil.Process().children(recursive=True) if "ray::Worker" in command(process)]


def command(process: psutil.Process) -> str:
    with suppress(psutil.Error):  # it ended meanwhile
        return " ".join(process.cmdline())
    return ""


def test_a_killed_workers_parts_are_taken_over_from_its_answers(
    store: Store, tmp_path: Path, server: ChatServer, pool: RayPool
) -> None:
    server.set(latency_ms=20)
    planned, source = planned_over(store, tmp_path, server, 200)
    killed: list[int] = []

    def kill_one(progress: Any) -> None:
        if not killed and progress.rows > 30:
            killed.append(worker_pids()[0])
            os.kill(killed[0], signal.SIGKILL)

    made = run_stage(store, planned, source, pool, "run", kill_one)
    assert killed
    assert made.rows == 200
    assert server.stats()["repeated"] <= 4  # half of the window was the dead worker's
    assert server.stats()["unique"] == 400


def test_a_part_that_kills_its_worker_every_time_stops_the_run(
    store: Store, tmp_path: Path, server: ChatServer, pool: RayPool
) -> None:
    server.set(latency_ms=500)
    planned, source = planned_over(store, tmp_path, server, 20)

    def kill_all(_: Any) -> None:
        for slot in pool._actors._slots:  # those that are up: one that cannot even start is another fault
            if slot.pid and psutil.pid_exists(slot.pid):
                os.kill(slot.pid, signal.SIGKILL)

    with pytest.raises(EngineError, match="lost its worker 3 times"):
        run_stage(store, planned, source, pool, "run", kill_all)


def test_errors_and_stops_come_through_as_they_are(
    store: Store, tmp_path: Path, server: ChatServer, pool: RayPool
) -> None:
    planned, source = planned_over(store, tmp_path, server, 40, retries=0)
    server.set(fail_every=1)
    with pytest.raises(EngineError, match=r"^http://127.0.0.1:\d+/v1 does not answer"):
        run_stage(store, planned, source, pool, "run")
    server.set(fail_every=0, latency_ms=100, forget=1)
    pool.stop.set()
    with pytest.raises(Stopped, match="run the same command again to continue"):
        run_stage(store, planned, source, pool, "run")
    pool.stop.clear()
    time.sleep(0.3)
    sent = server.stats()["total"]
    server.set(latency_ms=1)
    assert run_stage(store, planned, source, pool, "run").rows == 40
    assert server.stats()["total"] == 80
    assert sent < 80


def test_a_pool_that_could_never_start_is_refused(store: Store, local_ray: None) -> None:
    greedy = KeptRay(store, "run", threading.Event(), 999, None)
    with pytest.raises(InputError, match="999 workers need 1 CPU each, on one node; this Ray has room for"):
        greedy.start(999, {"CPU": 1.0})


def test_how_many_workers_and_parts(store: Store, tmp_path: Path, server: ChatServer) -> None:
    http = EngineSettings.model_validate("openai:m@http://127.0.0.1:9/v1")
    local = EngineSettings.model_validate({"spec": "llamacpp:smollm2", "replicas": 3})
    assert workers_for({"a": http}, 5) == 5
    assert workers_for({"a": http, "b": local}, 5) == 3
    _, source = planned_over(store, tmp_path, server, 20)
    job = Job(key="k", source=source.parts[0])
    assert parts_ahead({"a": http}, 1, [job]) == 2 * (2 + 128 // 20)
    assert parts_ahead({"a": http}, 64, [job]) == 2
