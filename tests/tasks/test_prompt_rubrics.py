"""Rubrics as rewards: written from a pair, applied to each answer alone, kept where they reproduce the preference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest
from pydantic import ValidationError

from synthmill.flows.methods.preferences.settings import PreferencesSettings
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.pools import ScoredPool
from synthmill.schemas.rows import to_arrow
from synthmill.storage.artifacts import Store, read_artifact
from synthmill.storage.plain_files.pools import PoolFile
from synthmill.tasks.generators.pool_source import ingest_pools
from synthmill.tasks.generators.prompt_rubrics import (
    Compared,
    Criterion,
    PromptRubrics,
    RubricPrompt,
    read_checks,
    read_criteria,
    reward,
)
from synthmill.tasks.scorers.rubric_reward import RubricRewards, WeightedCriterion, WeightedPool, weighted_criteria
from synthmill.tasks.scorers.scoring import ScorerSettings
from tests.command import synthmill
from tests.conftest import write_jsonl
from tests.tasks.judging_by_hand import CONTEXT, answer_of, drive, pool, through_engine, values_of

LOCK = {
    "stages": {
        "prompt_rubrics@1": "f4e3c6a4d1e02baf",
        "rubric_rewards@1": "26066155633ee342",
    },
    "prompts": {
        "prompt_rubrics/check": "48011dc3d4f2",
        "prompt_rubrics/write": "f1d324b48d6c",
    },
}
PAIR = Compared(
    id="p", prompt="What carries light?", system="Be brief.", chosen="Glass fibre.", rejected="Copper wire."
)
ITEMS = [("names glass", "essential"), ("is brief", "optional"), ("does not name copper", "pitfall")]
WEIGHED = [{"criterion": "names glass", "weight": 3}, {"criterion": "is brief", "importance": "essential"}]
RUBRIC = {"rubric": [{"criterion": text, "importance": importance} for text, importance in ITEMS]}


def in_json(value: Any) -> Completion:
    return Completion(text=orjson.dumps(value).decode())


def by_answer(chosen: Any, rejected: Any) -> Callable[[Request], Completion]:
    def reply(request: Request) -> Completion:
        if request.role == "author":
            return in_json(RUBRIC)
        return in_json(chosen if "Glass fibre." in request.messages[-1].content else rejected)

    return reply


def test_a_rubric_that_reproduces_the_label_is_kept() -> None:
    met, unmet = {"1": True, "2": False, "3": True}, {"1": False, "2": True, "3": False}
    row, asked = drive(PromptRubrics(), PAIR, by_answer(met, unmet))
    assert isinstance(row, RubricPrompt) and (row.prompt, row.system, row.parent_id) == (PAIR.prompt, "Be brief.", "p")
    assert [(each.criterion, each.importance, each.weight) for each in row.rubric] == [
        ("names glass", "essential", 1.0),
        ("is brief", "optional", 0.3),
        ("does not name copper", "pitfall", 0.9),
    ]
    assert row.chosen_reward == pytest.approx(1.9 / 2.2) and row.rejected_reward == pytest.approx(0.3 / 2.2)
    assert [request.role for request in asked] == ["author", "judge", "judge"]
    assert PAIR.chosen in asked[0].messages[-1].content and PAIR.rejected in asked[0].messages[-1].content
    texts = [request.messages[-1].content for request in asked[1:]]
    assert "Copper" not in texts[0] and "Glass" not in texts[1]  # each answer is checked alone
    assert texts[0].removesuffix("Glass fibre.") == texts[1].removesuffix("Copper wire.")


@pytest.mark.parametrize(
    ("chosen", "rejected", "margin"),
    [((1, 1, 1), (1, 1, 1), 0), ((0, 1, 0), (1, 0, 1), 0), ((1, 1, 1), (1, 0, 1), 0.2)],
)
def test_a_rubric_that_does_not_tell_them_apart_is_dropped(chosen: Any, rejected: Any, margin: float) -> None:
    checks = [{str(n): bool(is_met) for n, is_met in enumerate(of, 1)} for of in (chosen, rejected)]
    with pytest.raises(Drop, match="label_not_reproduced: the chosen answer has"):
        drive(PromptRubrics(margin=margin), PAIR, by_answer(*checks))


@pytest.mark.parametrize(
    "value",
    [
        *({}, {"rubric": []}, {"rubric": "be good"}, {"rubric": RUBRIC["rubric"][:2]}, {"rubric": [*ITEMS]}),
        {"rubric": [*RUBRIC["rubric"], {"criterion": "x", "importance": "high"}]},
        {"rubric": [*RUBRIC["rubric"], {"importance": "essential"}]},
        {"rubric": [RUBRIC["rubric"][0]] * 3},
    ],
    ids=str,
)
def test_what_is_no_rubric(value: Any) -> None:
    with pytest.raises(Drop, match="bad_rubric"):
        read_criteria(in_json(value), 3)


@pytest.mark.parametrize("value", [{"1": True}, {"1": True, "2": "yes"}, {"1": 1, "2": 0}, {"1": True, "2": None}, []])
def test_a_check_that_is_missing_is_refused(value: Any) -> None:
    with pytest.raises(Drop, match="bad_checks"):
        read_checks(in_json(value), ["1", "2"])


def test_cut_and_thought_answers_are_none_and_faults_are_named() -> None:
    twice = Completion(text='{"1": true, "1": false}')
    cut = Completion(text='{"1": true', finish_reason="length")
    for completion in (twice, cut, through_engine('<think>{"1": true}')):
        with pytest.raises(Drop, match="bad_checks"):
            read_checks(completion, ["1"])
    with pytest.raises(Drop, match="bad_checks"):
        drive(PromptRubrics(attempts=2), PAIR, by_answer({"1": True}, {"1": True}))
    with pytest.raises(Drop, match="same_text"):
        next(PromptRubrics().steps(PAIR.model_copy(update={"rejected": "Glass fibre. "})))


def test_a_reward_is_a_share_of_the_weights() -> None:
    rubric = tuple(Criterion(criterion=str(weight), importance="optional", weight=weight) for weight in (1.0, 3.0))
    assert [reward(rubric, met) for met in ((True, True), (True, False), (False, False))] == [1.0, 0.25, 0.0]


def test_a_rubric_is_applied_to_every_answer_of_its_pool() -> None:
    stage = ScorerSettings.model_validate({"spec": "rubric-reward", "evaluations": 2}).stage(CONTEXT)
    assert isinstance(stage, RubricRewards) and stage.needs_roles() == ("judge",)
    pools = to_arrow(ScoredPool, [pool("Glass.", "Copper.", " ", id=name) for name in "ab"])
    column = pa.array([orjson.dumps(WEIGHED).decode(), ""])
    [row], dropped = stage.read(pools.append_column("rubric", column))
    assert [(drop.id, drop.reason) for drop in dropped] == [("b", "no_rubric")]

    def reply(request: Request) -> Completion:
        is_glass = answer_of(request) == "Glass."
        return in_json({"1": is_glass, "2": not is_glass and request.sample == 0})

    made, asked = drive(stage, row, reply)
    assert values_of(made) == {"rubric_reward": (0.75, 0.125, 0.0)} and made.judgements == len(asked) == 4
    assert "1. names glass\n2. is brief" in asked[0].messages[-1].content
    assert type(made).model_fields.keys().isdisjoint({"rubric"})
    with pytest.raises(InputError, match="there is no column 'rubric'"):
        stage.check_columns(pools.schema)


def test_checks_that_cannot_be_read_are_a_missing_score() -> None:
    row = WeightedPool(**pool("Glass.", "Copper.").__dict__, rubric=(WeightedCriterion(criterion="x", weight=1),))
    replies = {"Glass.": Completion(text='{"1": "maybe"}'), "Copper.": Completion(text="", error="overloaded")}
    made, asked = drive(RubricRewards(attempts=2), row, lambda request: replies[answer_of(request)])
    assert values_of(made) == {"rubric_reward": (None, None)} and (made.judgements, made.unread) == (2, 2)
    assert len(asked) == 3


@pytest.mark.parametrize(
    "value",
    [
        *("be good", 5, [5], {"criterion": "x"}, [{"weight": 1}], [{"criterion": " ", "weight": 1}]),
        *([{"criterion": "x", "weight": weight}] for weight in (0, -1, "1", True)),
        [*WEIGHED, {"criterion": "x", "importance": "high"}],
    ],
    ids=str,
)
def test_what_is_no_rubric_of_a_row(value: Any) -> None:
    with pytest.raises(Drop, match="bad_rubric"):
        weighted_criteria(value)
    criteria = [{"criterion": "x", "importance": "optional", "weight": 2.0}]
    assert weighted_criteria(criteria) == (WeightedCriterion(criterion="x", weight=2.0),)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_rubrics_are_read_from_files_of_pools(ending: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"Why {n}?", "answers": ["so", ""], "rubric": WEIGHED} for n in "ab"]
    rows[1]["rubric"] = None
    path = tmp_path / f"in.{ending}"
    _ = write_jsonl(path, rows) if ending == "jsonl" else pl.DataFrame(rows).write_parquet(path)
    settings = ScorerSettings.model_validate("rubric-reward")
    store = Store(tmp_path / "store")
    pools = ingest_pools(store, PoolFile(str(path), rewards=False, by_row=settings.reads_by_row), 8, "run")
    [row], [drop] = RubricRewards().read(read_artifact(store, pools))
    assert [(each.criterion, each.weight) for each in row.rubric] == [("names glass", 3), ("is brief", 1)]
    assert (drop.id, drop.reason) == ("Why b?", "no_rubric")


def test_rows_without_a_rubric_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Why?", "answers": ["so"]}])
    options = ("--scorer", "rubric-reward", "--engine", "openai:m@http://127.0.0.1:9/v1", "--out", "out.jsonl")
    _, err = synthmill("score", "in.jsonl", *options, cwd=tmp_path, expect=2)
    assert err == "error: rubric-reward reads the column rubric of in.jsonl; found answers, prompt\n"
    with pytest.raises(ValidationError, match="rubrics of rows are read by `synthmill score` and in pipelines"):
        PreferencesSettings.model_validate({"source": "x.jsonl", "scorers": "rubric-reward"})
