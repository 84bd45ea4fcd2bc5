"""However answers arrive, whatever is stored or asked for twice, stopped and begun again: every row comes to the end
that it has when nothing happens, and nothing is asked for that is stored or on its way.
"""

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from synthmill.schemas.calls import Completion, Message, Request
from synthmill.schemas.errors import Stopped
from synthmill.schemas.rows import Instruction
from synthmill.storage.calls import CallStore
from synthmill.storage.segments import spent_in
from synthmill.tasks.recipe import Recipe, Steps
from synthmill.tasks.running.driver import Driver

GROUP = 2  # samples asked together


LOST = "question 3"


class Uneven(Recipe[Instruction, Instruction]):
    """Two turns; how many samples of each depends on the row, so that rows share some of a group's samples."""

    name: ClassVar = "uneven"
    version: ClassVar = "1"
    roles: ClassVar = ("student",)

    def steps(self, row: Instruction) -> Steps[Instruction]:
        said = row.prompt
        for _ in range(2):
            request = Request(role="student", messages=(Message(role="user", content=said),), sampling=self.sampling)
            answers = yield request.sampled(int(row.id[-1]))
            said = answers[-1].text[:24]
        return Instruction.child_of(row, self.name, prompt=" | ".join(answer.text for answer in answers))


class Held:
    """An engine that answers when it is told to; some questions it always loses."""

    name, limit, samples_per_call = "held", 6, GROUP

    def __init__(self) -> None:
        self.waiting: list[tuple[Request, int, asyncio.Future[None]]] = []
        self.sent = 0

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def stop(self) -> None: ...

    def answered_before(self, request: Request) -> None: ...

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((request, count, done))
        self.sent += count
        await done
        text = request.messages[-1].content
        if LOST in text:
            return [Completion(text="", finish_reason="error", error="engine_error: no")] * count
        return [Completion(text=f"{text} #{request.sample + n}", completion_tokens=1) for n in range(count)]


def row(question: int, samples: int) -> Instruction:
    return Instruction(id=f"{question}-{samples}", prompt=f"question {question}")  # several rows ask the same


class Driving(RuleBasedStateMachine):
    """One driver over a store; parts of rows come in, answers arrive, the run stops and begins again."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(os, "fsync", lambda _: None)
        self.loop = asyncio.new_event_loop()
        self.ends: dict[str, Any] = {}
        self.parts: list[tuple[asyncio.Task[Any], list[Instruction]]] = []
        self.sent = 0
        self.start()

    def start(self) -> None:
        self.engine, self.calls = Held(), CallStore(self.folder)
        self.driver = Driver(Uneven(), {"student": self.engine}, self.calls)

    def settle(self) -> None:
        for _ in range(20):
            self.loop.run_until_complete(asyncio.sleep(0))
        for task, rows in [part for part in self.parts if part[0].done()]:
            self.parts.remove((task, rows))
            if task.exception() is None:
                self.look(rows, task.result())
            else:
                assert isinstance(task.exception(), Stopped)

    def look(self, rows: list[Instruction], result: Any) -> None:
        ends = {made.parent_id: made.prompt for made in result.rows} | {gone.id: gone.reason for gone in result.dropped}
        assert sorted(ends) == sorted(each.id for each in rows)
        for row_id, end in ends.items():
            assert self.ends.setdefault(row_id, end) == end  # the same end, every time
            assert (end == "engine_error") == row_id.startswith("3-")
        assert bool(result.lost) == ("engine_error" in ends.values())

    def teardown(self) -> None:
        self.everything_is_answered()
        self.loop.close()
        self.calls.close()
        self.patch.undo()
        shutil.rmtree(self.folder)

    @rule(asking=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 3)), min_size=1, max_size=2, unique=True))
    def a_part_comes(self, asking: list[tuple[int, int]]) -> None:
        rows = [row(question, samples) for question, samples in asking]
        self.parts.append((self.loop.create_task(self.driver.run(rows)), rows))
        self.settle()

    @precondition(lambda self: self.engine.waiting)
    @rule(which=st.integers(0, 9))
    def an_answer_arrives(self, which: int) -> None:
        waiting = self.engine.waiting
        waiting.pop(which % len(waiting))[2].set_result(None)
        self.settle()

    def everything_is_answered(self) -> None:
        while self.engine.waiting:
            self.an_answer_arrives(0)
        assert not self.parts

    @precondition(lambda self: len(self.parts) > 3)
    @rule(drained=st.booleans())
    def the_run_stops_and_begins_again(self, drained: bool) -> None:
        self.driver.stop(Stopped("stopped"))
        while drained and self.engine.waiting:
            self.engine.waiting.pop()[2].set_result(None)
        self.settle()
        for task, _ in self.parts:
            task.cancel()
        for _, _, future in self.engine.waiting:
            future.cancel()
        self.parts.clear()
        self.settle()
        self.sent += self.engine.sent
        self.calls.close()
        self.start()

    @invariant()
    def nothing_on_its_way_is_asked_for_again(self) -> None:
        asked: Counter[tuple[str, int, int]] = Counter()
        for request, count, _ in self.engine.waiting:
            if LOST not in request.messages[-1].content:  # a group that carries it does not know that another lost it
                asked[request.messages[-1].content, request.sample, count] += 1
        assert all(times == 1 for times in asked.values())

    @invariant()
    def what_was_answered_is_counted_once(self) -> None:
        counted = sum(numbers[0] for numbers in spent_in(self.folder).values())
        assert counted <= self.sent + self.engine.sent


TestDriving = Driving.TestCase
TestDriving.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_an_answer_does_not_let_another_call_be_forgotten() -> None:
    """Two calls share a sample: the one that only carries it along must not take it off the other's list."""
    driving = Driving()
    driving.a_part_comes([(0, 1)])
    driving.a_part_comes([(0, 2)])
    driving.an_answer_arrives(1)
    driving.a_part_comes([(0, 1)])
    driving.nothing_on_its_way_is_asked_for_again()
    driving.teardown()
