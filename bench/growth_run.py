"""One size of `bench.growth`, in a process of its own: its input, the run, the report, an export.

    python -m bench.growth_run FOLDER ROWS input|run|report|export [--workers 0] [--seconds S]

Prints a JSON line {"step", "begins", "ends"} for each step, or the rest of one, that it made, in seconds of the
machine's monotonic clock. After S seconds the run stops as after Ctrl-C; the next call continues it.
"""

import argparse
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import orjson

from synthmill.flows.commands.export import export
from synthmill.flows.making.make import Audience, run_plan
from synthmill.flows.making.plan import Plan
from synthmill.flows.making.step_maker import StepMaker
from synthmill.flows.methods.preferences import plan
from synthmill.flows.methods.preferences.settings import PreferencesSettings
from synthmill.flows.pages.report import write_report
from synthmill.flows.terminal.stopping import working
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.calls import Completion, Message, Request, Sampling, ask_hash, call_key
from synthmill.schemas.errors import Stopped
from synthmill.schemas.export_settings import ExportSettings
from synthmill.storage.calls import CallStore
from synthmill.storage.runs import find_run
from synthmill.tasks.running.job import Planned
from synthmill.tasks.vectors.embeddings import embedder_path

ENGINE, ANSWERS, DIMENSIONS = "recorded", 2, 256
BLOCK, VOCABULARY, TOPIC_WORDS, ROWS_A_TOPIC = 1000, 5000, 60, 500
COPIES, EDITS = 0.02, 0.03
"""Shares of prompts that repeat an earlier one of their block, and that repeat it with another word."""
READ, DATASET = "read", "dataset, card, page"


def settings_in(folder: Path, workers: int) -> PreferencesSettings:
    return PreferencesSettings.model_validate(
        {
            "source": str(folder / "prompts.jsonl"),
            "store": str(folder / "store"),
            "workers": workers,
            "engines": {"student": f"replay:{folder / 'recording'}#{ENGINE}"},
            "answers": {"count": ANSWERS},
            "scorers": ["r3"],
            "cuts": ["max-min"],
            "embedder": str(folder / "embedder"),
        }
    )


def write_input(folder: Path, rows: int, sampling: Sampling) -> None:
    """prompts.jsonl, the recording of their answers, and the embedder."""
    store = CallStore(folder / "recording")
    with (folder / "prompts.jsonl").open("wb") as file:
        for n, (prompt, answers) in enumerate(texts(rows)):
            file.write(orjson.dumps({"id": str(n), "prompt": prompt}) + b"\n")
            messages = (Message(role="user", content=prompt),)
            question = Request(role="student", messages=messages, sampling=sampling).question_json()
            ask = ask_hash(question)
            for sample, text in enumerate(answers):
                completion = Completion(text=text, prompt_tokens=30, completion_tokens=len(text.split()))
                key = call_key(ENGINE, ask, sample)
                store.add(key, ask, question, completion, engine=ENGINE, role="student", stage="answers", sample=sample)
            if n % BLOCK == 0:
                store.flush()
    store.close()


def texts(rows: int) -> Iterator[tuple[str, list[str]]]:
    """Prompts of 12 to 28 words about one of rows / 500 topics, each with its answers of 20 to 60."""
    draws = np.random.default_rng(0)
    words = np.array(["".join(map(chr, draws.integers(97, 123, size))) for size in draws.integers(3, 9, VOCABULARY)])
    topics = draws.integers(VOCABULARY, size=(max(20, rows // ROWS_A_TOPIC), TOPIC_WORDS))
    for start in range(0, rows, BLOCK):
        prompts: list[list[str]] = []
        for n in range(min(BLOCK, rows - start)):
            topic = words[topics[draws.integers(len(topics))]]
            kind = draws.random()
            if n and kind < COPIES + EDITS:
                prompt = list(prompts[draws.integers(n)])
                if kind >= COPIES:
                    prompt[draws.integers(len(prompt))] = str(draws.choice(words))
            else:
                prompt = draws.choice(topic, draws.integers(12, 29)).tolist()
            prompts.append(prompt)
            sizes = draws.integers(20, 61, ANSWERS)
            yield " ".join(prompt), [f"{' '.join(draws.choice(topic, size))} {start + n}" for size in sizes]


def write_embedder(folder: Path) -> None:
    """A bag of words: the mean of random vectors of a text's word pieces, as a sentence-transformers model."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(Path(embedder_path("minilm")) / "tokenizer.json"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=DIMENSIONS)], device="cpu").save(str(folder))


class Clock(Audience):
    """Prints when each step began and ended; those that were found made are left out."""

    def __init__(self) -> None:
        self.at, self.first = time.monotonic(), True

    def make(self, maker: StepMaker, planned: Planned, place: str) -> Manifest:
        if self.first:
            self.ended_step(READ, is_new=next(iter(maker.manifests.values())).run == maker.run)
            self.first = False
        is_new = True
        try:
            manifest = super().make(maker, planned, place)
            is_new = manifest.run == maker.run
        finally:
            self.ended_step(planned.step, is_new)
        return manifest

    def ended_step(self, step: str, is_new: bool = True) -> None:
        begins, self.at = self.at, time.monotonic()
        if is_new:
            print(json.dumps({"step": step, "begins": begins, "ends": self.at}), flush=True)


def run(planned: Plan, seconds: int) -> None:
    clock = Clock()
    with working():
        if seconds:
            timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
            timer.daemon = True
            timer.start()
        with suppress(Stopped):
            run_plan(lambda: planned, clock)
            clock.ended_step(DATASET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=int)
    parser.add_argument("what", choices=("input", "run", "report", "export"))
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=0)
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.what == "input":
        folder.mkdir(parents=True, exist_ok=True)
        write_embedder(folder / "embedder")
        settings = settings_in(folder, 0)
        return write_input(folder, options.rows, settings.sampling(settings.answers))
    planned = plan(settings_in(folder, options.workers))
    if options.what == "run":
        return run(planned, options.seconds)
    clock = Clock()
    if options.what == "report":
        write_report(planned.store, find_run(planned.store, "latest"))
    else:
        place = str(folder / f"out-{time.time_ns()}")
        export(ExportSettings(store=str(planned.store.root), to=place, formats=("as-made", "dpo"), test=0.05))
    return clock.ended_step(options.what)


if __name__ == "__main__":
    main()
