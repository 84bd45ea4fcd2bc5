"""New prompts in rounds, each round against everything that was kept: time against one pass over the final set.

    python -m bench.prompts [--prompts 100000] [--rounds 20] [--repeats 3]

`one pass` screens all prompts at once by ROUGE-L (0.7), as a run without rounds does. `rounds` screens a twentieth at a
time with one index that grows; `stage by stage` reads everything that was kept again in each round, as a stage that
knows only artifacts must. All three give the same verdicts, which is checked. Prompts are 8 to 60 words of a vocabulary
of 30,000 whose frequencies fall as 1/rank; one in five is an earlier one with a word changed. Medians, in turn.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from synthmill.tasks.cores import Array
from synthmill.tasks.texts.rouge import UnlikeTexts, find_too_alike

THRESHOLD, VOCABULARY = 0.7, 30_000
Screening = Callable[[Sequence[str], int], Array]


def prompts_of(count: int) -> list[str]:
    """The prompts of every round, one after the other."""
    draw = random.Random(0)
    vocabulary = [f"word{number}" for number in range(VOCABULARY)]
    weights = np.cumsum(1 / np.arange(1, VOCABULARY + 1)).tolist()
    texts: list[str] = []
    for number in range(count):
        words = draw.choices(vocabulary, cum_weights=weights, k=draw.randint(8, 60))
        if number % 5 == 4:
            words = draw.choice(texts).split()
            words[draw.randrange(len(words))] = draw.choice(vocabulary)
        texts.append(" ".join(words))
    return texts


def batches(prompts: Sequence[str], rounds: int) -> Iterator[Sequence[str]]:
    edges = np.linspace(0, len(prompts), rounds + 1).astype(int).tolist()
    return (prompts[first:last] for first, last in pairwise(edges))


def one_pass(prompts: Sequence[str], rounds: int) -> Array:
    return find_too_alike(prompts, [], THRESHOLD)[0] < 0


def in_rounds(prompts: Sequence[str], rounds: int) -> Array:
    kept = UnlikeTexts(THRESHOLD)
    return np.concatenate([kept.screen(batch)[0] < 0 for batch in batches(prompts, rounds)])


def stage_by_stage(prompts: Sequence[str], rounds: int) -> Array:
    kept: list[str] = []
    verdicts = []
    for batch in batches(prompts, rounds):
        fresh = find_too_alike(batch, kept, THRESHOLD)[0] < 0
        kept += [text for text, stays in zip(batch, fresh.tolist(), strict=True) if stays]
        verdicts.append(fresh)
    return np.concatenate(verdicts)


WAYS: dict[str, Screening] = {"one pass": one_pass, "rounds": in_rounds, "stage by stage": stage_by_stage}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    prompts = prompts_of(options.prompts)
    one_pass(prompts[:100], 1)  # kernels are loaded
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(options.repeats):
        verdicts = []
        for name, screen in WAYS.items():
            started = time.perf_counter()
            verdicts.append(screen(prompts, options.rounds))
            seconds[name].append(time.perf_counter() - started)
        assert all((verdict == verdicts[0]).all() for verdict in verdicts), "verdicts differ"
    print("| prompts | rounds | kept | | seconds | times one pass |\n|---:|---:|---:|---|---:|---:|")
    base = statistics.median(seconds["one pass"])
    for name, values in seconds.items():
        median, kept = statistics.median(values), int(verdicts[0].sum())
        print(f"| {options.prompts:,} | {options.rounds} | {kept:,} | {name} | {median:.1f} | {median / base:.2f} |")


if __name__ == "__main__":
    main()
