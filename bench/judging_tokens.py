"""Judges over pools with vLLM in this process: prompt tokens asked for, and computed, that is not in its cache.

    python -m bench.judging_tokens MODEL POOLS ANSWERS WORDS

Prints JSON, by order and judge. The file runs in an older tree as well, with that tree first on PYTHONPATH. Orders: as
prompts are written; shared_first, which an older tree has not; answers first, then what a pool's requests share.
least: what an endless cache of single tokens would compute.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any


def first_of(*places: str) -> Any:
    """What stands at the first of these places, MODULE:NAME, that is there: this tree's, or version 0.1's."""
    for place in places:
        module, _, name = place.partition(":")
        try:
            return getattr(import_module(module), name)
        except ImportError:
            continue
    raise SystemExit(f"this tree has none of {', '.join(places)}")


def of(place: str, old: str = "") -> Any:
    return first_of(f"synthmill.{place}", old or place)


Sampling = of("schemas.calls:Sampling")
PolicyAnswer, ScoredPool = of("schemas.pools:PolicyAnswer"), of("schemas.pools:ScoredPool")
EngineSettings = of("schemas.settings:EngineSettings")
Store, rows_to_table, seal_part = (of(f"storage.artifacts:{name}") for name in ("Store", "rows_to_table", "seal_part"))
VLLMEngine = of("tasks.engines.vllm_engine:VLLMEngine")
Job, Worker = of("tasks.running.job:Job", "tasks.worker:Job"), of("tasks.running.worker:Worker", "tasks.worker:Worker")
Planned = of("tasks.running.job:Planned", "builtins:tuple")
HELPFUL = of("tasks.scorers.direct:HELPFUL", "schemas.scorer_settings:HELPFUL")
DirectScores = of("tasks.scorers.direct:DirectScores", "tasks.judges:DirectScores")
PairwiseScores = of("tasks.scorers.pairwise:PairwiseScores", "tasks.judges:PairwiseScores")
TournamentScores = of("tasks.scorers.tournament:TournamentScores", "tasks.judges:TournamentScores")
ROWS_PER_PART = 8
IN_FLIGHT = 64
WORDS = ("the", "a", "river", "mill", "carries", "light", "over", "under", "seven", "birds", "know", "glass", "salt")
ONE_LETTER = Sampling(temperature=1.0, top_p=1.0, max_tokens=1, logprobs=20)
JUDGES: dict[str, Any] = {
    "rubric": DirectScores(
        rubric=HELPFUL, evaluations=1, attempts=1, sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=4)
    ),
    "pairwise": PairwiseScores(sampling=ONE_LETTER),
    "tournament": TournamentScores(sampling=ONE_LETTER),
}
SHARED_UNTIL = ("\nResponse A:", "\nThe response to score:")
"""Where a prompt's part ends that all requests of its pool share."""


def pools(count: int, answers: int, length: int) -> Iterator[Any]:
    """Prompts of some 60 words, references and answers of some `length`."""
    draw = random.Random(0)

    def text(words: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(words // 2, words * 3 // 2)))

    for n in range(count):
        kept = {"finish_reason": "stop", "completion_tokens": 100}
        own = tuple(PolicyAnswer(answer_index=k, text=text(length), **kept) for k in range(answers))
        yield ScoredPool(id=f"{n:04}", prompt=text(60), reference=text(length), answers=own)


class Count:
    """Counts prompts' tokens as vLLM reports them. asked: all; cached: those that it did not compute."""

    def __init__(self, engine: Any, answers_first: bool) -> None:
        self.engine, self.answers_first = engine, answers_first
        self.asked = self.cached = 0
        self.prompts: list[tuple[int, ...]] = []
        self._generate, self._tokens = engine._engine.generate, engine._tokens
        engine._engine.generate, engine._tokens = self.generate, self.tokens

    async def generate(self, prompt: Any, *arguments: Any, **options: Any) -> Any:
        final: Any = None
        async for final in self._generate(prompt, *arguments, **options):
            yield final
        self.asked += len(final.prompt_token_ids)
        self.cached += final.num_cached_tokens
        self.prompts.append(tuple(final.prompt_token_ids))

    def tokens(self, request: Any, *more: Any) -> Any:
        if self.answers_first:
            *before, last = request.messages
            place = next(last.content.index(mark) for mark in SHARED_UNTIL if mark in last.content)
            turned = f"{last.content[place:].strip()}\n\n{last.content[:place]}"
            request = request.model_copy(update={"messages": (*before, last.model_copy(update={"content": turned}))})
        return self._tokens(request, *more)

    def figures(self) -> dict[str, int]:
        computed = self.asked - self.cached
        return {"requests": len(self.prompts), "asked": self.asked, "computed": computed, "least": self.least()}

    def least(self) -> int:
        """Tokens without those that begin a prompt as another one does."""
        before: tuple[int, ...] = ()
        total = 0
        for prompt in sorted(self.prompts):
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, prompt, strict=False)))
            total, before = total + len(prompt) - same, prompt
        return total


async def judge(engine: Any, settings: Any, stage: Any, rows: list[Any]) -> float:
    """Run a judge's stage as a run does; seconds."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        store.prepare()
        worker = Worker(store, "bench")
        worker._engines[settings.model_dump_json()] = engine
        jobs = []
        for at in range(0, len(rows), ROWS_PER_PART):
            part = rows[at : at + ROWS_PER_PART]
            table = rows_to_table(ScoredPool, part, [()] * len(part))
            source = seal_part(store, "pools", f"source-{at}", table, [], ids_in=[row.id for row in part])
            jobs.append(Job(key=f"part-{at}", source=source))
        roles = {"judge": settings}
        what = (stage, roles) if Planned is tuple else (Planned(stage, roles, "source"),)
        started = time.perf_counter()
        await asyncio.gather(*(worker.work(*what, 1, job) for job in jobs))
        seconds = time.perf_counter() - started
        worker._engines.clear()
        await worker.close()
    return seconds


def orders() -> dict[str, dict[str, Any]]:
    """Judges by the order of their prompts."""
    by_order = {"written": JUDGES, "answers first": JUDGES}
    if hasattr(JUDGES["rubric"], "shared_first"):
        turned = {name: stage.model_copy(update={"shared_first": True}) for name, stage in JUDGES.items()}
        by_order["shared_first"] = turned
    return by_order


async def judge_all(model: str, rows: list[Any]) -> dict[str, dict[str, Any]]:
    """Each judge with an empty cache; seconds without the engine's start."""
    spec = {"spec": f"vllm:{model}", "concurrency": IN_FLIGHT, "options": {"max_model_len": 2048}}
    settings = EngineSettings.model_validate(spec)
    engine = VLLMEngine(settings)
    await engine.open()
    await judge(engine, settings, JUDGES["rubric"], rows[:4])  # warm
    generate, tokens = engine._engine.generate, engine._tokens
    figures: dict[str, dict[str, Any]] = {}
    for order, judges in orders().items():
        for name, stage in judges.items():
            engine._engine.generate, engine._tokens = generate, tokens
            await engine._engine.reset_prefix_cache()
            count = Count(engine, order == "answers first")
            seconds = await judge(engine, settings, stage, rows)
            figures.setdefault(order, {})[name] = {**count.figures(), "seconds": seconds}
    await engine.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pools", type=int)
    parser.add_argument("answers", type=int)
    parser.add_argument("words", type=int)
    options = parser.parse_args()
    rows = list(pools(options.pools, options.answers, options.words))
    print(json.dumps(asyncio.run(judge_all(options.model, rows))))


if __name__ == "__main__":
    main()
