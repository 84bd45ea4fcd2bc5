"""Every method on a few real rows and given weights, to be read by eye: a table of rows asked, kept and dropped.

    python -m bench.reading --data FOLDER --small FILE.gguf --large FILE.gguf --store STORE [--folder FOLDER] [RUN...]

FOLDER holds alpaca_eval/, instructions/, instructir_personas/ and mtrag/ (docs/reading.md says what they are). The
settings of each run stand in reading.yaml beside this file. A run that was stopped goes on;
`synthmill show STEP --store STORE` and `synthmill sql` have every row and answer.
"""

import argparse
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from string import Template
from typing import Any

import polars as pl
import yaml

import synthmill
from bench.selection import LEFT_OUT, pools_of, read, write
from synthmill.flows.commands.pairs import write_pairs_of
from synthmill.storage.plain_files.pools import ColumnNames
from synthmill.storage.runs import RunRecord
from synthmill.tasks.cuts.rules.rip import Rip

MOST_LETTERS, MOST_LETTERS_OF_ANSWER = 300, 800  # the models are small, and slow on long texts
ROWS = 20
UNLIKE = {"dedup.layers": ["exact", "words"]}  # without embeddings


def spread(rows: Iterator[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """`most` rows, evenly over all of them."""
    table = list(rows)
    return [table[n * len(table) // most] for n in range(most)]


def answered(pool: dict[str, Any], draw: int) -> dict[str, Any]:
    """A prompt with one model's answer, of those that are short, and its chance to beat GPT-4 Turbo."""
    honest = [answer for answer in pool["responses"] if answer["model"] not in LEFT_OUT]
    short = [answer for answer in honest if len(answer["output"]) <= MOST_LETTERS_OF_ANSWER]
    answers = sorted(short or honest, key=lambda answer: str(answer["model"]))
    answer = answers[draw % len(answers)]
    row = {"id": str(pool["idx"]), "prompt": pool["instruction"], "answer": answer["output"]}
    return {**row, "policy": answer["model"], "chance": answer["p_win"]}


def write_inputs(data: Path, folder: Path) -> None:
    """Prompts, personas, prompts with answers, queries with passages, turns with a corpus, a folder of documents."""
    sets = read(data / "instructions" / "instructions.jsonl.gz")
    prompts = ({"id": row["id"], "prompt": row["turns"][0]} for row in sets if len(row["turns"][0]) <= MOST_LETTERS)
    write(folder / "prompts.jsonl", spread(prompts, ROWS))
    people = read(data / "instructir_personas" / "personas.jsonl.gz")
    write(folder / "personas.jsonl", [{"persona": row["user_statement"]} for row in spread(people, ROWS)])
    pools = (row for row in read(data / "alpaca_eval" / "pool.jsonl.gz") if len(row["instruction"]) <= MOST_LETTERS)
    write_pairs_of(write(folder / "pools.jsonl", pools_of(data)), folder / "rip.parquet", Rip(), ColumnNames())
    kept = set(pl.read_parquet(folder / "rip.parquet")["prompt_id"])
    rows = map(answered, spread(pools, 100), count(step=7))
    write(folder / "answered.jsonl", [{**row, "rip": int(row["id"] in kept)} for row in rows])
    mtrag = data / "mtrag"
    passages = {row["_id"]: row["text"] for row in read(mtrag / "corpus_govt.jsonl.gz")}
    gold = pl.read_csv(mtrag / "qrels.tsv", separator="\t").filter(pl.col("corpus-id").is_in(list(passages)))
    relevant = dict(gold.group_by("query-id").agg(pl.col("corpus-id")).iter_rows())
    tasks = [row for row in read(mtrag / "tasks.jsonl.gz") if row["task_id"] in relevant]
    first = [
        {"prompt": row["question"], "reference": passages[relevant[row["task_id"]][0]][:900]}
        for row in tasks
        if row["turn"] == 1
    ]
    write(folder / "queries.jsonl", first[:ROWS])
    turns = [row for row in tasks if 1 < row["turn"] <= 4]
    write(folder / "turns.jsonl", [{**row, "gold": relevant[row["task_id"]]} for row in turns[:ROWS]])
    write(folder / "corpus.jsonl", [{"_id": name, "text": text} for name, text in passages.items()])
    (folder / "documents").mkdir(exist_ok=True)
    for n, text in enumerate(islice((text for text in passages.values() if 500 < len(text) < 1200), ROWS)):
        title, _, body = text.partition("\n")
        (folder / "documents" / f"{n:02}.md").write_text(f"# {title}\n\n{body}\n")


def table_of(name: str, record: RunRecord) -> Iterator[str]:
    """A line for each step that asked, or that dropped rows."""
    for step in record.stages:
        if step.dropped or step.counters.get("sent") or step.counters.get("reused"):
            reasons = ", ".join(f"{rows} {reason}" for reason, rows in step.dropped.items())
            calls = int(step.counters.get("sent", 0) + step.counters.get("reused", 0))
            yield f"| {name} | {step.step_id} | {step.rows_in} | {calls} | {step.rows} | {reasons} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--small", required=True, help="weights that write and answer")
    parser.add_argument(
        "--large", required=True, help="weights where a method needs two models, or the small give nothing"
    )
    parser.add_argument("--folder", default="", help="the small weights for vLLM and transformers (bench.weights)")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="default: all; difficulty, cuts and steer-by-logits need --folder"
    )
    options = parser.parse_args()
    inputs = options.store.with_name(options.store.name + "-inputs")
    inputs.mkdir(parents=True, exist_ok=True)
    write_inputs(options.data, inputs)
    weights = {"small": f"llamacpp:{options.small}", "large": f"llamacpp:{options.large}", "folder": options.folder}
    text = Template(Path(__file__).with_name("reading.yaml").read_text()).substitute(weights, inputs=inputs)
    runs = yaml.safe_load(text)
    print("| run | step | rows in | calls | rows out | dropped |\n|---|---|---:|---:|---:|---|", flush=True)
    for name in options.runs or runs:
        flow = runs[name].pop("flow", name)
        settings = {"store": str(options.store), "workers": 0, **runs[name]}
        record = synthmill.run(flow, settings if "steps" in settings else {**UNLIKE, **settings}, progress=False)
        print("\n".join(table_of(name, record)), flush=True)


if __name__ == "__main__":
    main()
