"""Scorers on real prompts, a small model as the judge: trust by AlpacaEval's verdicts, agreement, audits.

    python -m bench.scorers_table WEIGHTS.gguf ALPACA_EVAL [--prompts 100] [--audited 10] [--folder FOLDER]

ALPACA_EVAL is a folder with pool.jsonl.gz and v1_binary_vs_davinci003.jsonl.gz: of each prompt, answers of many models,
and whether GPT-4 preferred each to text_davinci_003's. Under each prompt stand two answers, drawn by a hash: one that
was preferred and one that was not, both short (--longest characters), in an order that is drawn, too. FOLDER's store
keeps every answer of the judge, so the same command goes on where it was stopped. Audits are of --audited
prompts, or of all where no model is asked; without `pairwise`, which would compare eight answers with each other.
"""

import argparse
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthmill.flows.commands.judge_audit import audit_report
from synthmill.flows.commands.score import ScoreSettings, score_answers
from synthmill.flows.commands.trust import TrustSettings, interval, trust_of
from synthmill.schemas.hashing import digest
from synthmill.storage.plain_files.pools import ColumnNames
from synthmill.tasks.scorers.scoring import ScorerSettings
from synthmill.tasks.trust.planted import preferred

LOST, WON = 1, 2
SCORERS: tuple[Mapping[str, Any], ...] = (
    {"kind": "python", "function": f"{__file__}:length"},
    {"kind": "r3"},
    {"kind": "p-true"},
    {"kind": "expected"},
    {"kind": "pairwise"},
    {"kind": "rubric", "evaluations": 1, "attempts": 2, "max_tokens": 160, "temperature": 0.0},
)
Row = dict[str, Any]


def length(prompt: str, answers: Sequence[str], reference: str) -> list[int]:
    """A scorer that knows nothing: characters."""
    return [len(answer) for answer in answers]


def lines(path: Path) -> Iterator[Row]:
    with gzip.open(path) as file:
        yield from map(json.loads, file)


def pools(folder: Path, count: int, longest: int) -> list[Row]:
    """The first prompts that have two such answers. label: 1 for the one that won, 0."""
    verdicts = {row["idx"]: row["prefs"] for row in lines(folder / "v1_binary_vs_davinci003.jsonl.gz")}
    rows: list[Row] = []
    for row in lines(folder / "pool.jsonl.gz"):
        prompt, verdict_of = row["instruction"], verdicts.get(row["idx"], {})
        if len(prompt) > longest or len(rows) == count:
            continue
        short = [answer for answer in row["responses"] if 0 < len(answer["output"].strip()) <= longest]
        short.sort(key=lambda answer: digest([row["idx"], answer["model"]]))
        lost, won = ([a for a in short if verdict_of.get(a["model"]) == verdict] for verdict in (LOST, WON))
        if not lost or not won:
            continue
        pair = [(lost[0], 0), (won[0], 1)]
        pair.sort(key=lambda side: digest([row["idx"], "order", side[1]]))
        columns = {"answers": [a["output"] for a, _ in pair], "models": [a["model"] for a, _ in pair]}
        rows.append({"prompt_id": str(row["idx"]), "prompt": prompt, **columns, "labels": [n for _, n in pair]})
    return rows


def write(path: Path, rows: Sequence[Row]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def cell(measure: Mapping[str, float | None], as_share: bool = True) -> str:
    return interval(measure, as_share) or "-"


def print_trust(report: Mapping[str, Any]) -> None:
    print(
        "| scorer | accuracy | where the better one is much longer | where it is shorter | prefers the longer | AUROC |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for row in report["scorers"]:
        of_length = {part["slice"]: part["accuracy"] for part in row["slices"] if part["by"] == "length"}
        sides = {side["side"]: side["share"] for side in row["sides"]}
        ends = (cell(of_length[name]) if name in of_length else "-" for name in ("much longer", "shorter"))
        auroc = cell(row["calibration"]["auroc"], False) if row["calibration"] else "-"
        print(f"| {row['scorer']} | {cell(row['accuracy'])} | {' | '.join(ends)} | {cell(sides['longer'])} | {auroc} |")
    print("", *(f"- {note}" for note in report["notes"]), sep="\n")


def print_agreement(rows: Sequence[Row], labels: Sequence[str]) -> None:
    """How often two scorers prefer the same answer; half where either has a tie."""
    signs = {}
    for label in labels:
        values = np.array([[np.nan if value is None else value for value in row[label]] for row in rows], float)
        signs[label] = np.sign(values[:, 0] - values[:, 1])
    print(f"\n| agreement | {' | '.join(labels)} |\n|---|{'---:|' * len(labels)}")
    for label in labels:
        shares = (f"{np.nanmean((1 + signs[label] * signs[other]) / 2):.0%}" for other in labels)
        print(f"| {label} | {' | '.join(shares)} |")


def print_audits(reports: Sequence[Mapping[str, Any]]) -> None:
    """How often each planted answer beats what it is compared with; in bold where it is preferred."""
    kinds = [row["kind"] for row in reports[0]["planted"]]
    print(f"\n| planted | {' | '.join(kinds)} |\n|---|{'---:|' * len(kinds)}")
    for report in reports:
        shares = (
            f"**{row['wins']['value']:.0%}**" if preferred(row) else f"{row['wins']['value'] or 0:.0%}"
            for row in report["planted"]
        )
        print(f"| {report['scorer']} | {' | '.join(shares)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("alpaca_eval", type=Path)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--audited", type=int, default=10)
    parser.add_argument("--longest", type=int, default=300)
    parser.add_argument("--folder", type=Path, default=Path("scorers_table"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = pools(options.alpaca_eval, options.prompts, options.longest)
    source = write(options.folder / "pools.jsonl", rows)
    engine = f"llamacpp:{options.weights.resolve()}"
    scorers = [ScorerSettings.model_validate(scorer) for scorer in SCORERS]

    def settings(scorer: ScorerSettings, source: str) -> ScoreSettings:
        out, asked = options.folder / f"{scorer.label}.jsonl", engine if scorer.roles else None
        out.unlink(missing_ok=True)
        return ScoreSettings(
            source, out, scorer, ColumnNames(), asked, 4, "minilm", 0, str(options.folder / "store"), 0, None, False
        )

    scored = source
    for scorer in scorers:
        score_answers(settings(scorer, scored))
        scored = str(options.folder / f"{scorer.label}.jsonl")
    labels = [scorer.label for scorer in scorers]
    ratings = [
        {"prompt_id": row["prompt_id"], "answer_index": n, "label": label}
        for row in rows
        for n, label in enumerate(row["labels"])
    ]
    truth = write(options.folder / "labels.jsonl", ratings)
    print(f"{options.weights.stem}, {len(rows)} prompts\n")
    print_trust(trust_of(TrustSettings(scored, truth, labels, ColumnNames(), (), "", "label", None, 1000, 0)))
    with Path(scored).open() as file:
        print_agreement([json.loads(line) for line in file], labels)
    limits = {scorer.label: options.audited if scorer.roles else len(rows) for scorer in scorers}
    audited = [scorer for scorer in scorers if limits[scorer.label] and scorer.kind != "pairwise"]
    print_audits([audit_report(settings(scorer, source), limits[scorer.label]) for scorer in audited])


if __name__ == "__main__":
    main()
