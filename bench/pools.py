"""What the rules choose on real pools: AlpacaEval's answers by pool size, WildBench's scores, a run of `preferences`.

    python -m bench.pools --alpaca-eval pool.jsonl.gz --wildbench wildbench_reward_matrix.json [--run DATASET ...]

AlpacaEval: 55 models' answers (without the baseline and the two entries made to fool the judge); the reward is the
logit of the chance to win, clipped at 1e-8. A pool of n has the n models whose names hash lowest with the prompt's
number. WildBench: 12 models' scores from 1 to 10. --run: datasets that `synthmill run preferences` wrote.
"""

import argparse
import gzip
import json
import math
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from synthmill.flows.pages.templates import two_places
from synthmill.schemas.rip_limits import Thresholds
from synthmill.tasks.cuts.cut import cut, lengths_of
from synthmill.tasks.cuts.pair_limits import fit, keeps
from synthmill.tasks.cuts.points import POINTS
from synthmill.tasks.cuts.report import CutReport
from synthmill.tasks.cuts.rules.max_min import MaxMin
from synthmill.tasks.cuts.rules.scalable import Scalable
from synthmill.tasks.cuts.rules.sweet_spot import SweetSpot

SIZES = (5, 10, 20, 40, 55)
LEFT_OUT = ("NullModel", "gpt4_gamed", "gpt4_1106_preview")
CLIP = 1e-8
MEDIANS: dict[str, float | None] = {"rejected_reward": 0.5, "rejected_length": 0.5, "gap": 0.5}


def logit(chance: float) -> float:
    clipped = min(max(chance, CLIP), 1 - CLIP)
    return math.log(clipped / (1 - clipped))


def alpaca_pools(file: Path, size: int, left_out: tuple[str, ...] = LEFT_OUT) -> pa.Table:
    """A pool per prompt: prompt_id, prompt, answers, rewards."""
    rows: list[dict[str, Any]] = []
    with gzip.open(file) as lines:
        for line in lines:
            row = orjson.loads(line)

            def draw_order(answer: dict[str, Any], row: dict[str, Any] = row) -> bytes:
                return blake2b(f"{row['idx']} {answer['model']}".encode(), digest_size=8).digest()

            answers = (answer for answer in row["responses"] if answer["model"] not in left_out)
            chosen = sorted(answers, key=draw_order)[:size]
            rows.append(
                {
                    "prompt_id": str(row["idx"]),
                    "prompt": row["instruction"],
                    "answers": [answer["output"] for answer in chosen],
                    "rewards": [logit(answer["p_win"]) for answer in chosen],
                }
            )
    return pa.Table.from_pylist(rows)


def metrics_of(pairs: pa.Table) -> dict[str, Any]:
    """What RIP's limits look at."""
    return {
        "rejected_reward": pairs["rejected_reward"].to_numpy(),
        "rejected_length": lengths_of(pairs["rejected"], None).astype(float),
        "gap": pairs["margin"].to_numpy(),
    }


def alpaca_table(file: Path) -> Iterator[str]:
    yield "| answers | " + " | ".join(POINTS) + " | scalable | mu-2s is the minimum | skewness | kept by RIP |"
    yield "|---:|" + "---:|" * (len(POINTS) + 4)
    for size in SIZES:
        pools = alpaca_pools(file, size)
        report = CutReport(SweetSpot())
        report.add(cut(pools, report.settings))
        summary = report.summary({}, 0)
        lowest = cut(pools, Scalable()).pairs["rejected_reward"].to_numpy().mean()
        metrics = metrics_of(cut(pools, MaxMin()).pairs)
        kept = keeps(metrics, fit(metrics, MEDIANS, Thresholds())).mean()
        means = " | ".join(f"{summary['mean_reward'][point]:.2f}" for point in POINTS)
        same = summary["same_answer"]["min = mu-2s"]
        yield f"| {size} | {means} | {lowest:.2f} | {same:.1%} | {summary['mean_skewness']:.2f} | {kept:.1%} |"


