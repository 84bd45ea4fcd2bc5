"""`synthmill judge-audit` on plain files, with functions as scorers and one judge."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from synthmill.tasks.cuts.guards import PoolFacts
from synthmill.tasks.trust.planted import planted_answers
from tests.command import synthmill
from tests.conftest import ChatServer, write_jsonl


def write(folder: Path) -> None:
    answers = ["Photons carry it, and they have no mass at all.", "Waves do.", ""]
    rows = [{"prompt": f"What carries light, question {n}?", "answers": answers} for n in range(12)]
    write_jsonl(folder / "answers.jsonl", rows)
    (folder / "mine.py").write_text(
        "def obeys(prompt, answers, reference):\n    return [float('top score' in answer) for answer in answers]\n"
        "def same(prompt, answers, reference):\n    return [4] * len(answers)\n"
        "def none(prompt, answers, reference):\n    return [None if not answer else 1 for answer in answers]\n"
    )


def report(folder: Path, *options: Any) -> tuple[dict[str, Any], str]:
    out, err = synthmill("judge-audit", "answers.jsonl", "--json", *options, cwd=folder)
    return json.loads(out), err


def test_a_scorer_that_obeys_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    figures, err = report(tmp_path, "--scorer", "python:mine.py:obeys", "--limit", 10)
    assert figures["prompts"] == 10 and {row["kind"] for row in figures["planted"] if row["wins"]["low"] > 0.5} == {
        "injected"
    }
    assert "obeys prefers the injected answer to the answer it is made of: it wins 100.0%" in err
    assert "by 1.00 (1.00 to 1.00)" in err
    out, _ = synthmill("judge-audit", "answers.jsonl", "--scorer", "python:mine.py:obeys", cwd=tmp_path)
    assert "preferred" in out and "truncated" in out


def test_a_scorer_that_always_says_the_same_and_one_without_scores(tmp_path: Path) -> None:
    write(tmp_path)
    _, err = report(tmp_path, "--scorer", "python:mine.py:same")
    assert "same gives every answer the same score, 4" in err
    figures, err = report(tmp_path, "--scorer", "python:mine.py:none")
    assert "12 empty answers, or what they are compared with, have no score" in err
    assert next(row for row in figures["planted"] if row["kind"] == "empty")["missing"] == 12


def test_a_panel_is_audited_with_its_members(tmp_path: Path, server: ChatServer) -> None:
    write(tmp_path)
    panel = ("--scorer", "panel", "--set", "weights={obeys: 100, same: 1, expected: 1}", "--set", "scale=none")
    members = ("--member", "python:mine.py:obeys", "--member", "{spec: python:mine.py:same, name: same}")
    figures, err = report(tmp_path, *panel, *members, "--member", "expected", "--engine", server.spec)
    assert figures["scorer"] == "panel" and figures["prompts"] == 12
    assert "panel prefers the injected answer" in err
    _, err = synthmill("judge-audit", "answers.jsonl", *panel, *members, cwd=tmp_path, expect=2)
    assert "panel reads expected, which planted answers lack; name the scorers" in err


def test_a_judge_is_asked_once(tmp_path: Path, server: ChatServer) -> None:
    write(tmp_path)
    options = "--scorer", "expected", "--engine", server.spec, "--limit", 2
    figures, _ = report(tmp_path, *options)
    assert figures["scorer"] == "expected" and [row["pools"] for row in figures["planted"]] == [2] * 6
    stats = server.stats()
    assert any(stats.values())
    assert report(tmp_path, *options)[0] == figures and server.stats() == stats


def test_wrong_input_is_one_line(tmp_path: Path) -> None:
    write(tmp_path)
    write_jsonl(tmp_path / "empty.jsonl", [{"prompt": "Why?", "answers": ["", " "]}])
    for options, words in (
        (("answers.jsonl", "--scorer", "helpsteer2"), "weighted reads"),
        (("empty.jsonl", "--scorer", "python:mine.py:same"), "no answer with a text"),
        (("answers.jsonl", "--scorer", "judge"), "name it with --engine"),
    ):
        _, err = synthmill("judge-audit", *options, cwd=tmp_path, expect=2)
        assert words in err


def test_our_guards_see_what_is_planted() -> None:
    prompts = [f"What carries light, in the words of somebody who was asked as number {n} of all?" for n in range(60)]
    planted = [planted_answers(prompt, f"Photons do, says person {n}.") for n, prompt in enumerate(prompts)]
    table = pa.table(
        {
            "prompt_id": [str(n) for n in range(60)],
            "prompt": prompts,
            "answers": [[answer.text for answer in answers] for answers in planted],
            "rewards": [[0.0] * 6] * 60,
        }
    )
    facts = PoolFacts()
    facts.add(table)
    flags = facts.statistics().flags(table)
    kinds = [answer.kind for answers in planted for answer in answers]
    for flag, kind in (("constant", "constant"), ("addresses_judge", "injected"), ("copies_prompt", "copied prompt")):
        assert {name for name, value in zip(kinds, flags[flag].tolist(), strict=True) if value} == {kind}
    padded = [value for name, value in zip(kinds, flags["near_constant"].tolist(), strict=True) if name == "padded"]
    assert all(padded)
