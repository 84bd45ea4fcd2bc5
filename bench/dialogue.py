"""Role-swap dialogues of ten turns with log-normal answer times: the driver against an ideal first-come scheduler.

    python -m bench.dialogue [--dialogues 500] [--turns 10] [--in-flight 64] [--median-ms 50] [--sigma 0.8]

The ideal scheduler has `in-flight` places, takes dialogues first come, first served, and loses no time between turns.
The bound is the larger of the longest dialogue and all work shared evenly; no scheduler beats it. The second table is
1,000 dialogues against the local chat server: how full the window was while dialogues were waiting, and the memory.
"""

import argparse
import asyncio
import heapq
import math
import random
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import uvloop

from bench.chat_server import sentence
from bench.serving import chat_server
from synthmill.schemas.applications import Application
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.dialogues import Opening
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.calls import CallStore
from synthmill.tasks.engines.engine import Engine, make_engine
from synthmill.tasks.generators.dialogues.role_swap import RoleSwap
from synthmill.tasks.running.driver import Driver

TURNS = [{"role": role, "content": text} for role, text in (("user", "Rules."), ("assistant", "Fine."), ("user", ""))]


def openings(count: int) -> list[Opening]:
    """Openings on one small application; each says its number."""
    application = Application.with_id(name="bench", turns=TURNS, environment={"name": "a machine"})
    fields = {"student_output_single": "", "teacher_output_single": "", "reason": "", "facts": "None.", "branch": 0}
    return [
        Opening.model_validate(
            {"id": str(n), "application": application, "pseudo_input": f"Dialogue {n} begins.", **fields}
        )
        for n in range(count)
    ]


class Sleeper:
    """An engine that sleeps before each answer: seconds by (dialogue, call)."""

    name, samples_per_call = "sleeper", 1

    def __init__(self, seconds: Sequence[Sequence[float]], limit: int) -> None:
        self.seconds, self.limit = seconds, limit

    async def open(self) -> None: ...

    def stop(self) -> None: ...

    def answered_before(self, request: Request) -> None: ...

    async def close(self) -> None: ...

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        matches = (re.search(r"Dialogue (\d+)", message.content) for message in request.messages)
        dialogue = next(match[1] for match in matches if match)
        call = len(request.messages) - 4 + (request.role == "environment")  # both histories have four messages at first
        await asyncio.sleep(self.seconds[int(dialogue)][call])
        return [Completion(text=sentence(f"{dialogue}/{call}".encode(), 40), completion_tokens=40)]


def ideal(seconds: Sequence[Sequence[float]], in_flight: int) -> float:
    """When an ideal first-come scheduler would be done, in seconds."""
    free = [0.0] * in_flight
    for dialogue in seconds:
        heapq.heapreplace(free, free[0] + sum(dialogue))
    return max(free)


async def drive(driver: Driver, rows: list[Opening]) -> float:
    """Seconds for bringing every dialogue to its end, in parts of 100."""
    started = time.perf_counter()
    parts = await asyncio.gather(*(driver.run(rows[at : at + 100]) for at in range(0, len(rows), 100)))
    assert sum(len(part.rows) for part in parts) == len(rows)
    return time.perf_counter() - started


def make_driver(turns: int, engine: Engine, folder: Path) -> Driver:
    return Driver(RoleSwap(max_turns=turns), dict.fromkeys(RoleSwap.roles, engine), CallStore(folder))


def measure(seconds: Sequence[Sequence[float]], in_flight: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        driver = make_driver((len(seconds[0]) + 1) // 2, Sleeper(seconds, in_flight), Path(folder))
        duration = uvloop.run(drive(driver, openings(len(seconds))))
        driver.calls.close()
        return duration


def measure_server(dialogues: int, turns: int, in_flight: int, url: str) -> str:
    """One line: dialogues against the chat server, how full the window was, and the memory it took."""
    full: list[int] = []
    memory: list[float] = []
    process = psutil.Process()

    async def watch(driver: Driver) -> None:
        while driver.rows_done + driver.in_flight < dialogues:
            full.append(driver.in_flight)
            memory.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(0.02)

    async def run(folder: Path) -> tuple[float, int]:
        engine = make_engine(EngineSettings(kind="openai", model="local-model", base_url=url, concurrency=in_flight))
        await engine.open()
        driver = make_driver(turns, engine, folder)
        watching = asyncio.create_task(watch(driver))
        seconds = await drive(driver, openings(dialogues))
        await watching
        driver.calls.close()
        await engine.close()
        return seconds, sum(spent.sent for spent in driver.totals.values())

    with tempfile.TemporaryDirectory() as folder:
        seconds, calls = uvloop.run(run(Path(folder)))
    early, late = memory[len(memory) // 10], memory[-1]
    share = statistics.mean(full[1:]) / in_flight
    return f"| {dialogues} | {calls:,} | {seconds:.1f} | {share:.3f} | {early:.0f} | {late:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", type=int, default=500)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--median-ms", type=float, default=50)
    parser.add_argument("--sigma", type=float, default=0.8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| draw | bound s | ideal first-come s | ideal / bound | driver s | driver / ideal |")
    print("|---:|---:|---:|---:|---:|---:|")
    ratios = []
    for draw in range(options.repeats):
        generator = random.Random(draw)
        median = math.log(options.median_ms / 1000)
        seconds = [
            [generator.lognormvariate(median, options.sigma) for _ in range(2 * options.turns - 1)]
            for _ in range(options.dialogues)
        ]
        work = [sum(dialogue) for dialogue in seconds]
        bound = max(max(work), sum(work) / options.in_flight)
        best, duration = ideal(seconds, options.in_flight), measure(seconds, options.in_flight)
        ratios.append(duration / best)
        print(
            f"| {draw} | {bound:.2f} | {best:.2f} | {best / bound:.2f} | {duration:.2f} | {duration / best:.3f} |",
            flush=True,
        )
    print(f"\nmedian driver / ideal: {statistics.median(ratios):.3f}\n")
    print("| dialogues | calls | seconds | window full | memory MiB at a tenth | at the end |")
    print("|---:|---:|---:|---:|---:|---:|")
    latency = ("--latency-ms", str(options.median_ms), "--sigma", str(options.sigma))
    with chat_server(*latency) as url:
        for dialogues in (options.dialogues, 2 * options.dialogues):
            print(measure_server(dialogues, options.turns, options.in_flight, url), flush=True)


if __name__ == "__main__":
    main()
