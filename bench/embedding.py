"""Embedding: texts a second of ours, against sentence-transformers' `encode` and bare forward passes.

    python -m bench.embedding [--texts 400] [--repeats 3] [--threads N] [--file PROMPTS]

Texts have log-normal lengths, or are the first prompts of a file. Ways are interleaved; a row gives the
best of its repeats, and how many times `encode` at batch 64 it is. Bare forward passes are those of the same model on
batches of ready tokens, for the best of several budgets; ours tokenises, and puts vectors into order. `cosine` is the
lowest between a text's vector and that of `encode` alone. Processor time is told too, because machines are shared.
"""

import argparse
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from synthmill.schemas.settings import SourceSettings
from synthmill.storage.plain_files.rows import read_prompts
from synthmill.tasks.cores import Array, threads
from synthmill.tasks.vectors.embeddings import encode, load_embedder, token_counts

LINE = "a river bends where old mills stood and children learn how to count birds before winter comes again"
BUDGETS = (512, 1024, 2048, 4096)


class Way(NamedTuple):
    """A way to embed, and the vectors in the order of the texts; None where it only takes time."""

    name: str
    work: Callable[[], Array | None]


def texts_of(count: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(LINE.split(), k=max(3, int(draw.lognormvariate(3.9, 0.9))))) for _ in range(count)]


def library(model: Any, texts: list[str], batch_size: int) -> Array:
    vectors = model.encode(texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors)


def bare(model: Any, texts: list[str], budget: int) -> Callable[[], None]:
    """Forward passes over batches that are made beforehand."""
    counts = token_counts(model, texts)
    batches: list[list[int]] = [[]]
    for n in sorted(range(len(texts)), key=lambda n: -counts[n]):
        if batches[-1] and (len(batches[-1]) + 1) * counts[batches[-1][0]] > budget:
            batches.append([])
        batches[-1].append(n)
    features = [model.preprocess([texts[n] for n in batch]) for batch in batches]

    def work() -> None:
        with torch.inference_mode():
            for batch in features:
                model(dict(batch))

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=threads())
    parser.add_argument("--file", help="whose prompts are embedded")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, texts = load_embedder("minilm"), texts_of(options.texts)
    if options.file:
        texts = list(read_prompts(SourceSettings(path=options.file)))[: options.texts]
    ways = [Way(f"encode, batch {size}", partial(library, model, texts, size)) for size in (64, 32)]
    ways.append(Way("ours", partial(encode, "minilm", texts)))
    ways += [Way(f"bare forward passes, {budget:,} tokens", bare(model, texts, budget)) for budget in BUDGETS]
    expected = library(model, texts, 1)
    seconds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    cosines: dict[str, float] = {}
    for _ in range(options.repeats):
        for way in ways:
            started, used = time.perf_counter(), time.process_time()
            vectors = way.work()
            seconds.setdefault(way.name, []).append(time.perf_counter() - started)
            cpu.setdefault(way.name, []).append(time.process_time() - used)
            if vectors is not None:
                cosines[way.name] = float((vectors * expected).sum(axis=1).min())
    first = ways[0].name
    print(f"{len(texts):,} texts, {options.threads} threads\n")
    print("| way | s | CPU s | times encode, CPU | cosine |\n|---|---:|---:|---:|---:|")
    for way in ways:
        least, faster = min(cpu[way.name]), min(cpu[first]) / min(cpu[way.name])
        cosine = f"{cosines[way.name]:.7f}" if way.name in cosines else ""
        print(f"| {way.name} | {min(seconds[way.name]):.2f} | {least:.2f} | {faster:.2f} | {cosine} |")


if __name__ == "__main__":
    main()
