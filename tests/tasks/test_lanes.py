"""The order in which calls go out: as they came, or by prefix for an engine that caches prefixes."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from synthmill.schemas.calls import Message, Request
from synthmill.schemas.rows import Instruction
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.running import driver
from synthmill.tasks.running.flights import Call
from synthmill.tasks.running.lanes import CallQueue
from tests.conftest import Echo
from tests.tasks.test_driver import Chain, drive


class CachesPrefixes(Echo):
    caches_prefixes = True


def in_turn(count: int, prefixes: int) -> list[Instruction]:
    """Rows that take turns with a few beginnings."""
    return [Instruction(id=f"row-{n}", prompt=f"prefix {n % prefixes}: question {n}") for n in range(count)]


def beginnings(engine: Echo) -> list[str]:
    """The prefixes of what an engine was asked, those that follow each other once."""
    return [prefix for prefix, _ in groupby(content.split(":")[0] for content, _, _ in engine.asked)]


def call(content: str) -> Call:
    request = Request(role="student", messages=(Message(role="user", content=content),))
    return Call(request, b"", content.encode(), [0], [], {})


def sent(queue: CallQueue, count: int) -> list[str]:
    contents = []
    for _ in range(count):
        assert queue.first()
        contents.append(queue.take().request_json.decode())
    return contents


def test_prompts_that_begin_alike_go_out_together_and_rows_stay_in_order(tmp_path: Path) -> None:
    plain, ordered = Echo(limit=4), CachesPrefixes(limit=4)
    parts = in_turn(30, 6)[:15], in_turn(30, 6)[15:]
    [in_row_order], [by_prefix] = (
        [drive(Chain(turns=1), engine, tmp_path / folder, *parts)[0]]
        for engine, folder in ((plain, "plain"), (ordered, "ordered"))
    )
    assert len(beginnings(plain)) == 30
    assert len(beginnings(ordered)) == 6
    assert sorted(plain.asked) == sorted(ordered.asked)
    assert [(result.rows, result.calls) for result in by_prefix] == [
        (result.rows, result.calls) for result in in_row_order
    ]


def test_rows_under_way_go_on_before_others_begin(tmp_path: Path) -> None:
    engine = CachesPrefixes(limit=4)
    drive(Chain(turns=3), engine, tmp_path, in_turn(40, 3))
    under_way = most = 0
    for content, _, _ in engine.asked:
        turn = content.count("#")
        under_way += (turn == 0) - (turn == 2)
        most = max(most, under_way)
    assert most <= 4 + 1


def test_a_sweep_begins_with_the_prefix_that_the_last_one_ended_with() -> None:
    queue = CallQueue(by_prefix=True)
    for content in ("b1", "a1", "c1"):
        queue.add(call(content), begins=True)
    assert sent(queue, 1) == ["a1"]
    for content in ("b2", "a2", "c2"):
        queue.add(call(content), begins=True)
    queue.add(call("a1 goes on"), begins=False)
    assert sent(queue, 6) == ["a1 goes on", "b1", "c1", "c2", "b2", "a2"]
    assert queue.first() is None and len(queue) == 0


def test_no_call_waits_longer_than_for_one_sweep_before_its_own() -> None:
    queue = CallQueue(by_prefix=True)
    queue.add(call("z"), begins=True)
    for n in range(50):
        queue.add(call(f"a{n}"), begins=True)
    sent(queue, 1)
    for n in range(50):  # prompts that would always come first
        queue.add(call(f"a{n}"), begins=True)
    assert "z" in sent(queue, 50)


def test_a_sweep_waits_for_rows_that_are_being_admitted() -> None:
    queue = CallQueue(by_prefix=True)
    queue.add(call("b"), begins=True)
    assert queue.first(least=2) is None
    queue.add(call("a"), begins=True)
    assert sent(queue, 2) == ["a", "b"]


def test_calls_that_fill_the_window_alone_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LOOK_AHEAD", 8)
    engine = CachesPrefixes(limit=16)
    engine.samples_per_call = 16
    [result], _ = drive(Chain(turns=1, samples=16), engine, tmp_path, in_turn(5, 2))
    assert len(result.rows) == 5 and engine.most_in_flight == 16


def test_vllm_caches_prefixes_unless_it_is_told_not_to(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    from synthmill.tasks.engines.vllm_engine import VLLMEngine

    (tmp_path / "config.json").write_text("{}")

    def engine(**options: Any) -> VLLMEngine:
        return VLLMEngine(EngineSettings.model_validate({"spec": f"vllm:{tmp_path}", "options": options}))

    assert engine().caches_prefixes and not engine(enable_prefix_caching=False).caches_prefixes
