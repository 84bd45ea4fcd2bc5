"""HelpSteer's attributes: in one call or five, of any names, with their sum; and rows for training on them."""

from pathlib import Path

import orjson
import polars as pl
import pytest
from pydantic import ValidationError

from synthmill.flows.methods.preferences.settings import PreferencesSettings
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.pools import Score, ScoredPool
from synthmill.tasks.frames import StageContext, frame_schema, run_locally
from synthmill.tasks.scorers.helpsteer import ATTRIBUTES, AttributeScores, HelpSteerSettings
from synthmill.tasks.scorers.named_scores import read_scores
from synthmill.tasks.scorers.scoring import ScorerSettings
from synthmill.tasks.scorers.weighted import HELPSTEER2
from synthmill.tasks.tables.steered_answers import STEERLM, SteeredAnswers
from tests.command import synthmill
from tests.conftest import ChatServer, write_jsonl
from tests.tasks.judging_by_hand import CONTEXT, answer_of, drive, pool, through_engine, values_of

LOCK = {
    "stages": {
        "attribute_scores@1": "9b62d0636761a17d",
        "steered_answers@1": "9d02a6985de9368d",
    },
    "prompts": {
        "helpsteer/score": "4ebf8af4e5e4",
    },
}
GOOD = dict(zip(ATTRIBUTES, (4, 4, 3, 2, 1), strict=True))


def judgement(scores: dict[str, int]) -> Completion:
    return Completion(text=orjson.dumps({"reasons": "So.", **scores}).decode())


def asked_about(request: Request) -> list[str]:
    assert request.schema_
    return [name for name in request.schema_["properties"] if name != "reasons"]


