"""An engine that misbehaves: the stage finishes, or stops with one line; no row is lost; the next run completes it."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest

from bench.serving import chat_server
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.calls import Message, Request
from synthmill.schemas.errors import Drop, EngineError
from synthmill.schemas.rows import Instruction
from synthmill.schemas.settings import EngineSettings, SourceSettings
from synthmill.storage.artifacts import Store
from synthmill.tasks.generators.answers import Answers
from synthmill.tasks.recipe import Recipe, Steps
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.stages import ingest, run_stage
from tests.conftest import ChatServer, Matrix, prompts, write_jsonl
from tests.tasks.stages import in_process

pytestmark = pytest.mark.faults
ROWS, IN_FLIGHT = 200, 16
LOST = {"engine_timeout", "engine_error"}  # asked for again by the next run
SCHEMA = {"type": "object", "properties": {"said": {"type": "string"}}, "required": ["said"]}


class Said(Recipe[Instruction, Instruction]):
    """A structured answer, parsed."""

    name: ClassVar = "said"
    version: ClassVar = "1"
    roles: ClassVar = ("student",)

    def steps(self, row: Instruction) -> Steps[Instruction]:
        message = Message(role="user", content=row.prompt)
        [answer] = yield [Request(role="student", messages=(message,), sampling=self.sampling, schema_=SCHEMA)]
        try:
            return Instruction.child_of(row, self.name, prompt=str(orjson.loads(answer.text)["said"]))
        except (ValueError, KeyError) as error:
            raise Drop(f"bad_form: {answer.text[:40]}") from error


@pytest.fixture
def failing() -> Iterator[ChatServer]:
    with chat_server("--latency-ms", "5", "--words", "12") as url:
        yield ChatServer(url)


class Bench:
    """One stage over ROWS rows, made as often as needed."""

    def __init__(self, store: Store, folder: Path, server: ChatServer, stage: Any, **engine: Any) -> None:
        self.store = store
        file = write_jsonl(folder / "in.jsonl", prompts(ROWS))
        self.source = ingest(store, SourceSettings(path=str(file)), 32, "run")
        given = {"spec": server.spec, "concurrency": IN_FLIGHT, **engine}
        self.planned = Planned(stage, {"student": EngineSettings.model_validate(given)}, self.source.key)

    def made(self) -> Manifest:
        with in_process(self.store) as pool:
            made = run_stage(self.store, self.planned, self.source, pool, "run")
        assert made.rows_in == ROWS == made.rows + sum(made.dropped.values())
        return made


def counted(made: Manifest) -> str:
    return f"{made.rows_in} = {made.rows} + {sum(made.dropped.values())}"


@pytest.mark.parametrize(
    ("fault", "how", "stage", "drops"),
    [
        ("500 at 5 %", {"fail_status": 500}, Answers(count=1), set()),
        ("hanging at 5 %", {"fail_how": "hang"}, Answers(count=1), set()),
        ("connection cut in the middle, 5 %", {"fail_how": "cut"}, Answers(count=1), set()),
        ("malformed JSON, 5 %", {"fail_how": "malformed"}, Answers(count=1), set()),
        ("empty text, 5 %", {"fail_how": "empty"}, Answers(count=1), {"empty_answer"}),
        ("wrong schema, 5 %", {"fail_how": "wrong"}, Said(), {"bad_form"}),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_one_answer_in_twenty_is_bad(
    store: Store,
    tmp_path: Path,
    failing: ChatServer,
    monkeypatch: pytest.MonkeyPatch,
    matrix: Matrix,
    fault: str,
    how: dict[str, Any],
    stage: Any,
    drops: set[str],
) -> None:
    monkeypatch.setattr("synthmill.tasks.engines.waits.BACKOFF_S", 0.02)
    failing.set(fail_every=20, **how)
    bench = Bench(store, tmp_path, failing, stage, timeout_s=1 if how.get("fail_how") == "hang" else 60)
    made = bench.made()
    assert set(made.dropped) <= drops | LOST
    assert drops <= set(made.dropped)  # an answer that came is an answer, however bad
    stats = failing.stats()
    failing.set(fail_every=0)
    again = bench.made()
    assert set(again.dropped) == drops
    repeated = failing.stats()["repeated"] - stats["failed"] * (not drops)
    assert repeated <= 0  # what was asked again is what had failed
    then = "finished" if made.dropped == again.dropped else "finished, lost answers by the next run"
    matrix(
        fault, then + (f"; dropped: {', '.join(drops)}" if drops else ""), counted(again), max(0, repeated), IN_FLIGHT
    )


def test_seconds_of_429(store: Store, tmp_path: Path, failing: ChatServer, matrix: Matrix) -> None:
    failing.set(fail_every=1, fail_status=429, retry_after=1)
    started = time.monotonic()
    healing = threading.Timer(10, lambda: failing.set(fail_every=0))
    healing.start()
    try:
        made = Bench(store, tmp_path, failing, Answers(count=1)).made()
    finally:
        healing.cancel()
    assert time.monotonic() - started > 10
    assert made.dropped == {}
    stats = failing.stats()
    assert stats["repeated"] == stats["failed"] < 15 * IN_FLIGHT  # it slowed down
    matrix("429 for ten seconds", "finished", counted(made), 0, IN_FLIGHT)


def test_an_engine_that_only_fails(
    store: Store, tmp_path: Path, failing: ChatServer, monkeypatch: pytest.MonkeyPatch, matrix: Matrix
) -> None:
    monkeypatch.setattr("synthmill.tasks.engines.waits.BACKOFF_S", 0.02)
    failing.set(fail_from=60)
    bench = Bench(store, tmp_path, failing, Answers(count=1), retries=2)
    with pytest.raises(EngineError, match=r"does not answer \(HTTP 500: failing as told\) after 3 attempts"):
        bench.made()
    before = failing.stats()
    failing.set(fail_from=0)
    made = bench.made()
    assert made.dropped == {}
    answered = before["total"] - before["failed"]
    assert failing.stats()["total"] - before["total"] == ROWS - answered
    matrix("500 to everything", "stopped in one line, finished by the next run", counted(made), 0, IN_FLIGHT)
