"""Batches: gathered, submitted once, collected whatever happens, the same answers as single calls."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.batch_settings import BatchSettings
from synthmill.schemas.budget import BudgetSettings, Usage
from synthmill.schemas.calls import Completion, Message, Request, Sampling, ToolMessage
from synthmill.schemas.errors import BatchPending, EngineError, EngineRefused, InputError, LimitReached, Stopped
from synthmill.schemas.progress import Progress
from synthmill.schemas.rows import Instruction
from synthmill.schemas.settings import EngineSettings, RunSettings, SourceSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.batches import Batches, BatchRecord
from synthmill.storage.calls import CallStore
from synthmill.storage.segments import HEAD, Segment, segment_files
from synthmill.tasks.engines import batched, waits
from synthmill.tasks.engines.batch_forms import form_of
from synthmill.tasks.engines.batch_servers import openai_line, openai_outcome
from synthmill.tasks.engines.batched import Batched
from synthmill.tasks.engines.engine import engine_name, make_engine
from synthmill.tasks.recipe import Steps
from synthmill.tasks.running.budget import Budget
from synthmill.tasks.running.driver import Driver
from synthmill.tasks.running.in_process import InProcess
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.limits import RunLimits
from synthmill.tasks.running.parallel import RayPool
from synthmill.tasks.running.stages import ingest, run_stage
from tests.batching import BatchServer
from tests.conftest import prompts, write_jsonl
from tests.tasks.stages import in_process
from tests.tasks.test_driver import Chain


@pytest.fixture
def batches(tmp_path: Path) -> Iterator[BatchServer]:
    server = BatchServer(tmp_path / "server")
    yield server
    server.end()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "BACKOFF_S", 0.01)
    monkeypatch.setattr(batched, "QUIET_S", 0.1)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")


def settings_of(server: BatchServer, **batch: Any) -> EngineSettings:
    return EngineSettings.model_validate({"spec": server.spec, "batch": {"poll_s": 0.05, **batch}, "retries": 12})


def messages_of(server: BatchServer, **batch: Any) -> EngineSettings:
    """Anthropic's batches, at the same server."""
    settings = {"spec": server.messages_spec, "batch": {"poll_s": 0.05, **batch}, "retries": 12}
    return EngineSettings.model_validate(settings)


def asked(number: int, **fields: Any) -> Request:
    return Request(role="student", messages=(Message(role="user", content=f"question {number}"),), **fields)


def ask(store: Store, settings: EngineSettings, requests: Sequence[Request], count: int = 1) -> list[Any]:
    """The answers of each request by an engine that asks in batches, or its error."""

    async def run() -> list[Any]:
        calls = CallStore(store.calls, origin={"run": "run"})
        engine = Batched(settings, Batches(store.root), calls)
        await engine.open()
        try:
            asking = (engine.complete(request, 7, count) for request in requests)
            return await asyncio.gather(*asking, return_exceptions=True)
        finally:
            await engine.close()
            calls.close()

    return asyncio.run(run())


def singly(settings: EngineSettings, requests: Sequence[Request], count: int = 1) -> list[str]:
    async def run() -> list[str]:
        engine = make_engine(settings.model_copy(update={"batch": None}))
        await engine.open()
        try:
            answers = await asyncio.gather(*(engine.complete(request, 7, count) for request in requests))
            return [answer.text for group in answers for answer in group]
        finally:
            await engine.close()

    return asyncio.run(run())


def texts(results: list[Any]) -> list[str]:
    return [answer.text for group in results for answer in group]


def stored(store: Store) -> list[dict[str, Any]]:
    lines = (line for path in segment_files(store.calls) for line in Segment(path).lines())
    return [orjson.loads(data[HEAD:]) for kind, _, _, data in lines if kind == b"A"]


def test_a_batch_answers_as_single_calls_do_and_its_answers_say_so(store: Store, batches: BatchServer) -> None:
    requests = [asked(n) for n in range(30)]
    settings = settings_of(batches)
    results = ask(store, settings, requests)
    assert texts(results) == singly(settings, requests)
    assert (batches.stats()["batches"], batches.stats()["requests"]) == (1, 30)
    records = stored(store)
    assert len(records) == 30 and all(record["batch"] is True for record in records)
    assert {record["engine"] for record in records} == {"openai:local-model"}
    [record] = Batches(store.root).records()
    assert (record.state, record.answered, record.status) == ("stored", 30, "completed")
    assert not list(Batches(store.root).folder.glob("*.jsonl"))


