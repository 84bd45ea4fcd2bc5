"""`synthmill compare-cuts` and `synthmill choose-prompt`: known answers on small files."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import TableRow
from synthmill.tasks.asking.prompt_choice import calibrate, prompt_figures
from synthmill.tasks.generators.option_chances import OptionChances
from tests.command import ROOT, synthmill
from tests.conftest import ChatServer, write_jsonl

PAGE = ROOT / "docs" / "comparing-cuts.md"
TOPICS = ("Why does a river bend near its mouth?", "How long does a letter to the moon take?")


def pools(folder: Path) -> None:
    rows = [
        {
            "prompt_id": f"p{n}",
            "prompt": f"{TOPICS[n % 2]} Number {n} of the list, please.",
            "answers": ["short", "a longer answer " * (n + 1), "mid answer"],
            "rewards": [0, 3, 1 + n % 2] if n < 8 else [1, 1, 1],
        }
        for n in range(10)
    ]
    write_jsonl(folder / "pools.jsonl", rows)
    write_jsonl(folder / "bench.jsonl", [{"prompt": rows[0]["prompt"]}])
    write_jsonl(folder / "policies.jsonl", [{**row, "policies": ["small", "big", "small"]} for row in rows])


def compared(folder: Path, source: str, rules: str, *options: Any) -> dict[str, Any]:
    out, _ = synthmill("compare-cuts", source, "--rules", rules, "--json", *options, cwd=folder)
    return dict(json.loads(out))


def test_rules_for_pairs_side_by_side(tmp_path: Path) -> None:
    pools(tmp_path)
    rules = "max-min,rip:gap=1:rejected_reward_quantile=null:rejected_length_quantile=null,top-k:count=1"
    options = ("--embedder", "none", "--against", "bench.jsonl", "--cost", "16", "--page", "page.html")
    report = compared(tmp_path, "pools.jsonl", rules, *options)
    by_rule = {row["rule"].partition(":")[0]: row for row in report["rules"]}
    assert (report["rows"], report["answers"]) == (10, 30)
    most, none, same = by_rule["max-min"], by_rule["rip"], by_rule["top-k"]
    assert (most["kept"], most["share"], most["score"], most["rejected_score"]) == (8, 0.8, 3, 0)
    assert most["cost_per_kept"] == 2 and most["contaminated"] == pytest.approx(1 / 8)
    assert most["rejected_length"] == 5 and most["vendi"] is None
    assert none["kept"] == 0 and none["cost_per_kept"] is None and none["score"] is None
    assert report["overlap"] == [[1, 0, 1], [0, 1, 0], [1, 0, 1]] and report["overlap_of_choices"] == report["overlap"]
    assert same["different_grams"] == most["different_grams"] and 0 < most["different_grams"] < 1
    page = (tmp_path / "page.html").read_text()
    assert "<svg" in page and "top-k:count=1" in page and "<script" not in page
    assert "max-min: 2 prompts have no pair, equal_reward" in report["notes"]


def test_stages_choose_among_rows(tmp_path: Path) -> None:
    rows = [
        {"id": f"r{n}", "prompt": TOPICS[n % 2] + " x" * n, "quality": n % 5, "kind": "ab"[n % 2]} for n in range(20)
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    rules = "best=top:count=4,at_least:value=4,mixture:by=kind:count=4,top:count=1:within=[kind,quality]"
    report = compared(tmp_path, "rows.jsonl", rules, "--score", "quality", "--embedder", "none")
    top, _, mixed, each = report["rules"]
    assert (top["rule"], top["kept"], top["score"]) == ("best", 4, 4) and report["overlap"][0][1] == 1
    assert mixed["kept"] == 4 and each["kept"] == 10
    out, _ = synthmill("compare-cuts", "rows.jsonl", "--rules", "top:count=4", "--score", "quality", cwd=tmp_path)
    assert "different grams" in out and "vendi" in out
    for arguments, words in (
        (("--rules", "max-min,top:count=1"), "rules for pairs and stages on rows"),
        (("--rules", "ask"), "ask asks a model"),
        (("--rules", "explode:column=kind"), "explode"),
        (("--rules", ""), "names no rule"),
        (("--rules", "top:count"), "is not KEY=VALUE"),
    ):
        _, err = synthmill("compare-cuts", "rows.jsonl", *arguments, cwd=tmp_path, expect=2)
        assert words in err


def test_mutual_information_of_known_chances() -> None:
    sure = np.eye(2)[[0, 1, 0, 1]]  # the input decides everything
    blind = np.full((4, 2), 0.5)
    biased = np.array([[0.9, 0.1], [0.6, 0.4], [0.9, 0.1], [0.6, 0.4]])  # one option is likelier, whatever the input
    figures = prompt_figures(np.stack([sure, blind, biased]), np.array([0, 1, 0, -1]))
    assert figures.mutual_information[:2].tolist() == pytest.approx([math.log(2), 0])
    assert figures.balance[0] == pytest.approx(math.log(2)) and figures.doubt[1] == pytest.approx(math.log(2))
    assert figures.accuracy.tolist() == pytest.approx([1, 2 / 3, 2 / 3])
    assert figures.calibrated_accuracy[2] == 1  # 0.9 / 0.75 against 0.1 / 0.25; 0.6 / 0.75 against 0.4 / 0.25
    assert calibrate(biased)[0].tolist() == pytest.approx([0.75, 0.25]) and calibrate(blind).tolist() == blind.tolist()
    assert figures.calibrated[2] > figures.mutual_information[2]
    assert np.isnan(prompt_figures(sure[None]).accuracy).all() and calibrate(np.array([[1.0, 0.0]])).tolist() == [
        [1, 0]
    ]


def test_chances_are_read_from_letters_or_given_answers() -> None:
    row = TableRow(id="a", values={"text": "good"})
    letters = OptionChances(templates={"x": "{{ text }}: A or B?", "y": "B or A? {{ text }}"}, options=("A", "B"))
    steps = letters.steps(row)
    assert [ask.messages[0].content for ask in next(steps)] == ["good: A or B?", "B or A? good"]
    alternatives = {"A": math.log(0.6), "B": math.log(0.2)}
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text="A", logprobs=[["A", math.log(0.6), alternatives]]), Completion(text="Neither")])
    values = done.value.value.values
    assert values["chances"][0] == pytest.approx([0.75, 0.25]) and values["chances"][1] == []
    assert values["chance_faults"] == ["", "it answered 'Neither'"]
    words = OptionChances(templates={"x": "{{ text }}?"}, options=("yes", "no"))
    steps = words.steps(row)
    assert [ask.scored for ask in next(steps)] == ["yes", "no"] and words.requests_per_row() == 2
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text="", logprobs=[["t", math.log(chance), {}]]) for chance in (0.3, 0.1)])
    assert done.value.value.values["chances"] == [pytest.approx([0.75, 0.25])]
    steps = words.steps(row)
    next(steps)
    with pytest.raises(Drop, match="no_chances: no_logprobs"):
        steps.send([Completion(text="")] * 2)
    for wrong in (("A",), ("A", "A "), ("A", "")):
        with pytest.raises(ValueError):
            OptionChances(templates={"x": "?"}, options=wrong)
    assert letters.key({"teacher": "m"}) != letters.model_copy(
        update={"templates": dict(reversed(letters.templates.items()))}
    ).key({"teacher": "m"})


def test_a_prompt_is_chosen_and_nothing_is_asked_twice(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"id": f"r{n}", "text": f"text {n}", "label": "AB"[n % 2]} for n in range(6)])
    for name, text in (("plain", "{{ text }}"), ("polite", "Please: {{ text }}")):
        (tmp_path / f"{name}.jinja").write_text(f"{text}\n\nReply with the letter A or B, nothing else.")
    command = ("choose-prompt", "rows.jsonl", "--template", "plain.jinja", "--template", "polite.jinja")
    command += ("--options", "A,B", "--engine", server.spec, "--label-column", "label", "--json")
    out, _ = synthmill(*command, cwd=tmp_path)
    report = json.loads(out)
    assert report["rows"] == 6 and {row["template"] for row in report["templates"]} == {"plain", "polite"}
    assert report["chosen"] == report["templates"][0]["template"]
    assert all(0 <= row["accuracy"] <= 1 and row["calibrated"] >= 0 for row in report["templates"])
    asked = server.stats()["total"]
    assert asked == 12 and json.loads(synthmill(*command, cwd=tmp_path)[0]) == report
    assert server.stats()["total"] == asked
    out, err = synthmill(*command[:-1], cwd=tmp_path)
    assert "mutual" in out and "nats of at most 0.693, on 6 rows" in err
    (tmp_path / "wrong.jinja").write_text("{{ txt }}")
    _, err = synthmill(*command[:2], "--template", "wrong.jinja", *command[6:], cwd=tmp_path, expect=2)
    assert "'txt' is no column" in err and "text" in err


def test_every_command_of_the_page_runs(tmp_path: Path, server: ChatServer) -> None:
    pools(tmp_path)
    write_jsonl(
        tmp_path / "rows.jsonl", [{"prompt": f"{TOPICS[n % 2]} {n}", "quality": n, "kind": "x"} for n in range(9)]
    )
    for name in ("plain", "polite"):
        (tmp_path / f"{name}.jinja").write_text(f"{name} {{{{ prompt }}}} the letter A or B")
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("synthmill ")]
    assert {shlex.split(line)[1] for line in lines} == {"compare-cuts", "choose-prompt", "pairs"}
    for line in lines:
        arguments = [server.spec if part.startswith("openai:") else part for part in shlex.split(line)[1:]]
        without = ("--embedder", "none") if arguments[0] == "compare-cuts" else ()
        synthmill(*arguments, *without, cwd=tmp_path)
