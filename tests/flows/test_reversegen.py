"""The method `reversegen`: proposals by hand, what failed, the proposer's pairs, and whole."""

from pathlib import Path

import polars as pl
import pytest

from synthmill.flows.methods.reversegen import Proposals, ProposerPairs
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import Shots
from synthmill.tasks.generators.failures import FailedPrompts
from synthmill.tasks.texts.prompt_faults import OVERLAP, check_prompt
from tests.command import synthmill
from tests.conftest import ChatServer, prompts, write_jsonl

LOCK = {
    "stages": {
        "failed_prompts@1": "092998bbcdb4e28f",
        "proposals@2": "9267de7cfe35705b",
        "proposer_pairs@1": "22931d7c4b14a101",
    },
    "prompts": {
        "reversegen/propose": "943d2e7b5359",
    },
}

SHOTS = Shots(id="s", examples=("Sum 3 and 4.", "Name a bird that swims."), number=1)


def written(*texts: str) -> list[Completion]:
    return [Completion(text=f"<begin> {text} </end>") for text in texts]


def test_each_proposal_is_a_draw_of_its_own_and_each_text_stays_once() -> None:
    steps = Proposals(count=3, attempts=1).steps(SHOTS)
    requests = next(steps)
    assert [request.sample for request in requests] == [6400, 6500, 6600]
    assert "1. <begin> Sum 3 and 4. </end>" in requests[0].messages[-1].content
    with pytest.raises(StopIteration) as done:
        steps.send(written("Divide 7 by 2.", "Sum 3 and 4.", "Divide 7 by 2."))
    assert done.value.value.prompt == ("Divide 7 by 2.",) and done.value.value.group == "s"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Sure! Name a fish.", "answers: it began 'Sure!'"),
        ("Say it again. " * 6, "repeats_itself"),
        ("Name a bird that 会游泳的鸟 swims well", "mixes_languages: it mixed in East Asian letters"),
        ("Name a bird that swims", "shot_given_back"),
        ("...", "no_prompt"),
    ],
)
def test_bad_proposals_say_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(Drop, match=reason):
        check_prompt(text, SHOTS.examples, OVERLAP)
    steps = Proposals(count=1, attempts=2).steps(SHOTS)
    next(steps)
    [again] = steps.send(written(text))
    assert "could not be used" in again.messages[-1].content
    with pytest.raises(Drop):
        steps.send(written(text))


def test_formulas_and_prompts_in_the_examples_script_are_good() -> None:
    assert check_prompt(" Find all x with \u03b1x + \u03b2 = 0. ") == "Find all x with \u03b1x + \u03b2 = 0."
    assert check_prompt("\u4f1a\u6e38\u6cf3\u7684\u9e1f, in English?", ["\u9e1f\u662f\u4ec0\u4e48\uff1f"])


def pool(row_id: str, *scores: float | None) -> dict[str, object]:
    answers = [{"answer_index": n, "text": f"answer {n}", "policy": "target"} for n in range(len(scores))]
    values = [{"scorer": "judge", "settings": "", "values": list(scores)}]
    return {"id": row_id, "prompt": "p", "group": "g", "answers": answers, "scores": values, "unread": 0}


def test_a_prompt_fails_by_its_mean_score(tmp_path: Path) -> None:
    frame = pl.DataFrame([pool("a", 9.0, 2.0), pool("b", 4.0, None), pool("c", None, None)])
    rows, drops = FailedPrompts(score="judge").apply(frame, tmp_path)
    assert rows.select("id", "mean_score", "failed", "worst_answer").rows() == [
        ("a", 5.5, False, "answer 1"),
        ("b", 4.0, True, "answer 0"),
    ]
    assert "group" in rows.columns and not {"answers", "scores", "unread"} & {*rows.columns}
    assert [(drop.id, drop.reason) for drop in drops] == [("c", "not_scored")]


def test_the_worst_failure_stands_over_the_best_pass_of_its_set(tmp_path: Path) -> None:
    scores = {"a": ("g", 1.0), "b": ("g", 3.0), "c": ("g", 8.0), "d": ("h", 2.0), "e": ("g", 4.0)}
    frame = pl.DataFrame(
        [
            {"id": name, "prompt": f"p{name}", "mean_score": score, "failed": score < 5, "group": group}
            for name, (group, score) in scores.items()
        ]
    ).with_columns(shown=pl.lit(["x"], pl.List(pl.String)))
    pairs, drops = ProposerPairs().apply(frame, tmp_path)
    assert pairs.select("parent_id", "chosen", "rejected", "chosen_score", "rejected_score").rows() == [
        ("a", "<begin> pa </end>", "<begin> pc </end>", 1.0, 8.0)
    ]
    assert "1. <begin> x </end>" in pairs["prompt"][0]
    assert {drop.id: drop.reason for drop in drops} == {
        "c": "rejected_side",
        **dict.fromkeys("bde", "no_partner"),
    }


def test_whole_again_and_with_more_sets(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(4))
    run = ["run", "reversegen", "--workers", 0, "--set", "source=in.jsonl", "--set", f"engines.teacher={server.spec}"]
    run += ["--set", "dedup.layers=[exact]", "--set", "per_set=2", "--set", "count=4"]
    out, _ = synthmill(*run, cwd=tmp_path)
    assert "Failures" in out and "prompts failed" in out
    asked = server.stats()["total"]
    assert asked == 4 * 2 * 3  # each proposal, its answer and its judgement
    _, err = synthmill(*run, cwd=tmp_path)
    assert "nothing to do" in err and server.stats()["total"] == asked
    synthmill(*run[:-1], "count=5", cwd=tmp_path)
    assert server.stats()["total"] == asked + 2 * 3 and server.stats()["repeated"] == 0
