"""A pipeline of two prompts of one's own against a bare aiohttp loop that asks the same of the same server, in turn.

    python -m bench.composed [--rows 2000] [--in-flight 64] [--repeats 5]

The second prompt holds the answer to the first. The pipeline's time is that of its two stages in this process, call
store and Parquet included; the bare loop keeps the texts in a list. Each measurement is a process of its own. Then
counts of what the server was asked: for 1,000 rows, for 100 more, for a changed condition behind both prompts.
"""

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROMPT = "Question {n}: what does the river carry over the old mill, and why do seven birds draw circles above it? " * 2
SECOND = "Write this down in other words, and keep every bird in it:\n\n"
STEPS = {
    "answer": {"stage": "ask", "prompt": "{{ question }}"},
    "again": {"stage": "ask", "prompt": SECOND + "{{ answer }}"},
    "long": {"stage": "filter", "where": "length(again) > 10"},
}
ASKING = 2
COUNTED, ADDED = 1000, 100


def write_rows(folder: Path, rows: int) -> None:
    lines = (json.dumps({"id": f"row-{n}", "question": PROMPT.format(n=n)}) for n in range(rows))
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")


def planned(folder: Path, url: str, in_flight: int, where: str = "") -> Any:
    """The plan of the pipeline in a folder."""
    from synthmill.flows.methods.pipeline import PipelineSettings, plan

    steps = STEPS | ({"long": {"stage": "filter", "where": where}} if where else {})
    engine = {"spec": f"openai:m@{url}", "concurrency": in_flight}
    settings = {"source": str(folder / "in.jsonl"), "store": str(folder / "store"), "engines": {"teacher": engine}}
    return plan(PipelineSettings.model_validate(settings | {"steps": steps}))


def make(pipeline: Any) -> Iterator[tuple[Any, float]]:
    """Make every step of a plan, without Prefect; yields each one's manifest and its seconds."""
    from synthmill.tasks.running.parallel import make_pool
    from synthmill.tasks.running.stages import run_stage

    by_key = {pipeline.source.key: pipeline.source.ingest("bench")}
    pool = make_pool(pipeline.store, "bench", threading.Event(), 0, None)
    for step in pipeline.stages:
        started = time.perf_counter()
        by_key[step.key] = run_stage(pipeline.store, step, by_key[step.source_key], pool, "bench")
        yield by_key[step.key], time.perf_counter() - started
    pool.close()


def measure_pipeline(url: str, rows: int, in_flight: int) -> float:
    """Seconds of both stages that ask."""
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), rows)
        steps = list(make(planned(Path(folder), url, in_flight)))
    assert all(manifest.rows == rows for manifest, _ in steps)
    return sum(seconds for _, seconds in steps[:ASKING])


async def bare_loop(url: str, prompts: list[str], in_flight: int) -> list[str]:
    """aiohttp on uvloop: `in_flight` coroutines that take the next prompt, and ask twice."""
    import aiohttp
    import orjson

    texts = [""] * len(prompts)
    waiting = iter(enumerate(prompts))
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(prompt: str, seed: int) -> str:
            messages = [{"role": "user", "content": prompt}]
            body = orjson.dumps({"model": "m", "messages": messages, "seed": seed, "max_tokens": 1024})
            async with session.post(f"{url}/chat/completions", data=body, headers=headers) as response:
                return str(orjson.loads(await response.read())["choices"][0]["message"]["content"])

        async def ask_twice() -> None:
            for n, prompt in waiting:
                texts[n] = await ask(SECOND + await ask(prompt, n), n)

        await asyncio.gather(*(ask_twice() for _ in range(in_flight)))
    return texts


def measure_bare(url: str, rows: int, in_flight: int) -> float:
    import uvloop

    prompts = [PROMPT.format(n=n) for n in range(rows)]
    started = time.perf_counter()
    assert all(uvloop.run(bare_loop(url, prompts, in_flight)))
    return time.perf_counter() - started


MEASURES = {"bare aiohttp": measure_bare, "the pipeline's two stages": measure_pipeline}


def child(what: str, url: str, rows: int, in_flight: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = MEASURES[what](url, rows, in_flight)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"rate": rows / seconds, "cpu": cpu, "memory": used.ru_maxrss / 1024}))


def run_measurement(what: str, url: str, rows: int, in_flight: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.composed", "--child", what, url, str(rows), str(in_flight)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    return dict(json.loads(output.splitlines()[-1]))


def asked(url: str) -> int:
    import httpx

    return int(httpx.get(f"{url.removesuffix('/v1')}/stats").json()["total"])


def print_counts(url: str, in_flight: int) -> None:
    """What the server is asked as a pipeline grows and changes."""
    print("\n| the same command again, with | rows | requests | new rows x 2 prompts |")
    print("|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [("nothing made before", COUNTED, COUNTED, ""), (f"{ADDED} rows added", COUNTED + ADDED, ADDED, "")]
        runs.append(("another condition in the filter", COUNTED + ADDED, 0, "length(again) > 20"))
        for change, rows, new, where in runs:
            write_rows(folder, rows)
            before = asked(url)
            *_, (last, _) = make(planned(folder, url, in_flight, where))
            assert last.rows == rows
            print(f"| {change} | {rows:,} | {asked(url) - before:,} | {new * ASKING:,} |", flush=True)


def main() -> None:
    from bench.serving import chat_server

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child[0], options.child[1], int(options.child[2]), int(options.child[3]))
    with chat_server("--latency-ms", str(options.latency_ms)) as url:
        rounds: list[dict[str, dict[str, float]]] = []
        for _ in range(options.repeats):
            rounds.append({what: run_measurement(what, url, options.rows, options.in_flight) for what in MEASURES})
        print("| rows | requests | in flight | | rows/s | of bare | CPU s | peak MiB |")
        print("|---:|---:|---:|---|---:|---:|---:|---:|")
        for what in MEASURES:
            middle = {key: statistics.median(run[what][key] for run in rounds) for key in rounds[0][what]}
            ratio = statistics.median(run[what]["rate"] / run["bare aiohttp"]["rate"] for run in rounds)
            cells = f"{middle['rate']:,.0f} | {ratio:.2f} | {middle['cpu']:.2f} | {middle['memory']:.0f}"
            print(f"| {options.rows:,} | {options.rows * ASKING:,} | {options.in_flight} | {what} | {cells} |")
        print_counts(url, options.in_flight)
    return None


if __name__ == "__main__":
    main()
