"""`synthmill trust` on plain files; docs/trust.md does what it says."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.command import ROOT, synthmill
from tests.conftest import write_jsonl

DOCUMENT = ROOT / "docs" / "trust.md"
LONG, SHORT = "A long answer that goes on and on about light and what it is made of.", "Photons."


def prepare(folder: Path) -> None:
    """The files that the page names."""
    prompts = [f"Number {n}: what is light made of, in the words of a physicist?" for n in range(12)]
    pools = [
        {"prompt_id": f"p{n}", "prompt": prompt, "answers": [LONG, SHORT, ""], "rewards": [4, 3 + 2 * (n % 3 == 0), 0]}
        for n, prompt in enumerate(prompts)
    ]
    write_jsonl(folder / "scored.jsonl", [{**pool, "policies": ["big-1", "small-1", "small-1"]} for pool in pools])
    answers = {"models": ["base", "long"], "answers": [SHORT, LONG], "rewards": [1, 2], "chance": [0.5, 0.7]}
    (folder / "mine.py").write_text(
        "def brief(prompt, answers, reference):\n    return [-len(text) for text in answers]\n"
    )
    write_jsonl(folder / "answers.jsonl", [{"prompt": prompt, **answers} for prompt in prompts])
    labels = [
        {"prompt_id": f"p{n}", "chosen_index": n % 2, "rejected_index": 1 - n % 2, "annotator": who}
        for n in range(12)
        for who in "ab"
    ]
    write_jsonl(folder / "human.jsonl", labels)


def blocks() -> list[str]:
    text = DOCUMENT.read_text()
    return [line for block in re.findall(r"```\n(.*?)```", text, re.S) for line in block.splitlines() if line.strip()]


def test_every_command_of_the_page_runs(tmp_path: Path) -> None:
    prepare(tmp_path)
    commands = [line for line in blocks() if line.startswith("synthmill ")]
    assert commands
    for line in commands:
        synthmill(*shlex.split(line)[1:], cwd=tmp_path)
    assert "<svg" in (tmp_path / "trust.html").read_text()


def figures(folder: Path, *options: Any) -> dict[str, Any]:
    out, _ = synthmill("trust", "scored.jsonl", "--draws", 100, "--json", *options, cwd=folder)
    return dict(json.loads(out))


def test_the_figures_of_a_small_file(tmp_path: Path) -> None:
    prepare(tmp_path)
    report = figures(tmp_path, "--labels", "human.jsonl", "--own", "BIG")
    [row] = report["scorers"]
    # the score says LONG but for n = 0, 3, 6, 9; people say LONG for even n: right for 2, 4, 8, 10 and 3, 9
    assert row["accuracy"]["value"] == pytest.approx(6 / 12) and report["people"]["alpha"]["value"] == 1
    assert {part["slice"] for part in row["slices"]} >= {"own", "other", "en", "earlier", "later"}
    assert {side["side"]: side["pairs"] for side in row["sides"]} == {"first": 36, "longer": 36, "own": 24}


def test_labels_by_text_by_rating_and_bad_ones_are_counted(tmp_path: Path) -> None:
    prepare(tmp_path)
    good = [
        {"prompt_id": "p0", "chosen": LONG, "rejected": SHORT},
        {"prompt_id": "p1", "answer": LONG, "label": 5},
        {"prompt_id": "p1", "answer_index": 1, "label": "2.5"},
        {"prompt": "Number 2: what is light made of, in the words of a physicist?", "chosen": LONG, "rejected": SHORT},
    ]
    bad = [
        {"prompt_id": "p0", "answer_index": 1, "label": "three"},
        {"prompt_id": "p0", "answer_index": 1, "label": "3-4"},
        {"prompt_id": "p0", "answer_index": 7, "label": 1},
        {"prompt_id": "p0", "chosen_index": 1, "rejected_index": 1},
        {"prompt_id": "p0", "chosen_index": 0.5, "rejected_index": 1},
        {"prompt_id": "p0", "chosen": "nobody said this", "rejected": LONG},
    ]
    write_jsonl(tmp_path / "mixed.jsonl", [*good, *bad])
    report = figures(tmp_path, "--labels", "mixed.jsonl")
    assert report["scorers"][0]["comparisons"] == 2
    [note] = [note for note in report["notes"] if "labels were not used" in note]
    assert note.startswith("7 labels were not used")
    for reason in ("2 no_label", "1 bad_index", "1 same_answer", "2 unknown_answer", "1 unknown_prompt"):
        assert reason in note


def test_scores_that_are_no_numbers_are_missing(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": "p", "prompt": "Why?", "answer": f"answer {n}", "judge": value, "model": "m"}
        for n, value in enumerate((1.5, "3-4", None, "nan", "good", True))
    ]
    write_jsonl(tmp_path / "scored.jsonl", rows)
    report = figures(tmp_path, "--score-column", "judge")
    assert report["scorers"][0]["scored"] == 1
    assert "5 of 6 answers have no score (3 not_a_number, 1 missing, 1 not_finite)" in report["notes"][0]
    pl.DataFrame([{**row, "judge": float(n)} for n, row in enumerate(rows)]).write_parquet(tmp_path / "scored.parquet")
    out, _ = synthmill("trust", "scored.parquet", "--score-column", "judge", "--json", cwd=tmp_path)
    assert json.loads(out)["scorers"][0]["sides"][0]["share"]["value"] == 0  # each beats those before it


def test_wrong_input_is_one_line(tmp_path: Path) -> None:
    prepare(tmp_path)
    write_jsonl(tmp_path / "other.jsonl", [{"prompt_id": "zz", "chosen_index": 0, "rejected_index": 1}])
    write_jsonl(tmp_path / "odd.jsonl", [{"prompt_id": "p0"}])
    for options, words in (
        (("--labels", "other.jsonl"), "no label of other.jsonl fits an answer of scored.jsonl (1 unknown_prompt)"),
        (("--labels", "odd.jsonl"), "none of its rows can be used (1 no_answer); expected chosen_index"),
        (("--score-column", "judge"), "scored.jsonl has no column 'judge'; found answers,"),
        (("--own", "x", "--model-column", "who"), "has no column 'who'"),
    ):
        _, err = synthmill("trust", "scored.jsonl", *options, cwd=tmp_path, expect=2)
        assert words in err


def test_the_page_escapes_what_files_say(tmp_path: Path) -> None:
    prepare(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    write_jsonl(tmp_path / "scored.jsonl", [{**row, "<script>": row["rewards"]} for row in rows])
    synthmill("trust", "scored.jsonl", "--score-column", "<script>", "--page", "t.html", cwd=tmp_path)
    page = (tmp_path / "t.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;, prefers: longer" in page


def test_confidence_is_calibrated_against_right_and_wrong(tmp_path: Path) -> None:
    prepare(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    write_jsonl(tmp_path / "scored.jsonl", [{**row, "chance": [0.9, 0.2, 0.1]} for row in rows])
    right = [{"prompt_id": row["prompt_id"], "answer_index": n, "label": int(n == 0)} for row in rows for n in range(3)]
    write_jsonl(tmp_path / "right.jsonl", right)
    options = "--labels", "right.jsonl", "--score-column", "chance"
    calibration = figures(tmp_path, *options)["scorers"][0]["calibration"]
    assert calibration["auroc"]["value"] == 1 and calibration["ece"]["value"] == pytest.approx(0.4 / 3)
    assert figures(tmp_path, "--labels", "right.jsonl")["scorers"][0]["calibration"] is None  # no chances
    out, _ = synthmill("trust", "scored.jsonl", *options, "--page", "t.html", cwd=tmp_path)
    assert "AUROC" in out and "Brier score" in (tmp_path / "t.html").read_text()


def test_a_score_may_be_called_as_anything(tmp_path: Path) -> None:
    prepare(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    names = ("length", "people", "human", "text", "language")
    write_jsonl(tmp_path / "scored.jsonl", [{**row, **dict.fromkeys(names, row["rewards"])} for row in rows])
    options = [part for name in ("rewards", *names) for part in ("--score-column", name)]
    first, *others = figures(tmp_path, "--labels", "human.jsonl", *options)["scorers"]
    assert [row["scorer"] for row in others] == list(names)
    assert all({**row, "scorer": "rewards"} == first for row in others)
