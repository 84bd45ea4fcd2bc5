"""`synthmill win-rate` on plain files."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command import synthmill
from tests.conftest import write_jsonl


def write(folder: Path, **changed: Any) -> None:
    rows = [
        {
            "prompt_id": str(n),
            "prompt": f"P{n}?",
            "models": ["base", "long", "short"],
            "answers": ["b" * 100, "l" * (150 + n), "s" * 40],
            "rewards": [5, 6 if n % 4 else 4, 5],
            "chance": [0.5, 0.8, 0.25],
            **changed,
        }
        for n in range(40)
    ]
    write_jsonl(folder / "scores.jsonl", rows)


def rates(folder: Path, *options: Any) -> dict[str, Any]:
    out, _ = synthmill("win-rate", "scores.jsonl", "--baseline", "base", "--json", *options, cwd=folder)
    return {row["policy"]: row for row in json.loads(out)}


def test_scores_and_chances(tmp_path: Path) -> None:
    write(tmp_path)
    by_score, by_chance = rates(tmp_path), rates(tmp_path, "--chances", "--score-column", "chance")
    assert (by_score["long"]["win_rate"], by_score["short"]["win_rate"]) == (75, 50)
    assert by_chance["long"]["win_rate"] == pytest.approx(80) and by_chance["short"]["error"] == 0
    assert by_chance["short"]["controlled"] is not None
    out, _ = synthmill("win-rate", "scores.jsonl", "--baseline", "base", cwd=tmp_path)
    assert "75.00 +- " in out


def test_the_gamed_rows_are_read(tmp_path: Path) -> None:
    write(tmp_path)
    lines = ["index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline,model"]
    lines += [f"{n},0.4,{n % 3 - 1},{n / 40},False,x" for n in range(40)]
    (tmp_path / "gamed.csv").write_text("\n".join(lines))
    with_gamed = rates(tmp_path, "--gamed", "gamed.csv")
    assert with_gamed["long"]["controlled"] != rates(tmp_path)["long"]["controlled"]
    assert with_gamed["long"]["win_rate"] == 75
    (tmp_path / "gamed.csv").write_text("a,b\n1,2")
    _, err = synthmill("win-rate", "scores.jsonl", "--baseline", "base", "--gamed", "gamed.csv", cwd=tmp_path, expect=2)
    assert "expected a CSV file with index, preference" in err


def test_wrong_input_is_one_line(tmp_path: Path) -> None:
    write(tmp_path)
    for options, words in (
        (("--baseline", "nobody"), "no answer of scores.jsonl is by 'nobody'; its models are base, long, short"),
        (("--baseline", "base", "--chances"), "rewards has values outside 0 to 1"),
        (("--baseline", "base", "--score-column", "grade"), "has no column 'grade'"),
    ):
        _, err = synthmill("win-rate", "scores.jsonl", *options, cwd=tmp_path, expect=2)
        assert words in err
    write(tmp_path, rewards=[None, "4-5", "good"])
    _, err = synthmill("win-rate", "scores.jsonl", "--baseline", "base", cwd=tmp_path, expect=2)
    assert "has scores of both a policy and base" in err