def wildbench_pools(file: Path) -> tuple[pa.Table, Any]:
    """(pools, lengths (prompts, answers))."""
    prompts = json.loads(file.read_text())["prompts"]
    table = pa.table(
        {
            "prompt_id": pa.array(list(prompts)),
            "prompt": pa.array(list(prompts)),
            "answers": pa.array([[f"{n}" for n in range(len(prompt["reward"]))] for prompt in prompts.values()]),
            "rewards": pa.array([prompt["reward"] for prompt in prompts.values()]),
        }
    )
    return table, np.array([prompt["len"] for prompt in prompts.values()])


def wildbench_lines(file: Path) -> Iterator[str]:
    pools, lengths = wildbench_pools(file)
    cuts = cut(pools, MaxMin())
    rewards = np.array(pools["rewards"].to_pylist())
    rows, low = np.arange(len(rewards)), cuts.seven.places[:, 0]
    metrics_of_all = {
        "rejected_reward": rewards[rows, low],
        "rejected_length": lengths[rows, low].astype(float),
        "gap": rewards.max(axis=1) - rewards.min(axis=1),
    }
    yield "| WildBench's matrix | prompts | rejected reward >= | length >= | gap <= | kept |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, chosen in (("every prompt", rows >= 0), ("without equal rewards", metrics_of_all["gap"] > 0)):
        metrics = {key: values[chosen] for key, values in metrics_of_all.items()}
        limits = fit(metrics, MEDIANS, Thresholds())
        kept = int(keeps(metrics, limits).sum())
        numbers = f"{limits.rejected_reward:g} | {limits.rejected_length:g} | {limits.gap:g}"
        yield f"| {name} | {int(chosen.sum()):,} | {numbers} | {kept} ({kept / chosen.sum():.1%}) |"
    differ = int((cuts.seven.places[:, 1] != low).sum())
    yield f"\nmu-2s is another answer than the minimum for {differ} of {len(rewards):,} prompts."


def run_lines(dataset: Path) -> Iterator[str]:
    report = orjson.loads((dataset / "report.json").read_bytes())
    yield "| rule | prompts | pairs | kept | rejected: mean | chosen: mean | mu-2s is the minimum |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for rule in report["cuts"]:
        histogram = rule["histogram"]
        middle = (np.array(histogram["from"]) + np.array([*histogram["from"][1:], histogram["to"]])) / 2
        means = [f"{np.average(middle, weights=histogram[side]):.2f}" for side in ("rejected", "chosen")]
        same = rule["same_answer"]["min = mu-2s"]
        counts = f"{rule['prompts']} | {rule['pairs']} | {rule['kept']}"
        yield f"| {rule['rule']} | {counts} | {means[0]} | {means[1]} | {same:.0%} |"
    yield "\n| scorer | and | Spearman within pools | standard error | pools | without an order |"
    yield "|---|---|---:|---:|---:|---:|"
    for row in report["agreement"]:
        numbers = (
            f"{two_places(row['spearman'])} | {two_places(row['error'])} | {row['pools']} | {row['without_order']}"
        )
        yield f"| {row['one']} | {row['other']} | {numbers} |"
    yield "\n| policy | answers | mean reward | chosen | rejected |"
    yield "|---|---:|---:|---:|---:|"
    for row in report["policies"]:
        yield f"| {row['policy']} | {row['answers']} | {row['mean_reward']:.3g} | {row['chosen']} | {row['rejected']} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alpaca-eval", type=Path)
    parser.add_argument("--wildbench", type=Path)
    parser.add_argument("--run", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    for title, file, lines_of in (
        ("Mean reward of each point on AlpacaEval's pools", options.alpaca_eval, alpaca_table),
        ("RIP on WildBench", options.wildbench, wildbench_lines),
        *((f"A run of `preferences`, {n}", run, run_lines) for n, run in enumerate(options.run, 1)),
    ):
        if file:
            print(f"**{title}**\n")
            print("\n".join(lines_of(file)), end="\n\n")


if __name__ == "__main__":
    main()