def test_groups_forms_and_limits(store: Store, batches: BatchServer) -> None:
    requests = [asked(n, choice=("yes", "no")) for n in range(10)]
    settings = settings_of(batches, requests=4)
    assert texts(ask(store, settings, requests, count=3)) == singly(settings, requests, count=3)
    assert batches.stats()["batches"] == 3
    small = settings_of(batches, megabytes=0.0005)
    ask(store, small, [asked(n) for n in range(20, 26)])
    assert batches.stats()["batches"] > 5


def test_errors_by_request_and_what_expired_is_asked_again(store: Store, batches: BatchServer) -> None:
    batches.set(refuse=7, expire=3, forget=5)
    requests = [asked(n) for n in range(30)]
    results = ask(store, settings_of(batches), requests)
    refused = [group[0] for group in results if group[0].error]
    assert len(refused) in range(2, 5)
    assert {completion.error for completion in refused} == {"refused: 400: refused as told"}
    assert not any(completion.lost for completion in refused)
    assert len(stored(store)) == 30 - len(refused)
    assert batches.stats()["batches"] == 2


def test_a_server_that_only_fails_stops_the_run(store: Store, batches: BatchServer) -> None:
    batches.set(**{"break": 1})
    results = ask(store, settings_of(batches, tries=1), [asked(n) for n in range(5)])
    [error] = {id(result): result for result in results if isinstance(result, Exception)}.values()
    assert isinstance(error, EngineError) and "answered none of 5 requests (engine_error: 500: broken" in error.message


def test_a_batch_that_is_refused_or_cancelled_says_so(store: Store, batches: BatchServer) -> None:
    batches.set(status="failed")
    first, *_ = ask(store, settings_of(batches), [asked(n) for n in range(5)])
    assert isinstance(first, EngineRefused) and "no such model (line 1)" in first.message
    batches.set(status="cancelled", expire=2)
    results = ask(store, settings_of(batches), [asked(n) for n in range(6)])
    [error] = {id(result): result for result in results if isinstance(result, Exception)}.values()
    assert isinstance(error, EngineRefused) and "was cancelled; 3 of 6" in error.message
    ask(store, settings_of(batches), [asked(n) for n in range(6)])
    assert len(stored(store)) == 6


def test_a_run_that_does_not_wait_ends_and_the_next_one_collects(store: Store, batches: BatchServer) -> None:
    batches.set(late_s=60)
    requests = [asked(n) for n in range(10)]
    settings = settings_of(batches, wait=False)
    for _ in range(2):
        first, *_ = ask(store, settings, requests)
        assert isinstance(first, BatchPending) and "10 requests are in 1 batch at" in first.message
    assert batches.stats()["batches"] == 1
    batches.set(late_s=0)
    assert texts(ask(store, settings, requests)) == singly(settings, requests)
    assert batches.stats() | {"pid": 0} == {"batches": 1, "requests": 10, "again": 0, "single": 10, "pid": 0}


def test_a_run_that_does_not_wait_looks_a_last_time_before_it_leaves(
    store: Store, batches: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "QUIET_S", 0.6)
    batches.set(late_s=0.4)  # not done when the second run comes, done when it has nothing left to ask
    settings, requests = settings_of(batches, wait=False, poll_s=60), [asked(n) for n in range(4)]
    first, *_ = ask(store, settings, requests)
    assert isinstance(first, BatchPending)
    assert texts(ask(store, settings, requests)) == singly(settings, requests)


def test_a_run_that_does_not_wait_leaves_what_it_submits_to_the_next(store: Store, batches: BatchServer) -> None:
    settings, requests = settings_of(batches, wait=False), [asked(n) for n in range(4)]
    first, *_ = ask(store, settings, requests)  # done at once, but nobody looks
    assert isinstance(first, BatchPending) and not stored(store)
    assert len(ask(store, settings, requests)) == len(stored(store)) == 4


