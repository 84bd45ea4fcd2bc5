"""Tokens a second of a `vllm:` stage against the same loaded engine called bare, on the same prompts, in turn.

    python -m bench.vllm_tokens [--prompts 500] [--max-tokens 32] [--in-flight 64] [--repeats 3] [--model FOLDER]

The stage stores every answer, makes Parquet parts and seals them; the bare loop keeps the texts in a list.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from bench.weights import smollm2
from synthmill.schemas.calls import Message, Request, Sampling
from synthmill.schemas.rows import Instruction
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store, rows_to_table, seal_part
from synthmill.tasks.engines.vllm_engine import VLLMEngine
from synthmill.tasks.generators.answers import Answers
from synthmill.tasks.running.job import Job, Planned
from synthmill.tasks.running.worker import Worker

ROWS_PER_PART = 100


def prompts(count: int) -> list[Instruction]:
    things = ("bridges", "bread", "tides", "chess", "prime numbers", "glaciers", "violins", "maps", "markets", "sleep")
    return [
        Instruction(id=str(n), prompt=f"Tell me fact number {n} about {things[n % 10]}, and why it matters.")
        for n in range(count)
    ]


async def bare(engine: Any, rows: list[Instruction], sampling: Sampling, in_flight: int) -> int:
    """vLLM's own generate, `in_flight` at a time; returns the tokens made."""
    waiting = iter(enumerate(rows))
    texts = [""] * len(rows)
    tokens = 0

    async def ask() -> None:
        nonlocal tokens
        for n, row in waiting:
            request = Request(role="student", messages=(Message(role="user", content=row.prompt),), sampling=sampling)
            prompt = {"prompt_token_ids": engine._tokens(request)}
            async for final in engine._engine.generate(
                prompt, engine._sampling(request, n, 1), f"bare-{time.monotonic_ns()}"
            ):
                texts[n] = final.outputs[0].text
            tokens += len(final.outputs[0].token_ids)

    await asyncio.gather(*(ask() for _ in range(in_flight)))
    return tokens


async def stage(engine: Any, settings: EngineSettings, rows: list[Instruction], sampling: Sampling) -> int:
    """The worker as a run has it, with the engine that is loaded already; returns the tokens made."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        store.prepare()
        worker = Worker(store, "bench")
        worker._engines[settings.model_dump_json()] = engine
        jobs = []
        for at in range(0, len(rows), ROWS_PER_PART):
            part = rows[at : at + ROWS_PER_PART]
            table = rows_to_table(Instruction, part, [()] * len(part))
            source = seal_part(store, "instructions", f"source-{at}", table, [], ids_in=[row.id for row in part])
            jobs.append(Job(key=f"part-{at}", source=source))
        answers = Answers(count=1, sampling=sampling)
        planned = Planned(answers, {"student": settings}, "source")
        seals = await asyncio.gather(*(worker.work(planned, 1, job) for job in jobs))
        worker._engines.clear()
        await worker.close()
        assert sum(seal.rows for seal in seals) == len(rows)
        return sum(seal.spent["student"]["completion_tokens"] for seal in seals)


async def run(options: argparse.Namespace) -> None:
    engine_options = {"max_model_len": 1024, "max_num_seqs": options.in_flight}
    spec = {"spec": f"vllm:{options.model}", "concurrency": options.in_flight, "options": engine_options}
    settings = EngineSettings.model_validate(spec)
    engine = VLLMEngine(settings)
    await engine.open()
    rows = prompts(options.prompts)
    await bare(engine, rows[:50], Sampling(max_tokens=8), options.in_flight)  # warm
    rates: dict[str, list[float]] = {"bare": [], "stage": []}
    for repeat in range(options.repeats):
        sampling = Sampling(max_tokens=options.max_tokens, seed=repeat)
        for name, rate in rates.items():
            started = time.perf_counter()
            if name == "bare":
                tokens = await bare(engine, rows, sampling, options.in_flight)
            else:
                tokens = await stage(engine, settings, rows, sampling)
            rate.append(tokens / (time.perf_counter() - started))
    await engine.close()
    ratio = statistics.median(
        staged / bare_rate for staged, bare_rate in zip(rates["stage"], rates["bare"], strict=True)
    )
    print("| prompts | in flight | | tokens/s | of bare |")
    print("|---:|---:|---|---:|---:|")
    for name, share in (("bare", 1.0), ("stage", ratio)):
        label = "AsyncLLM called bare" if name == "bare" else "a `vllm:` stage"
        median = statistics.median(rates[name])
        print(f"| {options.prompts} | {options.in_flight} | {label} | {median:,.0f} | {share:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", type=Path, help="default: SmolLM2-135M, made from the embedded engine's weights")
    options = parser.parse_args()
    options.model = options.model or smollm2(Path(tempfile.gettempdir()) / "synthmill-smollm2")
    uvloop.run(run(options))


if __name__ == "__main__":
    main()
