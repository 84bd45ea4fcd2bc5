"""The driver: a full window, no barriers, answers stored before they are seen, and nothing asked twice."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from synthmill.schemas.calls import Completion, Message, Request
from synthmill.schemas.errors import Drop, EngineError, Stopped, StoreError, SynthmillError
from synthmill.schemas.rows import Instruction, Pool
from synthmill.storage.calls import CallStore
from synthmill.storage.segments import spent_in
from synthmill.tasks.recipe import Recipe, Steps
from synthmill.tasks.running.driver import Driver
from synthmill.tasks.running.flights import PartResult
from tests.conftest import Echo, instructions


class Chain(Recipe[Instruction, Instruction]):
    """Several turns, each with several samples; what the model says last is the prompt."""

    name: ClassVar = "chain"
    version: ClassVar = "1"
    roles: ClassVar = ("student",)
    turns: int = 3
    samples: int = 1
    optional: bool = False

    def steps(self, row: Instruction) -> Steps[Instruction]:
        said = row.prompt
        for _ in range(self.turns):
            ask = Request(role="student", messages=(Message(role="user", content=said),), optional=self.optional)
            answers = yield ask.sampled(self.samples)
            said = " | ".join(answer.error or answer.text for answer in answers)
        if "drop me" in said:
            raise Drop("as_told: because")
        if "crash" in said:
            raise KeyError("bug in a parser")
        return Instruction.child_of(row, "chain", prompt=said)


def drive(
    recipe: Recipe[Any, Any], engine: Any, folder: Path, *parts: Sequence[Instruction]
) -> tuple[list[Any], Driver]:
    """Run parts side by side; per part its result or the error."""

    async def run() -> tuple[list[Any], Driver]:
        calls = CallStore(folder)
        driver = Driver(recipe, {"student": engine}, calls)
        results = await asyncio.gather(*(driver.run(part) for part in parts), return_exceptions=True)
        calls.close()
        return results, driver

    return asyncio.run(run())


def test_rows_come_back_in_order_with_their_calls(tmp_path: Path) -> None:
    results, driver = drive(Chain(turns=2), Echo(), tmp_path, instructions(20), instructions(5, start=20))
    assert [row.prompt for row in results[0].rows] == [f"question {n} #0 #0" for n in range(20)]
    assert [row.parent_id for row in results[1].rows] == [f"row-{n}" for n in range(20, 25)]
    assert all(len(keys) == 2 for keys in results[0].calls)
    assert results[0].spent["student"].sent == 40
    assert (driver.rows_done, driver.totals["student"].completion_tokens) == (25, 150)


def test_the_window_counts_requests_and_stays_full_across_parts(tmp_path: Path) -> None:
    engine = Echo(limit=8)
    drive(Chain(turns=2, samples=5), engine, tmp_path, *(instructions(4, start=4 * n) for n in range(10)))
    assert engine.most_in_flight == 8
    assert len(engine.asked) == 40 * 2 * 5


def test_a_row_moves_on_the_moment_its_own_answers_are_there(tmp_path: Path) -> None:
    """One row of a part is slow in its first turn: the others finish all their turns meanwhile."""
    order: list[str] = []

    class Slow(Echo):
        async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
            content = request.messages[-1].content
            await asyncio.sleep(0.2 if content == "question 0" else 0.001)
            order.append(content)
            return await super().complete(request, seed, count)

    drive(Chain(turns=4), Slow(), tmp_path, instructions(4))
    assert order.index("question 0") == 3 * 4  # after every turn of the other three


def test_answers_are_stored_before_the_recipe_sees_them(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Looking(Chain):
        def steps(self, row: Instruction) -> Steps[Instruction]:
            steps = super().steps(row)
            answers: Any = None
            while True:
                try:
                    requests = steps.send(answers)
                except StopIteration as end:
                    return end.value
                answers = yield requests
                stored = b"".join(path.read_bytes() for path in tmp_path.glob("*.calls"))
                seen.append(answers[0].text.encode() in stored)

    drive(Looking(), Echo(), tmp_path, instructions(3))
    assert seen == [True] * 9


def test_stored_answers_are_replayed_up_to_the_first_missing_one(tmp_path: Path) -> None:
    drive(Chain(turns=2), Echo(), tmp_path, instructions(10))
    again = Echo()
    [result], _ = drive(Chain(turns=3), again, tmp_path, instructions(12))
    assert len(again.asked) == 10 * 1 + 2 * 3
    assert result.spent["student"].reused == 20
    assert len(result.rows) == 12


def test_drops_and_bugs_in_one_row_leave_its_neighbours_alone(tmp_path: Path) -> None:
    rows = [*instructions(3), Instruction(id="d", prompt="drop me"), Instruction(id="c", prompt="crash")]
    [result], _ = drive(Chain(), Echo(), tmp_path, rows)
    assert [row.parent_id for row in result.rows] == ["row-0", "row-1", "row-2"]
    assert [(row.id, row.reason) for row in result.dropped] == [("d", "as_told"), ("c", "recipe_error")]
    assert result.dropped[0].detail == "because"
    assert "KeyError" in result.dropped[1].detail


def test_a_row_must_be_the_child_of_the_row_given(tmp_path: Path) -> None:
    class Orphan(Chain):
        returned: str = "itself"

        def steps(self, row: Instruction) -> Steps[Instruction]:
            yield []
            return row if self.returned == "itself" else None  # type: ignore[return-value]

    for returned in ("itself", "nothing"):
        [result], _ = drive(Orphan(returned=returned), Echo(), tmp_path, instructions(1))
        assert result.dropped[0].reason == "recipe_error"


def test_a_row_may_stay_itself_with_more_fields(tmp_path: Path) -> None:
    class Grow(Recipe[Instruction, Pool]):
        name: ClassVar = "grow"
        version: ClassVar = "1"
        roles: ClassVar = ("student",)

        def steps(self, row: Instruction) -> Steps[Pool]:
            yield []
            return Pool(**row.__dict__, answers=())

    [result], _ = drive(Grow(), Echo(), tmp_path, instructions(2))
    assert [row.id for row in result.rows] == ["row-0", "row-1"]
    assert not result.dropped


def failing(request: Request, sample: int) -> Any:
    if "question 1" in request.messages[-1].content and sample != 1:
        return Completion(text="", finish_reason="error", error="context_overflow: too long")
    return f"fine {sample}"


def test_a_failed_request_drops_its_row_unless_it_is_optional(tmp_path: Path) -> None:
    [result], _ = drive(Chain(turns=1), Echo(failing), tmp_path / "a", instructions(3))
    assert [(row.id, row.reason, row.detail) for row in result.dropped] == [("row-1", "context_overflow", "too long")]
    [result], _ = drive(Chain(turns=1, samples=3, optional=True), Echo(failing), tmp_path / "b", instructions(3))
    assert result.rows[1].prompt == "context_overflow: too long | fine 1 | context_overflow: too long"
    assert len(result.calls[1]) == 1
    again = Echo()
    drive(Chain(turns=1), again, tmp_path / "a", instructions(3))
    assert [asked[0] for asked in again.asked] == ["question 1"]  # failures are not stored


def test_equal_requests_of_several_rows_are_asked_once(tmp_path: Path) -> None:
    engine = Echo()
    rows = [Instruction(id=str(n), prompt="the same") for n in range(6)]
    [result], _ = drive(Chain(turns=1), engine, tmp_path, rows)
    assert len(engine.asked) == 1
    assert (result.spent["student"].sent, result.spent["student"].reused) == (1, 5)
    assert {row.prompt for row in result.rows} == {"the same #0"}


class Duet(Chain):
    """Two roles are asked the same question, one of them twice over, in one step."""

    roles: ClassVar = ("teacher", "student")

    def steps(self, row: Instruction) -> Steps[Instruction]:
        message = (Message(role="user", content=row.prompt),)
        said = yield [Request(role=role, messages=message) for role in ("teacher", "student", "student")]
        return Instruction.child_of(row, "duet", prompt=" | ".join(answer.text for answer in said))


@pytest.mark.parametrize("together", [1, 4])
def test_each_role_answers_for_itself_and_equal_requests_share_their_answer(tmp_path: Path, together: int) -> None:
    engines = {
        name: Echo(lambda _, sample, name=name: f"{name} {sample}", name=name) for name in ("teacher", "student")
    }
    for engine in engines.values():
        engine.samples_per_call = together

    async def run() -> Any:
        calls = CallStore(tmp_path)
        result = await Driver(Duet(), engines, calls).run(instructions(2))
        calls.close()
        return result

    for _ in range(2):
        assert [row.prompt for row in asyncio.run(run()).rows] == ["teacher 0 | student 0 | student 0"] * 2
    assert [len(engine.asked) for engine in engines.values()] == [2, 2]
    assert {count for engine in engines.values() for _, _, count in engine.asked} == {1}


def test_samples_are_asked_together_and_an_interrupted_group_is_asked_whole(tmp_path: Path) -> None:
    class Grouped(Echo):
        samples_per_call = 4

    drive(Chain(turns=1, samples=2), Echo(), tmp_path, instructions(1))  # samples 0 and 1 are stored
    engine = Grouped()
    [result], _ = drive(Chain(turns=1, samples=6), engine, tmp_path, instructions(1))
    assert sorted(engine.asked) == [("question 0", 0, 4), ("question 0", 4, 2)]
    assert result.rows[0].prompt == " | ".join(f"question 0 #{n}" for n in range(6))
    student = result.spent["student"]
    assert (student.sent, student.reused, student.completion_tokens) == (6, 2, 18)  # two were paid for again
    [who] = spent_in(tmp_path)
    assert spent_in(tmp_path)[who][:3] == [8, 0, 24]


def test_a_dead_engine_stops_the_run_and_keeps_what_was_answered(tmp_path: Path) -> None:
    answered = 0

    def dies(request: Request, sample: int) -> str:
        nonlocal answered
        if answered == 30:
            raise EngineError("the server is gone")
        answered += 1
        return "fine"

    results, _ = drive(Chain(turns=1), Echo(dies, limit=8), tmp_path, instructions(50), instructions(50, start=50))
    assert {type(result) for result in results} == {EngineError}
    again = Echo()
    drive(Chain(turns=1), again, tmp_path, instructions(100))
    assert len(again.asked) == 70


def test_an_unexpected_exception_in_an_engine_is_an_engine_error(tmp_path: Path) -> None:
    def breaks(request: Request, sample: int) -> str:
        raise ZeroDivisionError("oops")

    [result], _ = drive(Chain(), Echo(breaks), tmp_path, instructions(3))
    assert isinstance(result, EngineError)
    assert "ZeroDivisionError: oops" in result.message


def test_a_stop_drains_what_is_in_flight(tmp_path: Path) -> None:
    async def run() -> Any:
        calls = CallStore(tmp_path)
        driver = Driver(Chain(turns=1), {"student": Echo(limit=8)}, calls)
        task = asyncio.create_task(driver.run(instructions(500)))
        while (in_flight := driver.in_flight) < 8:
            await asyncio.sleep(0.001)
        before = driver.rows_done
        driver.stop(Stopped("as told"))
        with pytest.raises(Stopped):
            await task
        calls.close()
        return in_flight, driver.rows_done - before

    in_flight, drained = asyncio.run(run())
    assert in_flight == drained == 8


@pytest.mark.parametrize("method", ["find", "add", "flush"])
@pytest.mark.parametrize("error", [StoreError("the disk is full"), OSError(24, "too many open files")])
def test_a_broken_store_stops_the_run_and_drops_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception
) -> None:
    def broken(self: CallStore, *_: Any, **__: Any) -> None:
        raise error

    async def run() -> Any:
        driver = Driver(Chain(), {"student": Echo()}, CallStore(tmp_path))
        monkeypatch.setattr(CallStore, method, broken)
        return await asyncio.wait_for(driver.run(instructions(3)), 10)

    with pytest.raises(SynthmillError, match=r"the disk is full|too many open files"):
        asyncio.run(run())


def test_an_empty_part_is_a_part(tmp_path: Path) -> None:
    [result], _ = drive(Chain(), Echo(), tmp_path, [])
    assert result == PartResult([], [], [], {})