def test_calls_on_their_way_to_a_batch_are_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[Request] = []

    async def answers(engine: Batched, asked: Any, request: Request, seed: int) -> list[Completion]:
        received.append(request)
        return [Completion(text="x")]

    async def run() -> None:
        settings = EngineSettings.model_validate({"spec": "openai:m@http://127.0.0.1:9/v1", "batch": True})
        with closing(CallStore(store.calls)) as calls:
            driver = Driver(Chain(turns=1), {"student": Batched(settings, Batches(store.root), calls)}, calls)
            rows = [Instruction(id=f"r{n}", prompt=f"{n}") for n in range(5)]
            running = asyncio.create_task(driver.run(rows))
            await asyncio.sleep(0)
            while len(received) < len(rows):
                assert driver.may_ask_more
                await asyncio.sleep(0)
            await running

    monkeypatch.setattr(Batched, "answers", answers)
    asyncio.run(run())


def test_answers_that_nobody_asks_for_any_more_are_stored(store: Store, batches: BatchServer) -> None:
    batches.set(late_s=60)
    ask(store, settings_of(batches, wait=False), [asked(n) for n in range(10)])
    batches.set(late_s=0)
    ask(store, settings_of(batches), [asked(100)])
    assert len(stored(store)) == 11


@pytest.mark.parametrize("where", ["files", "batches", "content"])
def test_a_server_that_dies_in_the_middle_gets_nothing_twice(store: Store, batches: BatchServer, where: str) -> None:
    batches.set(die=where)
    results: list[Any] = []
    requests = [asked(n) for n in range(20)]
    asking = threading.Thread(target=lambda: results.extend(ask(store, settings_of(batches), requests)))
    asking.start()
    batches.died()
    batches.start()
    asking.join(60)
    assert texts(results) == singly(settings_of(batches), requests)
    assert batches.stats()["batches"] == 1 and batches.stats()["again"] == 0


def test_a_run_that_died_before_it_knew_the_batch_finds_it(store: Store, batches: BatchServer) -> None:
    batches.set(late_s=60)
    requests = [asked(n) for n in range(10)]
    for _ in range(3):
        ask(store, settings_of(batches, wait=False), [asked(100 + int(time.time_ns() % 1e9))])  # others, on the list
    ask(store, settings_of(batches, wait=False), requests)
    records = Batches(store.root)
    record = records.records()[-1]
    batches.set(late_s=0)
    records.write(record.model_copy(update={"state": "uploaded", "batch_id": ""}))
    assert texts(ask(store, settings_of(batches), requests)) == singly(settings_of(batches), requests)
    assert batches.stats()["batches"] == 4
    lost = record.model_copy(update={"handle": "lost-1", "state": "uploaded", "batch_id": "", "file_id": "file-none"})
    records.write(lost)
    ask(store, settings_of(batches), [asked(1000)])
    assert "lost-1" not in {record.handle for record in records.records()}


