"""BiGGen's judge: a rubric and a reference for each prompt, from its row or written; five descriptions or none."""

import gzip
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.multifaceted import Rubric
from synthmill.schemas.pools import ScoredPool
from synthmill.schemas.rows import to_arrow
from synthmill.schemas.settings_files import read_settings
from synthmill.tasks.scorers.biggen import InstanceScores, RubricPool, read_reference, read_rubric, rubric_in
from synthmill.tasks.scorers.scoring import ScorerSettings
from tests.command import synthmill
from tests.conftest import SHARED, ChatServer, write_jsonl
from tests.tasks.judging_by_hand import CONTEXT, answer_of, drive, pool, values_of

LOCK = {
    "stages": {
        "instance_scores@2": "e7859e77898d43ee",
    },
    "prompts": {
        "biggen/reference": "04479bc29f8e",
        "biggen/rubric": "c53fcee65850",
        "biggen/score": "d6c8ae438ce5",
    },
}
LEVELS = [f"level {n}" for n in range(1, 6)]
FLAT = {"criteria": "Is it light?", **{f"score{n}_description": level for n, level in enumerate(LEVELS, 1)}}
WRITTEN = {"criteria": "Is it light?", "score_descriptions": dict(zip("12345", LEVELS, strict=True))}
BENCH = SHARED / "data" / "biggen_bench" / "biggen.jsonl.gz"


def in_json(value: Any) -> Completion:
    return Completion(text=orjson.dumps(value).decode())


def reply(request: Request) -> Completion:
    if request.schema_:
        return in_json(WRITTEN)
    if request.role == "author":
        return Completion(text="Glass fibre does.")
    return Completion(text=f"Well. [RESULT] {5 if answer_of(request) == 'good' else 2}")


def test_a_row_with_its_own_rubric_and_reference() -> None:
    stage = ScorerSettings.model_validate({"spec": "biggen"}).stage(CONTEXT)
    assert isinstance(stage, InstanceScores) and stage.needs_roles() == ("judge", "author")
    table = to_arrow(ScoredPool, [pool("good", "bad", "", reference="Light.")])
    [row], dropped = stage.read(table.append_column("rubric", pa.array([FLAT])))
    made, asked = drive(stage, row, reply)
    assert not dropped and {request.role for request in asked} == {"judge"}
    assert values_of(made) == {"biggen": (5.0, 2.0, 1.0)}
    assert made.instance_rubric == Rubric(criteria="Is it light?", score_descriptions=tuple(LEVELS))
    assert made.instance_reference == "Light." and made.reference == "Light."
    assert "Score 5: level 5" in asked[0].messages[-1].content


def test_what_a_row_lacks_is_written() -> None:
    made, asked = drive(InstanceScores(), pool("good", "bad"), reply)
    assert [request.role for request in asked] == ["author", "author", "judge", "judge"]
    assert "which would score 5:\nGlass fibre does.\n" in asked[-1].messages[-1].content
    assert made.instance_rubric.criteria == "Is it light?" and made.instance_reference == "Glass fibre does."
    assert made.reference == ""  # other scorers see the row as it was
    made, asked = drive(InstanceScores(references="given", author="judge"), pool("good"), reply)
    assert [request.role for request in asked] == ["judge", "judge"] and made.instance_reference == ""


@pytest.mark.parametrize("value", [FLAT, WRITTEN, {**WRITTEN, "score_descriptions": LEVELS}])
def test_forms_of_rubrics(value: dict[str, Any]) -> None:
    for form in (value, orjson.dumps(value).decode()):
        rubric = rubric_in(form)
        assert rubric and rubric.score_descriptions == tuple(LEVELS)
    assert rubric_in(None) is None and rubric_in("") is None


@pytest.mark.parametrize(
    "value",
    [
        *("five points", "[1]", 5, {"criteria": "?"}, {**FLAT, "score3_description": None}, {**FLAT, "criteria": " "}),
        {**WRITTEN, "score_descriptions": dict.fromkeys("1234", "x")},
        {**WRITTEN, "score_descriptions": LEVELS[:4]},
    ],
    ids=str,
)
def test_a_rubric_with_a_missing_score_is_none(value: Any) -> None:
    with pytest.raises(Drop, match="bad_rubric"):
        rubric_in(value)
    table = to_arrow(ScoredPool, [pool("a", id=name) for name in "ab"])
    texts = pa.array([orjson.dumps(each).decode() for each in (value, WRITTEN)])
    rows, dropped = InstanceScores().read(table.append_column("rubric", texts))
    assert [row.id for row in rows] == ["b"] and [(drop.id, drop.reason) for drop in dropped] == [("a", "bad_rubric")]


