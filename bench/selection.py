"""What rules for pairs and for rows keep of real sets, side by side: `synthmill compare-cuts` on AlpacaEval's pools, on
one model's answers to its prompts, and on a collection of instruction sets.

    python -m bench.selection --data FOLDER [--store STORE]

FOLDER holds alpaca_eval/ and instructions/ (see docs/comparing-cuts.md for what they are). The reward is the chance to
beat the baseline; the baseline and the entries made to fool judges are left out. Rows are one model's answers: with a
judge's score (AlpaGasus), the longest (Long Is More), those whose prompts RIP keeps, and as many at random.
"""

import argparse
import gzip
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import polars as pl

from synthmill.flows.commands.compare_cuts import CompareSettings, cell, compare
from synthmill.flows.commands.pairs import write_pairs_of
from synthmill.storage.plain_files.pools import ColumnNames
from synthmill.tasks.cuts.rules.rip import Rip

LEFT_OUT = {"NullModel", "gpt4_gamed", "gpt4_1106_preview"}
MODEL, WEAK = "vicuna-13b", "alpaca-7b"
PAIR_RULES = (
    *("max-min", "rip", "sweet-spot", "best-bottom", "best-random", "two pairs=top-k:count=2"),
    *(f"stronger model=by-policy:strong={MODEL}:weak={WEAK}", f"wrpo=wrpo:own={MODEL}"),
)
ROW_RULES = (
    *("judge from 0.3=at_least:score=quality:value=0.3", "judge's tenth=top:score=quality:count=48"),
    *(
        "longest tenth=top:score=length:count=48",
        "rip=at_least:score=rip:value=1",
        "random=sample_rows:count=48:seed=3",
    ),
)
SET_RULES = (
    *("longest=top:score=length:count=500", "as they are=mixture:by=source:count=500"),
    *("alike in size=mixture:by=source:count=500:temperature=1000", "random=sample_rows:count=500:seed=3"),
)
PAIR_COLUMNS = ("share", "score", "rejected_score", "length", "rejected_length", "vendi", "cost_per_kept")
ROW_COLUMNS = ("kept", "score", "length", "vendi", "different_grams", "contaminated")


def read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path) as file:
        yield from map(orjson.loads, file)


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return str(path)


def pools_of(data: Path) -> list[dict[str, Any]]:
    """AlpacaEval's prompts, each with the answers of the models that are no baseline and no trick."""
    pools = []
    for row in read(data / "alpaca_eval" / "pool.jsonl.gz"):
        answers = [answer for answer in row["responses"] if answer["model"] not in LEFT_OUT]
        columns = {"answers": "output", "policies": "model", "rewards": "p_win"}
        lists = {name: [answer[key] for answer in answers] for name, key in columns.items()}
        pools.append({"prompt_id": str(row["idx"]), "prompt": row["instruction"], **lists})
    return pools


def rows_of(pools: Sequence[dict[str, Any]], kept: set[str]) -> Iterator[dict[str, Any]]:
    """One model's answers. kept: the prompts that RIP keeps."""
    for pool in pools:
        place = pool["policies"].index(MODEL)
        answer, quality = pool["answers"][place], pool["rewards"][place]
        row = {"id": pool["prompt_id"], "prompt": pool["prompt"], "answer": answer, "quality": quality}
        yield {**row, "length": len(answer), "rip": int(pool["prompt_id"] in kept)}


def table(source: str, rules: Sequence[str], columns: Sequence[str], store: str, **options: Any) -> Iterator[str]:
    """The rules' figures, then how far they overlap, as markdown."""
    settings = {"columns": ColumnNames(), "score": "", "text_column": "", "against": (), "cost": None, "limit": None}
    settings |= {"embedder": "minilm", "page": None, **options}
    _, report = compare(CompareSettings(source=source, rules=rules, store=store, **settings))
    yield f"| rule | {' | '.join(name.replace('_', ' ') for name in columns)} |"
    yield f"|---|{'---:|' * len(columns)}"
    for row in report["rules"]:
        yield f"| {row['rule']} | {' | '.join(cell(row, name) for name in columns)} |"
    of = "choices" if "rejected_score" in columns else "rows"
    names = [row["rule"] for row in report["rules"]]
    yield f"\n| same {'pairs' if of == 'choices' else of} (Jaccard) | {' | '.join(names)} |"
    yield f"|---|{'---:|' * len(names)}"
    for name, shares in zip(names, report["overlap_of_choices" if of == "choices" else "overlap"], strict=True):
        yield f"| {name} | {' | '.join(f'{share:.2f}' for share in shares)} |"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store", default="")
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = options.store or str(folder / "store")
        pools = pools_of(options.data)
        source = write(folder / "pools.jsonl", pools)
        write_pairs_of(source, folder / "rip.parquet", Rip(), ColumnNames())
        kept = set(pl.read_parquet(folder / "rip.parquet")["prompt_id"])
        rows = write(folder / "rows.jsonl", list(rows_of(pools, kept)))
        sets = options.data / "instructions" / "instructions.jsonl.gz"
        prompts = [
            {"id": row["id"], "prompt": row["turns"][0], "source": row["source"], "length": len(row["turns"][0])}
            for row in read(sets)
        ]
        lines = [*table(source, PAIR_RULES, PAIR_COLUMNS, store)]
        lines += table(rows, ROW_RULES, ROW_COLUMNS, store, score="quality", against=(str(sets),))
        lines += table(write(folder / "sets.jsonl", prompts), SET_RULES, ROW_COLUMNS[:-1], store, score="length")
        print("\n".join(lines).strip())


if __name__ == "__main__":
    main()
