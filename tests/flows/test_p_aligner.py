"""The method `p-aligner`: the search by hand, its rows and pairs, the picture, and whole."""

from math import log, sqrt
from pathlib import Path

import polars as pl
import pytest

from synthmill.flows.pages.trees import depth_first, draw_tree
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import Question
from synthmill.schemas.rows import to_arrow
from synthmill.tasks.generators.instruction_trees import (
    AlignedInstructions,
    Branch,
    InstructionPairs,
    InstructionTree,
    InstructionTrees,
    uct,
)
from tests.command import synthmill
from tests.conftest import ChatServer, prompts, write_jsonl

LOCK = {
    "stages": {
        "aligned_instructions@1": "5de72d6829d2bdaf",
        "instruction_pairs@1": "9043bbd1d5792592",
        "instruction_trees@2": "96cccc1416a1e8d1",
    },
    "prompts": {
        "p_aligner/rewrite": "4976f50c09e6",
    },
}

RAW = Question(id="q", prompt="Tell me about rivers.")
SEARCH = InstructionTrees(principles={"a": "rule a", "b": "rule b"}, iterations=4, samples=1, attempts=1)


def search(search: InstructionTrees, scores: dict[str, int]) -> InstructionTree:
    """Run the search with a rewriter that adds the rule's letter, and a judge that scores what was answered to."""
    steps = search.steps(RAW)
    requests = next(steps)
    try:
        while True:
            [request] = requests
            text = request.messages[-1].content
            if request.role == "rewriter":
                assert RAW.prompt in text
                now = text.split("as it is now:\n")[1].split("\n")[0]
                reply = f"{now} {text.split('by this rule: rule ')[1][0]}"
            elif request.role == "student":
                reply = f"REPLY: {text}"
            else:
                assert f"Instruction:\n{RAW.prompt}\n" in text  # the raw one, whatever was answered
                reply = str(scores[text.split("REPLY: ")[1].splitlines()[0]])
            requests = steps.send([Completion(text=reply)])
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


SCORES = {RAW.prompt: 5, f"{RAW.prompt} a": 7, f"{RAW.prompt} b": 4, f"{RAW.prompt} a b": 9, f"{RAW.prompt} b a": 6}


def test_uct_is_the_mean_below_and_what_was_seldom_visited() -> None:
    branch = Branch(0, "a", "text", 4.0, [4.0, 8.0])
    assert uct(branch, 10, 1.0) == pytest.approx(6 + sqrt(log(10) / 2)) and uct(branch, 10, 0.0) == 6


def test_the_search_goes_where_rewards_are_and_rewards_go_up() -> None:
    tree = search(SEARCH, SCORES)
    texts = [node.instruction.removeprefix(RAW.prompt).strip() for node in tree.nodes]
    assert texts[0] == "" and {*texts[1:3]} == {"a", "b"} and texts[3:] == ["a b", "b a"]
    assert tree.nodes[tree.best].instruction == f"{RAW.prompt} a b" and tree.iterations == 4
    root, first = tree.nodes[0], tree.nodes[texts.index("a")]
    assert root.visits == 5 and root.value == pytest.approx((5 + 7 + 4 + 9 + 6) / 5)
    assert first.value == (7 + 9) / 2 and first.visits == 2
    assert search(SEARCH, SCORES) == tree


def test_a_tree_without_principles_left_ends_and_a_bad_rewriting_is_no_node() -> None:
    tree = search(SEARCH.model_copy(update={"iterations": 9}), SCORES)
    assert len(tree.nodes) == 5 and tree.iterations == 4
    steps = SEARCH.model_copy(update={"iterations": 1}).steps(RAW)
    next(steps)
    steps.send([Completion(text="x")])
    [rewrite] = steps.send([Completion(text="3")])
    assert rewrite.role == "rewriter"
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text="Sure! Rivers are long.")])
    assert len(done.value.value.nodes) == 1
    steps = SEARCH.steps(RAW)
    next(steps)
    with pytest.raises(Drop, match="not_judged"):
        steps.send([Completion(text="", error="engine_error: 500")])


def test_rows_lead_to_the_best_and_pairs_from_parents_to_better_children(tmp_path: Path) -> None:
    frame = pl.DataFrame(to_arrow(InstructionTree, [search(SEARCH, SCORES)]))
    rows, drops = AlignedInstructions().apply(frame, tmp_path)
    assert not drops and rows.select("completion", "raw_reward", "best_reward", "principles", "level").rows() == [
        (f"{RAW.prompt} a b", 5.0, 9.0, ["a", "b"], 2)
    ]
    pairs, _ = InstructionPairs().apply(frame, tmp_path)
    gained = [(row["rejected"].split()[-1], row["chosen"].split()[-1], row["level"]) for row in pairs.to_dicts()]
    assert sorted(gained) == [("a", "b", 2), ("b", "a", 2), ("rivers.", "a", 1)]
    assert AlignedInstructions(gain=4).apply(frame, tmp_path)[1][0].reason == "no_better"
    assert InstructionPairs(gain=9).apply(frame, tmp_path)[1][0].reason == "no_pairs"


def test_the_picture_has_a_line_per_node() -> None:
    assert depth_first([-1, 0, 0, 1, 1]) == [0, 1, 3, 4, 2]
    svg = draw_tree([-1, 0, 0, 1], ["raw <5>", "a", "b", "c"], 3).decode()
    assert "raw &lt;5&gt;" in svg and svg.count("<path") == 3 and svg.count('circle class="best"') == 3


def test_whole_and_with_one_more(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(2))
    run = ["run", "p-aligner", "--workers", 0, "--set", "source=in.jsonl", "--set", f"engines.teacher={server.spec}"]
    run += ["--set", "iterations=3", "--set", "samples=1", "--set", "dedup.layers=[exact]"]
    out, _ = synthmill(*run, cwd=tmp_path)
    assert "What each principle does" in out
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    assert (folder / "tree.svg").read_text().startswith("<svg")
    asked = server.stats()["total"]
    write_jsonl(tmp_path / "in.jsonl", prompts(3))
    synthmill(*run, cwd=tmp_path)
    assert server.stats()["total"] <= asked * 3 / 2 + 3 and server.stats()["repeated"] == 0
