"""One answer to each of many prompts: the whole stage against a bare aiohttp loop on the same server, in turn.

    python -m bench.generation [--requests 2000 20000] [--in-flight 64 256] [--repeats 3] [--no-ray]

The stage writes every answer to the call store, makes Parquet parts and seals them; the bare loop keeps the texts in
a list. Each measurement is a process of its own. CPU seconds and peak memory are of that process (the server's are
not counted); with --ray they are the driver's, and Ray's start-up is reported apart.

Then one worker and two, each with a window of 64, on a server that takes 250 ms, so that nobody lacks CPU: as on two
hosts. What is left of twice the rate is what the workers' start, their last parts and the driver cost.
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
from pathlib import Path
from typing import Any

from bench.serving import chat_server

PROMPT = "Question {n}: what does the river carry over the old mill, and why do seven birds draw circles above it? " * 2
SLOW_MS, WINDOW, SLOW_REQUESTS = 250, 64, 3072


async def bare_loop(url: str, prompts: list[str], in_flight: int) -> list[str]:
    """As few lines as it takes: aiohttp on uvloop, `in_flight` coroutines that take the next prompt."""
    import aiohttp
    import orjson

    texts = [""] * len(prompts)
    waiting = iter(enumerate(prompts))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> None:
            for n, prompt in waiting:
                body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "seed": n, "max_tokens": 1024}
                headers = {"Content-Type": "application/json"}
                async with session.post(
                    f"{url}/chat/completions", data=orjson.dumps(body), headers=headers
                ) as response:
                    texts[n] = orjson.loads(await response.read())["choices"][0]["message"]["content"]

        await asyncio.gather(*(ask() for _ in range(in_flight)))
    return texts


def measure_bare(url: str, requests: int, in_flight: int) -> float:
    import uvloop

    prompts = [PROMPT.format(n=n) for n in range(requests)]
    started = time.perf_counter()
    texts = uvloop.run(bare_loop(url, prompts, in_flight))
    seconds = time.perf_counter() - started
    assert all(texts)
    return seconds


def measure_stage(url: str, requests: int, in_flight: int, workers: int) -> tuple[float, float, float]:
    """(seconds of the stage, seconds of Ray's start-up, CPU seconds of this process in the stage)."""
    from synthmill.schemas.settings import EngineSettings, SourceSettings
    from synthmill.storage.artifacts import Store
    from synthmill.tasks.generators.answers import Answers
    from synthmill.tasks.running.job import Planned
    from synthmill.tasks.running.parallel import RayPool, make_pool, resources_of
    from synthmill.tasks.running.stages import ingest, run_stage

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "in.jsonl").write_text(
            "".join(json.dumps({"prompt": PROMPT.format(n=n)}) + "\n" for n in range(requests))
        )
        store = Store(place / "store")
        store.prepare()
        source = ingest(store, SourceSettings(path=str(place / "in.jsonl")), 256, "bench")
        engine = EngineSettings(kind="openai", model="m", base_url=url, concurrency=in_flight)
        step = Planned(Answers(count=1), {"student": engine}, source.key)
        pool = make_pool(store, "bench", threading.Event(), workers, None)
        started = time.perf_counter()
        if isinstance(pool, RayPool):
            pool.start(workers, resources_of(step.roles))
        start_up = time.perf_counter() - started
        started, cpu = time.perf_counter(), time.process_time()
        manifest = run_stage(store, step, source, pool, "bench")
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        pool.close()
        assert manifest.rows == requests, manifest.dropped
    return seconds, start_up, cpu


def child(what: str, url: str, requests: int, in_flight: int) -> None:
    start_up = 0.0
    before = resource.getrusage(resource.RUSAGE_SELF)
    if what == "bare":
        seconds = measure_bare(url, requests, in_flight)
    else:
        seconds, start_up, _ = measure_stage(url, requests, in_flight, int(what))
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"rate": requests / seconds, "cpu": cpu, "memory": used.ru_maxrss / 1024, "start_up": start_up}))


def run_measurement(what: str, url: str, requests: int, in_flight: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.generation", "--child", what, url, str(requests), str(in_flight)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    return dict(json.loads(output.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--in-flight", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ray", action=argparse.BooleanOptionalAction, default=True, help="also with one Ray worker")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child[0], options.child[1], int(options.child[2]), int(options.child[3]))
    print_against_bare(options)
    if options.ray:
        print()
        print_scaling(options.repeats)
    return None


def print_against_bare(options: argparse.Namespace) -> None:
    kinds = {"bare aiohttp": "bare", "--workers 0": "0"} | ({"--workers 1 (Ray)": "1"} if options.ray else {})
    print("| requests | in flight | | rows/s | of bare | CPU s | peak MiB | Ray start s |")
    print("|---:|---:|---|---:|---:|---:|---:|---:|")
    for requests in options.requests:
        for in_flight in options.in_flight:
            with chat_server("--latency-ms", str(options.latency_ms)) as url:
                rounds: list[dict[str, Any]] = []
                for _ in range(options.repeats):
                    runs = {name: run_measurement(kind, url, requests, in_flight) for name, kind in kinds.items()}
                    rounds.append(runs)
            for name in kinds:
                middle = {key: statistics.median(run[name][key] for run in rounds) for key in rounds[0][name]}
                ratio = statistics.median(run[name]["rate"] / run["bare aiohttp"]["rate"] for run in rounds)
                start_up = f"{middle['start_up']:.1f}" if "Ray" in name else ""
                cells = (
                    f"{middle['rate']:,.0f} | {ratio:.2f} | {middle['cpu']:.2f} | {middle['memory']:.0f} | {start_up}"
                )
                print(f"| {requests:,} | {in_flight} | {name} | {cells} |", flush=True)


def print_scaling(repeats: int) -> None:
    """Rates of one Ray worker and of two, on a slow server."""
    print("| requests | latency ms | Ray workers | in flight | rows/s | of one |\n|---:|---:|---:|---:|---:|---:|")
    with chat_server("--latency-ms", str(SLOW_MS)) as url:
        rounds = [
            {n: run_measurement(str(n), url, SLOW_REQUESTS, n * WINDOW)["rate"] for n in (1, 2)} for _ in range(repeats)
        ]
    for workers in (1, 2):
        rate = statistics.median(rates[workers] for rates in rounds)
        ratio = statistics.median(rates[workers] / rates[1] for rates in rounds)
        cells = f"{workers} | {workers * WINDOW} | {rate:,.0f} | {ratio:.2f}"
        print(f"| {SLOW_REQUESTS:,} | {SLOW_MS} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