@pytest.mark.parametrize(("calls", "count"), [("one", 4), ("each", 20)])
def test_five_attributes_in_one_call_or_five(calls: str, count: int) -> None:
    stage = ScorerSettings.model_validate({"spec": "helpsteer", "calls": calls, "evaluations": 2}).stage(CONTEXT)
    assert isinstance(stage, AttributeScores) and stage.requests_per_row() == count // 2 * 3

    def reply(request: Request) -> Completion:
        scores = GOOD if answer_of(request) == "good" else dict.fromkeys(ATTRIBUTES, request.sample // 100)
        return judgement({name: scores[name] for name in asked_about(request)})

    row, asked = drive(stage, pool("good", "bad", " "), reply)
    values = values_of(row)
    assert len(asked) == row.judgements == count and row.unread == 0
    assert list(values) == [f"helpsteer_{name}" for name in ATTRIBUTES] + ["helpsteer"]
    assert values["helpsteer_correctness"] == (4.0, 0.5, 0.0)
    assert values["helpsteer"][0] == pytest.approx(4 * 0.65 + 4 * 0.8 + 3 * 0.45 + 2 * 0.55 - 0.4)
    assert values["helpsteer"][1:] == (pytest.approx(sum(HELPSTEER2.values()) / 2), 0.0)
    assert {name for request in asked for name in asked_about(request)} == set(ATTRIBUTES)


def test_any_attributes_with_weights_of_ones_own() -> None:
    own = {"attributes": {"politeness": "0: rude. 4: kind.", "verbosity": "0: short."}, "weights": {"verbosity": -1}}
    settings = HelpSteerSettings.model_validate({"spec": "helpsteer", "name": "tone", **own})
    assert settings.labels == ("tone_politeness", "tone_verbosity", "tone")
    row, asked = drive(settings.stage(CONTEXT), pool("so"), lambda _: judgement({"politeness": 3, "verbosity": 2}))
    assert values_of(row) == {"tone_politeness": (3.0,), "tone_verbosity": (2.0,), "tone": (1.0,)}
    assert "- politeness: 0: rude. 4: kind." in asked[0].messages[-1].content
    for wrong in (
        {"weights": {"wit": 1}},
        {"attributes": {}},
        {"attributes": {"reasons": "?"}},
        {"attributes": {"a b": ""}},
    ):
        with pytest.raises(ValidationError):
            ScorerSettings.model_validate({"spec": "helpsteer", **wrong})


@pytest.mark.parametrize(
    "scores",
    [
        *({**GOOD, "coherence": value} for value in (5, -1, 2.5, 3.0, "3", "three", "3-4", None, True, [3])),
        {name: 3 for name in ATTRIBUTES if name != "verbosity"},
        {},
    ],
    ids=str,
)
def test_a_judgement_with_a_missing_or_bad_score_is_refused(scores: dict[str, int]) -> None:
    with pytest.raises(Drop, match=r"(no|bad)_score"):
        read_scores(judgement(scores), list(ATTRIBUTES), 0, 4)


def test_two_verdicts_thinking_and_cut_judgements_are_refused() -> None:
    names, whole = ["helpfulness"], '{"reasons": "It says \\"helpfulness\\": 4.", "helpfulness": 2}'
    assert read_scores(Completion(text=whole), names, 0, 4) == {"helpfulness": 2}
    assert read_scores(Completion(text=f"```json\n{whole}\n```"), names, 0, 4) == {"helpfulness": 2}
    assert read_scores(through_engine(f'<think>{{"helpfulness": 4}}</think>{whole}'), names, 0, 4) == {"helpfulness": 2}
    assert read_scores(Completion(text="", error="engine_error: gone"), names, 0, 4) is None
    for text in ('{"helpfulness": 1, "helpfulness": 3}', f'{whole}\nNo: {{"helpfulness": 3}}', "helpfulness: 3", ""):
        with pytest.raises(Drop):
            read_scores(Completion(text=text), names, 0, 4)
    with pytest.raises(Drop):
        read_scores(through_engine(f"<think>{whole}"), names, 0, 4)
    with pytest.raises(Drop, match="it was cut"):
        read_scores(Completion(text=whole[:-1], finish_reason="length"), names, 0, 4)


def test_what_could_not_be_read_is_missing_and_counted() -> None:
    broken = {name: 3 for name in ATTRIBUTES if name != "verbosity"}
    row, asked = drive(
        AttributeScores(attempts=2),
        pool("good", "bad"),
        lambda request: judgement(GOOD if answer_of(request) == "good" else broken),
    )
    assert all(values[1] is None and values[0] is not None for values in values_of(row).values())
    assert (row.judgements, row.unread, len(asked)) == (2, 1, 3)
    assert "it had no score for verbosity" in asked[-1].messages[-1].content


def test_the_attributes_of_an_answer_as_a_string(tmp_path: Path) -> None:
    values = {"helpfulness": (3.5, 1.0), "correctness": (2.4, 0.0), "coherence": (4.0, None)}
    values |= {"complexity": (0.5, 1.0), "verbosity": (0.0, 1.0)}
    scores = tuple(Score(scorer=f"helpsteer_{name}", settings="{}", values=of) for name, of in values.items())
    rows = [pool("good", "bad", id="a", system="Be brief.", scores=scores), pool("a", "b", id="b", scores=scores[:4])]
    frame = pl.DataFrame([row.model_dump() for row in rows], schema=frame_schema(ScoredPool))
    kept, dropped = SteeredAnswers().apply(frame, tmp_path)
    assert kept.select("parent_id", "prompt", "system", "completion", "attributes").rows() == [
        (
            "a",
            "What carries light?",
            "Be brief.",
            "good",
            "helpfulness:4,correctness:2,coherence:4,complexity:1,verbosity:0",
        )
    ]
    assert [(drop.id, drop.reason) for drop in dropped] == [("b", "no_attributes")]
    assert set(STEERLM) == set(ATTRIBUTES)
    empty = frame.head(0).to_arrow()
    made, _ = SteeredAnswers().run_on(empty, StageContext(tmp_path, run_locally, {}))
    assert made.column_names == ["id", "parent_id", "prompt", "system", "completion", "attributes"]
    with pytest.raises(InputError, match="no pool has the score 'x_helpfulness'"):
        SteeredAnswers(score="x").apply(frame, tmp_path)


def test_settings_that_know_scores_know_those_a_score_is_made_of() -> None:
    source = {"path": "in.jsonl"}
    settings = {"source": source, "scorers": ["helpsteer"], "reward": "helpsteer_correctness"}
    assert PreferencesSettings.model_validate(settings).chosen_reward == "helpsteer_correctness"
    weights = {"kind": "weighted", "weights": {"helpsteer_coherence": 1.0}}
    PreferencesSettings.model_validate({"source": source, "scorers": ["helpsteer", weights]})
    with pytest.raises(ValidationError, match="weighs helpsteer_coherence, which no scorer before it gives"):
        PreferencesSettings.model_validate({"source": source, "scorers": [weights, "helpsteer"]})


@pytest.mark.parametrize("wide", [True, False])
def test_score_writes_a_column_for_each(tmp_path: Path, server: ChatServer, wide: bool) -> None:
    texts = ["Glass fibre.", "No idea."]
    rows = [{"prompt": "Why?", "answers": texts}] if wide else [{"prompt": "Why?", "answer": text} for text in texts]
    write_jsonl(tmp_path / "in.jsonl", rows)
    command = ("score", "in.jsonl", "--scorer", "helpsteer", "--set", "attributes={truth: '0 or 4'}")
    _, err = synthmill(*command, "--engine", server.spec, "--out", "out.jsonl", cwd=tmp_path)
    assert "2 answers scored" in err
    written = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert all({"helpsteer_truth", "helpsteer", "rewards" if wide else "reward"} <= row.keys() for row in written)
    truth = written[0]["helpsteer_truth"] if wide else [row["helpsteer_truth"] for row in written]
    overall = written[0]["rewards"] if wide else [row["reward"] for row in written]
    assert truth == overall and all(0 <= value <= 4 for value in truth)
