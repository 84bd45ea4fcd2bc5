"""A worker from step to step: what it forgets, what it keeps, and how it leaves its process."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Stopped
from synthmill.schemas.settings import EngineSettings, SourceSettings
from synthmill.storage.artifacts import Store, read_artifact
from synthmill.tasks.generators.answers import Answers
from synthmill.tasks.running import worker as workers
from synthmill.tasks.running.job import Planned, step_ids
from synthmill.tasks.running.stages import ingest, run_stage
from synthmill.tasks.running.worker import Worker
from tests.conftest import Echo, prompts, write_jsonl
from tests.tasks.stages import in_process

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def echoes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that say their model's name."""

    def engine(settings: EngineSettings) -> Any:
        return Echo(lambda request, sample: settings.model, name=f"openai:{settings.model}")

    monkeypatch.setattr(workers, "make_engine", engine)


def jobs_of(store: Store, folder: Path, stage: Any, model: str) -> tuple[Planned, list[Any]]:
    source = ingest(store, SourceSettings(path=str(write_jsonl(folder / "in.jsonl", prompts(6)))), 2, "run")
    settings = EngineSettings.model_validate(f"openai:{model}@http://127.0.0.1:9/v1")
    planned = Planned(stage, {"student": settings}, source.key)
    return planned, planned.jobs(source)


def at_work(store: Store, work: Callable[[Worker], Any]) -> Any:
    async def run() -> Any:
        worker = Worker(store, "run")
        try:
            return await work(worker)
        finally:
            await worker.close()

    return asyncio.run(run())


def test_a_stop_of_an_idle_worker_does_not_end_the_next_try(store: Store, tmp_path: Path, echoes: None) -> None:
    planned, [first, second, _] = jobs_of(store, tmp_path, Answers(count=1), "a")

    async def work(worker: Worker) -> Any:
        await worker.ready()
        await worker.work(planned, 1, first)
        worker.stop("another worker failed")  # this one has nothing to do just now
        with pytest.raises(Stopped):
            await worker.work(planned, 1, second)
        await worker.ready()
        return await worker.work(planned, 1, second)

    assert at_work(store, work).rows == 2


def test_the_same_stage_with_another_engine_asks_that_one(store: Store, tmp_path: Path, echoes: None) -> None:
    planned, [first, *_] = jobs_of(store, tmp_path, Answers(count=1), "a")
    other, [again, *_] = jobs_of(store, tmp_path, Answers(count=1), "b")

    async def work(worker: Worker) -> list[str]:
        seals = [await worker.work(planned, 1, first), await worker.work(other, 1, again)]
        manifests = [type("Parts", (), {"parts": (seal,)})() for seal in seals]
        return [read_artifact(store, each)["answers"][0].as_py()[0]["text"] for each in manifests]

    assert at_work(store, work) == ["a", "b"]


def test_two_steps_of_one_stage_have_their_own_progress(store: Store, tmp_path: Path, echoes: None) -> None:
    planned, [first, *_] = jobs_of(store, tmp_path, Answers(count=1), "a")
    other, [again, *_] = jobs_of(store, tmp_path, Answers(count=2), "a")
    other.step = "answers-2"

    async def work(worker: Worker) -> list[int]:
        await worker.work(planned, 1, first)
        before = worker.progress("answers-2").rows
        await worker.work(other, 1, again)
        return [before, worker.progress("answers").rows, worker.progress("answers-2").rows]

    assert at_work(store, work) == [0, 0, 2]


def test_a_worker_leaves_the_garbage_collector_as_it_was(store: Store) -> None:
    threshold, frozen = gc.get_threshold(), gc.get_freeze_count()

    async def work(_: Worker) -> tuple[int, int, int]:
        return gc.get_threshold()

    assert at_work(store, work) != threshold
    assert (gc.get_threshold(), gc.get_freeze_count()) == (threshold, frozen)


def test_parts_are_made_where_an_event_loop_runs_already(store: Store, tmp_path: Path, echoes: None) -> None:
    async def cell() -> int:
        planned, _ = jobs_of(store, tmp_path, Answers(count=1), "a")
        source = ingest(store, SourceSettings(path=str(tmp_path / "in.jsonl")), 2, "run")
        with in_process(store) as pool:
            made = run_stage(store, planned, source, pool, "run")
            pool.make_room()
        return made.rows

    assert asyncio.run(cell()) == 6


def test_ids_of_steps() -> None:
    judged = [Answers(count=1), Answers(count=2)]
    assert step_ids(["known", "known", *judged, "pairs"]) == ["known", "known-2", "answers", "answers-2", "pairs"]


def test_a_completion_says_whether_it_was_lost() -> None:
    assert Completion(text="", error="no_choices: none").lost and not Completion(text="", error="refused: 400").lost


@pytest.mark.parametrize(
    "first", ["synthmill.tasks.running.job", "synthmill.tasks.running.driver", "synthmill.tasks.running.worker"]
)
def test_a_workers_types_are_known_whatever_its_process_imports_first(first: str) -> None:
    """pydantic puts a parametrised class into the module that names it first, and pickles name it by that."""
    dump = (
        "import pickle, sys; from synthmill.tasks.running import job; sys.stdout.buffer.write(pickle.dumps(job.Stage))"
    )
    load = f"import pickle, sys, {first}; print(pickle.load(sys.stdin.buffer))"
    pickled = subprocess.run([sys.executable, "-c", dump], cwd=ROOT, capture_output=True, check=True).stdout
    loaded = subprocess.run([sys.executable, "-c", load], cwd=ROOT, input=pickled, capture_output=True)
    assert loaded.returncode == 0, loaded.stderr.decode()