def test_a_run_that_died_while_it_stored_needs_no_server(
    store: Store, batches: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [asked(n) for n in range(10)]
    expected = singly(settings_of(batches), requests)

    def die(engine: Batched, record: BatchRecord) -> None:
        raise SystemError("the end")

    with monkeypatch.context() as dying:
        dying.setattr(Batched, "_store", die)
        first, *_ = ask(store, settings_of(batches), requests)
        assert isinstance(first, EngineError) and "the end" in first.message
    batches.end()
    assert texts(ask(store, settings_of(batches), requests)) == expected
    assert len(stored(store)) == 10


def test_a_server_without_a_list_is_not_asked_twice(store: Store, batches: BatchServer) -> None:
    batches.set(late_s=60)
    ask(store, settings_of(batches, wait=False), [asked(1)])
    records = Batches(store.root)
    [record] = records.records()
    records.write(record.model_copy(update={"state": "uploaded", "batch_id": ""}))
    batches.set(no_list=1)
    with pytest.raises(EngineRefused, match="/batches"):
        ask(store, settings_of(batches), [asked(1)])


def test_outcomes_of_vllm_run_batch_are_read() -> None:
    body = {"choices": [{"message": {"content": "x"}}]}
    line = {"id": "vllm-1", "custom_id": "a", "response": {"status_code": 200, "request_id": "r", "body": body}}
    assert openai_outcome(orjson.dumps(line | {"error": None})).reply == orjson.dumps(body)
    error = {"error": {"message": "maximum context length is 10", "type": "BadRequestError", "code": 400}}
    line["response"] = {"status_code": 400, "request_id": "r", "body": None}
    outcome = openai_outcome(orjson.dumps(line | {"error": error}))
    assert (outcome.again, outcome.error) == (False, "context_overflow: 400: maximum context length is 10")


def make(store: Store, settings: EngineSettings, tmp_path: Path, stage: Any, rows: int = 30, **roles: Any) -> Manifest:
    """A stage's artifact from `rows` prompts in parts of 4, in this process."""
    file = write_jsonl(tmp_path / "in.jsonl", prompts(rows))
    source = ingest(store, SourceSettings(path=str(file)), 4, "run")
    planned = Planned(stage, {"student": settings, **roles}, source.key)
    with in_process(store) as pool:
        return run_stage(store, planned, source, pool, "run")


def test_a_stage_of_many_parts_and_several_rounds_goes_round_by_round(
    tmp_path: Path, store: Store, batches: BatchServer
) -> None:
    stage, settings = Chain(turns=3, samples=2), settings_of(batches)
    manifest = make(store, settings, tmp_path, stage)
    assert (batches.stats()["batches"], batches.stats()["requests"]) == (3, 180)
    plain = Store(tmp_path / "plain")
    plain.prepare()
    reference = make(plain, settings.model_copy(update={"batch": None}), tmp_path, stage)
    assert manifest.content == reference.content and manifest.key == reference.key
    assert {record["step"] for record in stored(store)} == {"chain"}
    make(store, settings.model_copy(update={"batch": None}), tmp_path, Chain(turns=3, samples=2), rows=31)
    assert batches.stats()["single"] == 180 + 6  # without batches: only the new row's


def test_a_stage_in_batches_needs_no_ray(tmp_path: Path, store: Store, batches: BatchServer) -> None:
    source = ingest(store, SourceSettings(path=str(write_jsonl(tmp_path / "in.jsonl", prompts(9)))), 4, "run")
    planned = Planned(Chain(turns=1), {"student": settings_of(batches)}, source.key)
    with closing(RayPool(store, "run", threading.Event(), 2, None)) as pool:
        assert run_stage(store, planned, source, pool, "run").rows == 9
        assert not pool._started
    assert (batches.stats()["batches"], batches.stats()["requests"]) == (1, 9)


class Duet(Chain):
    """The student asks, somebody else, who is not asked in batches, answers."""

    name: ClassVar = "duet"
    roles: ClassVar = ("student", "other")

    def steps(self, row: Instruction) -> Steps[Instruction]:
        said = row.prompt
        for turn in range(4):
            message = Message(role="user", content=said)
            [answer] = yield [Request(role=self.roles[turn % 2], messages=(message,))]
            said = answer.text
        return Instruction.child_of(row, self.name, prompt=said)


def test_a_batch_waits_for_engines_that_answer_at_once(tmp_path: Path, store: Store, batches: BatchServer) -> None:
    other = EngineSettings.model_validate({"spec": f"openai:other@{batches.root}/v1", "concurrency": 2})
    batches.set(single_s=0.15)  # longer than what counts as quiet
    make(store, settings_of(batches), tmp_path, Duet(), rows=12, other=other)
    assert batches.stats() | {"pid": 0} == {"batches": 2, "requests": 24, "again": 0, "single": 24, "pid": 0}


def test_what_a_budget_allows_is_submitted_and_no_more(tmp_path: Path, store: Store, batches: BatchServer) -> None:
    budget = Budget(BudgetSettings(requests=17), {})
    spent = {"chain": Usage()}
    file = write_jsonl(tmp_path / "in.jsonl", prompts(30))
    source = ingest(store, SourceSettings(path=str(file)), 4, "run")
    planned = Planned(Chain(turns=1), {"student": settings_of(batches)}, source.key)
    for _ in range(2):
        spent = {"chain": Usage(requests=len(stored(store)))}
        pool = InProcess(store, "run", threading.Event(), RunLimits(budget, spent=lambda spent=spent: spent))
        with closing(pool), pytest.raises(LimitReached, match="17 of 17 requests"):
            run_stage(store, planned, source, pool, "run")
        assert batches.stats()["requests"] == len(stored(store)) == 17


def test_ctrl_c_leaves_the_batch_at_its_server(
    tmp_path: Path, store: Store, batches: BatchServer, capfd: pytest.CaptureFixture[str]
) -> None:
    batches.set(late_s=3600)
    file = write_jsonl(tmp_path / "in.jsonl", prompts(30))
    source = ingest(store, SourceSettings(path=str(file)), 4, "run")
    planned = Planned(Chain(turns=1), {"student": settings_of(batches)}, source.key)
    stop, latest = threading.Event(), []

    def on_progress(progress: Progress) -> None:
        if progress.batches:
            latest.append(progress)
            stop.set()

    with closing(InProcess(store, "run", stop)) as pool, pytest.raises(Stopped):
        run_stage(store, planned, source, pool, "run", on_progress)
    assert latest[0].batches[0].requests == 30 and not latest[0].silent_s
    assert "30 requests are in 1 batch at http://127.0.0.1" in capfd.readouterr().err
    make(store, settings_of(batches).model_copy(update={"batch": None}), tmp_path, Chain(turns=1), rows=1)
    assert "30 requests are in batches that are not collected" in capfd.readouterr().err
    batches.set(late_s=0)
    assert make(store, settings_of(batches), tmp_path, Chain(turns=1)).rows == 30
    assert batches.stats()["batches"] == 1


def test_settings_say_who_is_asked_in_batches() -> None:
    server = {"kind": "openai", "model": "m"}
    run = RunSettings.model_validate(
        {"engines": {"teacher": server, "judge": {**server, "batch": False}}, "batch": True}
    )
    assert run.engine("teacher").batch == BatchSettings() and not run.engine("judge").batch
    own = RunSettings.model_validate({"engines": {"teacher": {**server, "batch": {"requests": 5}}}, "batch": True})
    assert own.engine("teacher").batch == BatchSettings(requests=5)
    assert engine_name(own.engine("teacher")) == "openai:m"
    with pytest.raises(ValueError, match="batch means nothing to teacher: llamacpp:smollm2"):
        RunSettings.model_validate({"batch": True})
    with pytest.raises(ValueError, match="batch means nothing to vllm"):
        EngineSettings.model_validate({"spec": "vllm:a/b", "batch": True})


@pytest.mark.vllm
def test_vllm_run_batch_reads_our_lines_and_we_read_its(batches: BatchServer) -> None:
    run_batch = pytest.importorskip("vllm.entrypoints.launchers.run_batch")
    form, request = form_of(settings_of(batches)), asked(1, choice=("yes", "no"), sampling=Sampling(logprobs=3))
    line = run_batch.BatchRequestInput.model_validate_json(openai_line("a-3", dict(form.body(request, 7, 3))))
    assert (line.custom_id, line.body.n, line.body.top_logprobs, line.body.seed) == ("a-3", 3, 3, 7)
    body = {"id": "x", "created": 1, "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 2}}
    choice = {"index": 0, "message": {"role": "assistant", "content": '{"choice": "yes"}'}, "finish_reason": "stop"}
    response = {"request_id": "r", "body": {**body, "choices": [choice]}}
    output = run_batch.BatchRequestOutput.model_validate(
        {"id": "v", "custom_id": "a", "response": response, "error": None}
    )
    outcome = openai_outcome(output.model_dump_json().encode())
    assert outcome.reply and [
        answer.text for answer in form.read(asked(1, choice=("yes", "no")), outcome.reply, 1)
    ] == ["yes"]
    failed = run_batch.make_error_request_output(line, "URL /x was used")
    assert openai_outcome(failed.model_dump_json().encode()).error == "refused: 400: URL /x was used"


def test_anthropics_batches_have_answers_refusals_and_what_expired(store: Store, batches: BatchServer) -> None:
    batches.set(refuse=7, expire=3, **{"break": 5})
    results = ask(store, messages_of(batches), [asked(n) for n in range(30)])
    errors = [group[0].error for group in results if group[0].error]
    assert errors == ["refused: invalid_request_error: refused as told"] * len(errors) and len(errors) in range(2, 5)
    assert len(stored(store)) == 30 - len(errors) and batches.stats()["batches"] == 2


@pytest.mark.parametrize("where", ["batches", "content"])
def test_anthropics_server_dies_in_the_middle(store: Store, batches: BatchServer, where: str) -> None:
    batches.set(die=where)
    results: list[Any] = []
    settings = messages_of(batches, requests=10)
    asking = threading.Thread(target=lambda: results.extend(ask(store, settings, [asked(n) for n in range(20)])))
    asking.start()
    batches.died()
    batches.start()
    asking.join(60)
    assert len(set(texts(results))) == 20
    assert batches.stats()["batches"] == 2 and batches.stats()["again"] == 0


def test_anthropics_batch_is_found_again_by_its_time_and_size(store: Store, batches: BatchServer) -> None:
    batches.set(late_s=60)
    requests = [asked(n) for n in range(10)]
    ask(store, messages_of(batches, wait=False), [asked(100)])
    ask(store, messages_of(batches, wait=False), requests)
    records = Batches(store.root)
    record = records.records()[-1]
    records.write(record.model_copy(update={"state": "uploaded", "batch_id": ""}))
    batches.set(late_s=0)
    assert len(set(texts(ask(store, messages_of(batches), requests)))) == 10
    assert batches.stats()["batches"] == 2 and batches.stats()["again"] == 0


def test_anthropics_batch_answers_as_single_calls_do(store: Store, batches: BatchServer) -> None:
    requests = [*(asked(n) for n in range(5)), *(asked(n, choice=("yes", "no")) for n in range(5))]
    settings = messages_of(batches)
    results = ask(store, settings, requests)
    assert texts(results) == singly(settings, requests)
    assert batches.stats() | {"pid": 0} == {"batches": 1, "requests": 10, "again": 0, "single": 10, "pid": 0}
    assert {(record["engine"], record["batch"]) for record in stored(store)} == {("anthropic:local-model", True)}


def test_anthropics_batches_want_a_key(
    store: Store, batches: BatchServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(InputError, match="is not set; set it"):
        ask(store, messages_of(batches).model_copy(update={"headers": {"x-api-key": "NOT_SET"}}), [asked(1)])
    monkeypatch.setenv("GATEWAY_KEY", "sk-ant-gateway")
    settings = messages_of(batches).model_copy(update={"headers": {"x-api-key": "GATEWAY_KEY"}})
    assert len(texts(ask(store, settings, [asked(1)]))) == 1
    with pytest.raises(InputError, match="are for nobody else to answer"):
        ask(store, messages_of(batches, file=tmp_path / "requests.jsonl"), [asked(1)])


class Doubting(Chain):
    """Asks once more, and says so."""

    name: ClassVar = "doubting"

    def steps(self, row: Instruction) -> Steps[Instruction]:
        message = Message(role="user", content=row.prompt)
        yield [Request(role="student", messages=(message,))]
        [answer] = yield [Request(role="student", messages=(message,), sample=1, asked_again=True)]
        return Instruction.child_of(row, self.name, prompt=answer.text)


def test_what_is_asked_again_in_a_batch_says_so(tmp_path: Path, store: Store, batches: BatchServer) -> None:
    make(store, settings_of(batches), tmp_path, Doubting(), rows=3)
    assert [record.get("asked_again", False) for record in stored(store)] == [False] * 3 + [True] * 3


def test_tool_calls_come_in_batches_too(store: Store, batches: BatchServer) -> None:
    function = {"name": "find", "parameters": {"type": "object", "properties": {}}}
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    turns = (
        Message(role="user", content="find it"),
        ToolMessage(role="assistant", content="", tool_calls=(call,)),
        ToolMessage(role="tool", content="found", tool_call_id="c1"),
    )
    request = Request(role="student", messages=turns, tools=({"type": "function", "function": function},))
    assert len(texts(ask(store, settings_of(batches), [request]))) == 1
