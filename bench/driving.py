"""What a row costs a stage, part by part: `python -m bench.driving [--rows 20000] [--in-flight 256] [--repeats 5]`.

One answer to each of many prompts, as in bench/generation.py, whose bare loop is the first line. Then the parts: the
engine alone (requests are written, sent and read), the driver alone (keys, recipe and call store, with an engine that
answers at once), both together, and the stage, which also reads parts, makes tables and seals them. Each is a process
of its own; medians. CPU is that process's, of all its threads.
"""

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.generation import PROMPT, bare_loop, measure_stage
from bench.serving import chat_server

ROWS_PER_PART, PARTS_AT_ONCE = 256, 4
PARTS = {
    "bare": "a bare aiohttp loop",
    "engine": "the engine alone",
    "driver": "the driver alone",
    "both": "driver and engine",
    "stage": "the stage, `--workers 0`",
}


class AtOnce:
    """An engine that answers every request of a tick at its end."""

    name, samples_per_call = "at-once", 1

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._asked: list[asyncio.Future[None]] = []

    async def open(self) -> None: ...

    def answered_before(self, request: Any) -> None: ...

    def stop(self) -> None: ...

    async def close(self) -> None: ...

    async def complete(self, request: Any, seed: int, count: int) -> Sequence[Any]:
        from synthmill.schemas.calls import Completion

        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._answer)
        self._asked.append(asked := loop.create_future())
        await asked
        usage = {"prompt_tokens": 50, "completion_tokens": 40, "total_tokens": 90}
        return [Completion(text="x" * 200, prompt_tokens=50, completion_tokens=40, latency_s=0.02, usage=usage)]

    def _answer(self) -> None:
        asked, self._asked = self._asked, []
        for future in asked:
            future.set_result(None)


def server_engine(url: str, in_flight: int) -> Any:
    from synthmill.schemas.settings import EngineSettings
    from synthmill.tasks.engines.engine import make_engine

    return make_engine(EngineSettings(kind="openai", model="m", base_url=url, concurrency=in_flight))


async def ask_only(engine: Any, prompts: list[str], in_flight: int) -> None:
    """Requests without a driver."""
    from synthmill.schemas.calls import Message, Request

    waiting = iter(enumerate(prompts))

    async def ask() -> None:
        for n, prompt in waiting:
            await engine.complete(Request(role="student", messages=(Message(role="user", content=prompt),)), n, 1)

    await engine.open()
    await asyncio.gather(*(ask() for _ in range(in_flight)))
    await engine.close()


async def drive(engine: Any, prompts: list[str], folder: Path) -> None:
    """Requests of a recipe, each stored, without a stage around them."""
    from synthmill.schemas.rows import Instruction
    from synthmill.storage.calls import CallStore
    from synthmill.tasks.generators.answers import Answers
    from synthmill.tasks.running.driver import Driver

    calls = CallStore(folder / "calls", origin={"run": "bench"})
    driver = Driver(Answers(count=1), {"student": engine}, calls)
    rows = [Instruction(id=f"{n:032x}", prompt=prompt) for n, prompt in enumerate(prompts)]
    parts = iter([rows[start : start + ROWS_PER_PART] for start in range(0, len(rows), ROWS_PER_PART)])

    async def work() -> None:
        for part in parts:
            await driver.run(part)

    await engine.open()
    await asyncio.gather(*(work() for _ in range(PARTS_AT_ONCE)))
    await engine.close()
    calls.close()


def measure(what: str, url: str, rows: int, in_flight: int) -> None:
    """Print seconds and CPU seconds."""
    import uvloop

    prompts = [PROMPT.format(n=n) for n in range(rows)]
    with tempfile.TemporaryDirectory() as folder:
        if what != "bare":
            from synthmill.tasks.running.worker import GC_THRESHOLD  # as a worker has it

            gc.freeze()
            gc.set_threshold(*GC_THRESHOLD)
        began, cpu = time.perf_counter(), time.process_time()
        if what == "bare":
            uvloop.run(bare_loop(url, prompts, in_flight))
        elif what == "engine":
            uvloop.run(ask_only(server_engine(url, in_flight), prompts, in_flight))
        elif what == "driver":
            uvloop.run(drive(AtOnce(in_flight), prompts, Path(folder)))
        elif what == "both":
            uvloop.run(drive(server_engine(url, in_flight), prompts, Path(folder)))
        else:
            seconds, _, cpu = measure_stage(url, rows, in_flight, workers=0)
            print(json.dumps((seconds, cpu)))
            return
        print(json.dumps((time.perf_counter() - began, time.process_time() - cpu)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return measure(*options.child, options.rows, options.in_flight)
    runs: dict[str, list[tuple[float, float]]] = {what: [] for what in PARTS}
    with chat_server("--latency-ms", "20") as url:
        sizes = ("--rows", str(options.rows), "--in-flight", str(options.in_flight))
        for _ in range(options.repeats):
            for what in PARTS:
                command = [sys.executable, "-m", "bench.driving", "--child", what, url, *sizes]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout
                runs[what].append(tuple(json.loads(output.splitlines()[-1])))
    print(f"{options.rows:,} rows, {options.in_flight} in flight.\n\n| | us a row | CPU us a row |\n|---|---:|---:|")
    for what, title in PARTS.items():
        seconds, cpu = (statistics.median(figures) / options.rows * 1e6 for figures in zip(*runs[what], strict=True))
        print(f"| {title} | {seconds:.0f} | {cpu:.0f} |")
    return None


if __name__ == "__main__":
    main()
