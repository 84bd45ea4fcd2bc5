"""One model behind `LLM.chat` and behind a `vllm:` stage in this process, the same prompts in turn.

    python -m bench.vllm_tokens_run JSON

JSON: a `Comparison`. Prints JSON: by case and way, for each repeat, seconds, tokens made, and the share of the
prompts' tokens that vLLM took from its prefix cache. The cache is emptied before each.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import uvloop
from pydantic import BaseModel

from synthmill.schemas.calls import Message, Request, Sampling
from synthmill.schemas.rows import Instruction, Pool
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store, rows_to_table, seal_part
from synthmill.tasks.engines.vllm_engine import VLLMEngine
from synthmill.tasks.generators.answers import Answers
from synthmill.tasks.recipe import Steps
from synthmill.tasks.running.job import Job, Planned
from synthmill.tasks.running.sharing import parts_ahead
from synthmill.tasks.running.worker import Worker

ROWS_PER_PART = 256
RESTED_S = 1.2  # an engine that has nothing to do looks for work that long before it sleeps
THINGS = ("bridges", "bread", "tides", "chess", "prime numbers", "glaciers", "violins", "maps", "markets", "sleep")
FORM = {
    "type": "object",
    "properties": {"true": {"type": "boolean"}, "field": {"enum": ["nature", "art", "science"]}},
    "required": ["true", "field"],
    "additionalProperties": False,
}


class Case(BaseModel):
    """What is asked. prefixes: how many long beginnings the prompts share, in turn; 0: none. samples: answers to a
    prompt. together: samples are asked as one request. formed: answers have a JSON schema. ways: how they are asked.
    """

    name: str
    requests: int
    prefixes: int = 0
    prefix_words: int = 200
    samples: int = 1
    together: bool = False
    formed: bool = False
    ways: list[str]

    def rows(self) -> list[Instruction]:
        return [Instruction(id=str(n), prompt=self._prompt(n)) for n in range(self.requests // self.samples)]

    def _prompt(self, n: int) -> str:
        question = f"Tell me fact number {n} about {THINGS[n % 10]}, and why it matters."
        if not self.prefixes:
            return question
        number = n % self.prefixes
        words = range(self.prefix_words // 2)
        notes = " ".join(f"{THINGS[(number + word) % 10]} {number * word % 97}" for word in words)
        return f"Notes {number}: {notes}\n\n{question}"


class Comparison(BaseModel):
    model: str
    width: int
    max_tokens: int
    repeats: int
    cases: list[Case]
    blocks: int | None = None
    """Blocks of vLLM's cache of keys and values; None: as many as its memory holds."""

    def engine_options(self) -> dict[str, Any]:
        options = {"max_model_len": 1024, "max_num_batched_tokens": 4096}
        return options | ({"num_gpu_blocks_override": self.blocks} if self.blocks else {})


class Figures(NamedTuple):
    seconds: float
    tokens: int
    cached: float


class Formed(Answers):
    """Answers that have a JSON schema, if so."""

    name: ClassVar = "answers"
    formed: bool = False

    def steps(self, row: Instruction) -> Steps[Pool]:
        steps = super().steps(row)
        requests = next(steps)
        shared = requests[0].model_copy(update={"schema_": FORM if self.formed else None})
        answers = yield shared.sampled(len(requests))
        try:
            steps.send(answers)
        except StopIteration as end:
            return end.value
        raise AssertionError("answers asks once")


class Prefixes:
    """Prompts' tokens, and those of them that vLLM had in its cache, as its outputs say."""

    def __init__(self) -> None:
        self.asked = self.cached = 0

    def count(self, output: Any) -> None:
        self.asked += len(output.prompt_token_ids)
        self.cached += output.num_cached_tokens or 0

    @contextmanager
    def watching(self, engine: Any) -> Iterator[None]:
        """Count what an AsyncLLM gives meanwhile."""
        generate = engine.generate

        async def watched(*arguments: Any, **options: Any) -> Any:
            async for output in generate(*arguments, **options):
                yield output
            self.count(output)

        engine.generate = watched
        try:
            yield
        finally:
            engine.generate = generate


