"""Ten-turn dialogues with log-normal answer times: the driver against an ideal first-come scheduler.

    python -m bench.dialogue [--dialogues 500] [--turns 10] [--in-flight 64] [--median-ms 50] [--sigma 0.8]

The ideal scheduler has `in-flight` places, takes dialogues first come, first served, and loses no time between turns.
The bound is the larger of the longest dialogue and all work shared evenly; no scheduler beats it.
"""

import argparse
import asyncio
import heapq
import math
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import uvloop

from schemas.calls import Completion, Message, Request
from schemas.rows import Instruction
from storage.calls import CallStore
from tasks.driver import Driver
from tasks.recipe import Recipe, Steps


class Dialogue(Recipe[Instruction, Instruction]):
    """`turns` requests, each with everything said so far."""

    name: ClassVar = "dialogue"
    version: ClassVar = "1"
    roles: ClassVar = ("student",)
    turns: int = 10

    def steps(self, row: Instruction) -> Steps[Instruction]:
        said = [Message(role="user", content=row.prompt)]
        for _ in range(self.turns):
            [answer] = yield [Request(role="student", messages=tuple(said))]
            said += [Message(role="assistant", content=answer.text), Message(role="user", content="And then?")]
        return Instruction.child_of(row, self.name)


class Sleeper:
    """An engine that takes as long as it was told: seconds by (dialogue, turn)."""

    name, samples_per_call = "sleeper", 1

    def __init__(self, seconds: Sequence[Sequence[float]], limit: int) -> None:
        self.seconds, self.limit = seconds, limit

    async def open(self) -> None: ...

    def stop(self) -> None: ...

    async def close(self) -> None: ...

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        dialogue = int(request.messages[0].content.split()[1])
        await asyncio.sleep(self.seconds[dialogue][len(request.messages) // 2])
        return [Completion(text="The river carries light over the quiet field. " * 4, completion_tokens=40)]


def ideal(seconds: Sequence[Sequence[float]], in_flight: int) -> float:
    """When an ideal first-come scheduler would be done, in seconds."""
    free = [0.0] * in_flight
    for dialogue in seconds:
        heapq.heapreplace(free, free[0] + sum(dialogue))
    return max(free)


def measure(seconds: Sequence[Sequence[float]], in_flight: int) -> float:
    async def run(folder: Path) -> float:
        calls = CallStore(folder)
        driver = Driver(Dialogue(turns=len(seconds[0])), {"student": Sleeper(seconds, in_flight)}, calls)
        rows = [Instruction(id=str(n), prompt=f"Dialogue {n} begins.") for n in range(len(seconds))]
        started = time.perf_counter()
        parts = await asyncio.gather(*(driver.run(rows[at : at + 100]) for at in range(0, len(rows), 100)))
        taken = time.perf_counter() - started
        calls.close()
        assert sum(len(part.rows) for part in parts) == len(rows)
        return taken

    with tempfile.TemporaryDirectory() as folder:
        return uvloop.run(run(Path(folder)))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dialogues", type=int, default=500)
    options.add_argument("--turns", type=int, default=10)
    options.add_argument("--in-flight", type=int, default=64)
    options.add_argument("--median-ms", type=float, default=50)
    options.add_argument("--sigma", type=float, default=0.8)
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    print("| draw | bound s | ideal first-come s | ideal / bound | driver s | driver / ideal |")
    print("|---:|---:|---:|---:|---:|---:|")
    ratios = []
    for draw in range(given.repeats):
        drawn = random.Random(draw)
        median = math.log(given.median_ms / 1000)
        seconds = [
            [drawn.lognormvariate(median, given.sigma) for _ in range(given.turns)] for _ in range(given.dialogues)
        ]
        work = [sum(dialogue) for dialogue in seconds]
        bound = max(max(work), sum(work) / given.in_flight)
        best, taken = ideal(seconds, given.in_flight), measure(seconds, given.in_flight)
        ratios.append(taken / best)
        print(
            f"| {draw} | {bound:.2f} | {best:.2f} | {best / bound:.2f} | {taken:.2f} | {taken / best:.3f} |", flush=True
        )
    print(f"\nmedian driver / ideal: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