def test_what_an_author_writes_is_checked() -> None:
    for text in ("{}", '{"criteria": "x"}', "a rubric", ""):
        with pytest.raises(Drop, match="bad_rubric"):
            read_rubric(Completion(text=text))
    with pytest.raises(Drop, match="two scores have the same description"):
        read_rubric(in_json({**WRITTEN, "score_descriptions": dict.fromkeys("12345", "the same")}))
    with pytest.raises(Drop, match="it was cut"):
        read_rubric(Completion(text='{"criteria": ', finish_reason="length"))
    for completion in (Completion(text=" "), Completion(text="Glass", finish_reason="length")):
        with pytest.raises(Drop):
            read_reference(completion)


def test_without_a_rubric_nothing_is_scored_and_it_is_counted() -> None:
    made, asked = drive(InstanceScores(attempts=2), pool("good"), lambda _: Completion(text="?"))
    assert values_of(made) == {"biggen": (None,)} and made.instance_rubric is None
    assert (made.judgements, made.unread, made.first_unread, len(asked)) == (1, 1, "?", 2)
    halves, _ = drive(
        InstanceScores(attempts=1),
        pool("good"),
        lambda request: reply(request) if request.role == "author" else Completion(text="[RESULT] 4.5"),
    )
    assert values_of(halves) == {"biggen": (None,)} and (halves.judgements, halves.unread) == (3, 1)


def test_in_a_pipeline_rubrics_come_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Why?", "score_rubric": FLAT}])
    judged = {"stage": "instance_scores", "rubric_column": "score_rubric"}
    settings: dict[str, Any] = {
        "source": "in.jsonl",
        "engines": {"teacher": "openai:m@http://127.0.0.1:9/v1"},
        "steps": {"pools": {"stage": "answer_pool", "count": 2}, "judged": judged},
    }
    planned = plan(read_settings(PipelineSettings, None, settings)).stages[-1]
    assert "score_rubric" in planned.carries
    settings["steps"]["judged"] = {**judged, "rubric_column": "rubrics"}
    with pytest.raises(InputError, match="there is no column 'rubrics'; nearest: score_rubric"):
        plan(read_settings(PipelineSettings, None, settings))


def test_score_reads_rubrics_from_its_file(tmp_path: Path, server: ChatServer) -> None:
    rows = [{"prompt": f"Why {n}?", "answers": ["so", ""], "rubric": rubric} for n, rubric in enumerate((FLAT, None))]
    write_jsonl(tmp_path / "in.jsonl", rows)
    options = ("--scorer", "biggen", "--set", "references=given", "--engine", server.spec, "--workers", 0)
    synthmill("score", "in.jsonl", *options, "--out", "out.jsonl", cwd=tmp_path)
    scored = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert all(1 <= row["biggen"][0] <= 5 and row["biggen"][1] == 1 for row in scored)
    assert [row["rubric"] for row in scored] == [FLAT, None]
    assert server.stats()["total"] == 3  # a score each, and the rubric that a row lacks


@pytest.mark.real
@pytest.mark.skipif(not BENCH.is_file(), reason="the real inputs (../shared/data) are not beside this checkout")
def test_every_rubric_of_the_bench_is_read() -> None:
    rows = [orjson.loads(line) for line in gzip.decompress(BENCH.read_bytes()).splitlines()]
    rubrics = [rubric_in(row["score_rubric"]) for row in rows]
    assert len(rows) == 468 and all(rubric and len(set(rubric.score_descriptions)) == 5 for rubric in rubrics)
    row, rubric = rows[0], rubrics[0]
    judged = RubricPool(
        **pool(row["response"], prompt=row["input"], system=row["system_prompt"]).model_dump(exclude={"reference"}),
        reference=row["reference_answer"],
        rubric=rubric,
    )
    made, [request] = drive(InstanceScores(), judged, lambda _: Completion(text="[RESULT] 1"))
    assert values_of(made) == {"biggen": (1.0,)} and row["reference_answer"] in request.messages[-1].content