async def asked_bare(engine: VLLMEngine, case: Case, sampling: Sampling) -> int:
    """vLLM's own generate, as many in flight as a stage has; returns the tokens made."""
    from vllm.inputs import tokens_input

    waiting = iter(enumerate(case.rows()))
    together = case.samples if case.together else 1
    form = FORM if case.formed else None
    tokens = 0

    async def ask() -> None:
        nonlocal tokens
        for n, row in waiting:
            messages = (Message(role="user", content=row.prompt),)
            request = Request(role="student", messages=messages, sampling=sampling, schema_=form)
            prompt = tokens_input(engine._tokens(request))
            for _ in range(case.samples // together):
                params = engine._sampling(request, n, together)
                async for final in engine._engine.generate(prompt, params, f"bare-{time.monotonic_ns()}"):
                    tokens += sum(len(output.token_ids) for output in final.outputs)

    await asyncio.gather(*(ask() for _ in range(engine.limit // together)))
    return tokens


def asked_by_chat(llm: Any, engine: VLLMEngine, case: Case, sampling: Sampling, prefixes: Prefixes) -> int:
    """`LLM.chat` over the whole list; returns the tokens made."""
    rows = case.rows()
    form = FORM if case.formed else None
    chats = [[{"role": "user", "content": row.prompt}] for row in rows]
    request = Request(role="student", messages=(), sampling=sampling, schema_=form)
    params = [engine._sampling(request, n, case.samples) for n in range(len(rows))]
    tokens = 0
    for output in llm.chat(chats, params, use_tqdm=False):
        tokens += sum(len(answer.token_ids) for answer in output.outputs)
        prefixes.count(output)
    return tokens


async def asked_by_stage(engine: VLLMEngine, settings: EngineSettings, case: Case, sampling: Sampling) -> int:
    """The worker as a run has it, with the engine that is loaded already; returns the tokens made."""
    rows = case.rows()
    engine.samples_per_call = case.samples if case.together else 1
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
        answers = Formed(count=case.samples, sampling=sampling, formed=case.formed)
        planned = Planned(answers, {"student": settings}, "source")
        ahead = asyncio.Semaphore(parts_ahead({"student": settings}, 1, jobs))

        async def work(job: Job) -> Any:
            async with ahead:
                return await worker.work(planned, 1, job)

        seals = await asyncio.gather(*map(work, jobs))
        worker._engines.clear()
        await worker.close()
        rows_out = sum(seal.rows + sum(seal.dropped.values()) for seal in seals)
        assert rows_out == len(rows), (rows_out, len(rows))  # a row without any answer is dropped
        return sum(seal.spent["student"]["completion_tokens"] for seal in seals)


async def compare(comparison: Comparison) -> dict[str, dict[str, list[Figures]]]:
    """By case and way, each repeat's figures; ways are taken in turn."""
    options = comparison.engine_options()
    spec = {"spec": f"vllm:{comparison.model}", "concurrency": comparison.width, "options": options}
    settings = EngineSettings.model_validate(spec)
    engine = VLLMEngine(settings)
    await engine.open()
    llm = chat_engine(comparison.model, options | {"max_num_seqs": comparison.width})
    limit = engine.limit
    await asked_bare(engine, comparison.cases[0], Sampling(max_tokens=2))  # warm
    asked_by_chat(llm, engine, comparison.cases[0], Sampling(max_tokens=2), Prefixes())
    figures: dict[str, dict[str, list[Figures]]] = {}
    for repeat in range(comparison.repeats):
        sampling = Sampling(max_tokens=comparison.max_tokens, top_p=None, seed=repeat)
        for case in comparison.cases:
            for way in case.ways:
                await engine._engine.reset_prefix_cache()
                llm.reset_prefix_cache()
                await asyncio.sleep(RESTED_S)
                prefixes = Prefixes()
                started, cpu = time.perf_counter(), time.process_time()
                if way == "chat":
                    tokens = asked_by_chat(llm, engine, case, sampling, prefixes)
                elif way == "bare":
                    engine.limit = limit
                    tokens = await asked_bare(engine, case, sampling)
                else:
                    engine.limit = comparison.width if way == "exact" else limit
                    engine.caches_prefixes = way != "rows"
                    with prefixes.watching(engine._engine):
                        tokens = await asked_by_stage(engine, settings, case, sampling)
                run = Figures(time.perf_counter() - started, tokens, prefixes.cached / max(1, prefixes.asked))
                own = (time.process_time() - cpu) / case.requests * 1000
                print(
                    f"{case.name} | {way}: {run.seconds:.2f} s, {own:.2f} ms/answer here", file=sys.stderr, flush=True
                )
                figures.setdefault(case.name, {}).setdefault(way, []).append(run)
    await engine.close()
    return figures


def chat_engine(model: str, options: dict[str, Any]) -> Any:
    """vLLM's `LLM` with what our engine sets beside `options`."""
    from vllm import LLM

    same = {"enforce_eager": True, "dtype": "bfloat16", "enable_chunked_prefill": False, "block_size": 32, "seed": 0}
    return LLM(model, **same, enable_prefix_caching=True, generation_config="vllm", disable_log_stats=True, **options)


def main() -> None:
    print(json.dumps(uvloop.run(compare(Comparison.model_validate_json(sys.argv[1])))))


if __name__ == "__main__":
    main()
