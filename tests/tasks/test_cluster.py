"""A Ray cluster of several nodes: they come and go during a run, workers are placed by what they need."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synthmill.schemas.errors import EngineError, InputError
from synthmill.schemas.settings import EngineSettings, SourceSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.runs import new_run, write_run
from synthmill.tasks.generators.answers import Answers
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.parallel import RayPool, resources_of, start_ray
from synthmill.tasks.running.stages import ingest, run_stage
from tests.conftest import ChatServer, Matrix, prompts, write_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.faults]
ROWS, IN_FLIGHT = 240, 9


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room, two nodes with one CPU each, and one with GPUs on paper."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def node(cluster: Any, **has: int) -> Any:
    return cluster.add_node(object_store_memory=80 << 20, **has)


def writers(store: Store) -> set[str]:
    """The processes that have stored answers."""
    return {path.name.split("-")[-2] for path in store.calls.glob("*.calls")}


def test_nodes_come_and_go_during_a_run(
    store: Store, tmp_path: Path, server: ChatServer, cluster: Any, matrix: Matrix, capfd: pytest.CaptureFixture[str]
) -> None:
    server.set(latency_ms=250)
    source = ingest(store, SourceSettings(path=str(write_jsonl(tmp_path / "in.jsonl", prompts(ROWS)))), 4, "run")
    engine = EngineSettings.model_validate({"spec": server.spec, "concurrency": IN_FLIGHT})
    planned = Planned(Answers(count=2), {"student": engine}, source.key)
    write_run(store, new_run("f", {}).model_copy(update={"id": "run"}))
    first, second = node(cluster, num_cpus=1), node(cluster, num_cpus=1)
    pool = RayPool(store, "run", threading.Event(), 3, cluster.address)
    steps = []

    def change(progress: Any) -> None:
        if not steps and progress.rows > 20:
            server.set(latency_ms=1000)  # until it is up
            steps.append(node(cluster, num_cpus=1))
        elif len(steps) == 1 and len(writers(store)) == 3:
            cluster.remove_node(first, allow_graceful=False)
            server.set(latency_ms=20)
            steps.append(None)

    try:
        made = run_stage(store, planned, source, pool, "run", change)
    finally:
        pool.close()
        cluster.remove_node(second)
        if steps:
            cluster.remove_node(steps[0])
    assert len(steps) == 2
    assert (made.rows, made.dropped) == (ROWS, {})
    assert "this Ray has room for 2: the others start when there is more" in capfd.readouterr().err
    stats = server.stats()
    assert stats["unique"] == 2 * ROWS
    assert stats["repeated"] <= IN_FLIGHT // 3
    assert stats["most_in_flight"] <= IN_FLIGHT
    matrix("node added, node lost", "finished", f"{ROWS} = {ROWS} + 0", stats["repeated"], IN_FLIGHT // 3)


def visible_gpus() -> str:
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_a_model_gets_the_gpus_of_its_parallel_group(store: Store, cluster: Any) -> None:
    import ray

    model = {"spec": "vllm:owner/name", "options": {"tensor_parallel_size": 2}, "replicas": 2}
    roles = {"teacher": EngineSettings.model_validate(model)}
    write_run(store, new_run("f", {}).model_copy(update={"id": "run"}))
    plain, gpus = node(cluster, num_cpus=4), node(cluster, num_cpus=2, num_gpus=4)
    pool = RayPool(store, "run", threading.Event(), None, cluster.address)
    try:
        start_ray(cluster.address)
        needed = resources_of(roles)
        assert needed == {"CPU": 1.0, "GPU": 2.0}
        pool.start(2, needed)
        seen = ray.get([actor.call.remote(visible_gpus, ()) for actor in pool._actors.ready()])
        assert sorted(",".join(sorted(one.split(","))) for one in seen) == ["0,1", "2,3"]
        with pytest.raises(InputError, match="1 workers need 1 CPU, 8 GPU each, on one node; this Ray has room for 0"):
            pool.start(1, {"CPU": 1.0, "GPU": 8.0})
    finally:
        pool.close()
        cluster.remove_node(plain)
        cluster.remove_node(gpus)


def test_work_that_asks_no_model_leaves_the_workers_with_gpus_as_they_are(store: Store, cluster: Any) -> None:
    """Their models stay loaded over a stage on tables between two that ask."""
    gpus = node(cluster, num_cpus=3, num_gpus=2)
    write_run(store, new_run("f", {}).model_copy(update={"id": "run"}))
    pool = RayPool(store, "run", threading.Event(), None, cluster.address)
    try:
        pool.start(2, {"CPU": 1.0, "GPU": 1.0})
        before = [slot.pid for slot in pool._actors._slots]
        assert sorted(pool.map_unordered(abs, [(-1,), (-2,), (-3,)])) == [1, 2, 3]
        assert pool._ensure(3, {"CPU": 1.0}, borrow=True) == 2
        assert [slot.pid for slot in pool._actors._slots] == before
        assert pool._resources == {"CPU": 1.0, "GPU": 1.0}
    finally:
        pool.close()
        cluster.remove_node(gpus)


def test_a_node_without_the_store_is_named(store: Store, tmp_path: Path, server: ChatServer, cluster: Any) -> None:
    only = node(cluster, num_cpus=1)
    source = ingest(store, SourceSettings(path=str(write_jsonl(tmp_path / "in.jsonl", prompts(5)))), 5, "run")
    planned = Planned(Answers(count=1), {"student": EngineSettings.model_validate(server.spec)}, source.key)
    pool = RayPool(store, "run", threading.Event(), 1, cluster.address)
    try:
        with pytest.raises(InputError, match=r"the worker on .* does not see .*; put the store into a folder that all"):
            run_stage(store, planned, source, pool, "run")
    finally:
        pool.close()
        cluster.remove_node(only)
    assert server.stats()["total"] == 0


def test_a_cluster_that_is_not_there(store: Store) -> None:
    import ray

    ray.shutdown()
    with pytest.raises(EngineError, match=r"Ray at 127\.0\.0\.1:9 cannot be reached"):
        RayPool(store, "run", threading.Event(), 1, "127.0.0.1:9").start(1, {"CPU": 1.0})


@pytest.mark.parametrize("address", ["x", "ray://127.0.0.1:1", "host name:1", "http://127.0.0.1:1"])
def test_what_is_no_address_is_said_at_once(address: str) -> None:
    with pytest.raises(InputError, match="is no cluster; expected HOST:PORT, or auto"):
        start_ray(address)
