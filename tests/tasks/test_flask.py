"""FLASK: skills, domain and difficulty of a prompt, by index or name from shuffled options; scores under its skills."""

from typing import Any

import orjson
import polars as pl
import pytest

from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.rows import arrow_schema
from synthmill.schemas.settings_files import read_settings
from synthmill.tasks.scorers.flask import KEYS, FlaskPool, FlaskScores, picked
from synthmill.tasks.scorers.flask_skills import DIFFICULTIES, DOMAINS, SKILLS
from synthmill.tasks.scorers.scoring import ScorerSettings
from tests.conftest import write_jsonl
from tests.tasks.judging_by_hand import CONTEXT, answer_of, drive, pool, through_engine, values_of

LOCK = {
    "stages": {
        "flask_scores@1": "9b934feb5158e800",
    },
    "prompts": {
        "flask/annotate": "73b19ff21dac",
        "flask/score": "976b546c9f93",
    },
}
WANTED = ("Factuality", "Readability", "Insightfulness")
OPTIONS = ("Math", "Natural Science", "Coding")


def options_of(request: Request) -> list[str]:
    lines = request.messages[-1].content.splitlines()
    return [line.partition(". ")[2].partition(":")[0] for line in lines if line.partition(". ")[0].isdigit()]


def judge(request: Request, score: Any = 4) -> Completion:
    """Names skills by index, the field by name, the level by both."""
    if request.schema_:
        names = [name for name in request.schema_["properties"] if name != "reasons"]
        scores = {name: score - (answer_of(request) == "bad") * place for place, name in enumerate(names)}
        return Completion(text=orjson.dumps({"reasons": "So.", **scores}).decode())
    options = options_of(request)
    if "Factuality" in options:
        return Completion(text=f"[{', '.join(str(options.index(skill) + 1) for skill in WANTED)}]")
    return Completion(text="['natural science']" if "Math" in options else "[4. Major Level Knowledge]")


def test_a_prompt_has_three_skills_and_answers_a_score_under_each() -> None:
    stage = ScorerSettings.model_validate({"spec": "flask"}).stage(CONTEXT)
    assert isinstance(stage, FlaskScores)
    row, asked = drive(stage, pool("good", "bad", ""), judge)
    assert (row.skills, row.domain, row.difficulty) == (WANTED, "Natural Science", "Major Level Knowledge")
    assert values_of(row) == {
        "flask_factuality": (4.0, 4.0, 1.0),
        "flask_readability": (4.0, 3.0, 1.0),
        "flask_insightfulness": (4.0, 2.0, 1.0),
        "flask": (4.0, 3.0, 1.0),
    }
    assert [request.sampling.temperature for request in asked] == [0.2, 0.2, 0.2, 0.0, 0.0]
    assert "Readability (`readability`): Is it well organised" in asked[-1].messages[-1].content
    assert (row.judgements, row.unread) == (5, 0)


def test_options_are_shuffled_by_the_prompt_and_levels_are_not() -> None:
    orders = [
        [options_of(request) for request in drive(FlaskScores(), pool("a", id=name), judge)[1][:3]] for name in "ab"
    ]
    assert orders[0][0] != orders[1][0] and orders[0][1] != orders[1][1]
    for skills, domains, levels in orders:
        assert (set(skills), set(domains), levels) == (set(SKILLS), set(DOMAINS), list(DIFFICULTIES))
    assert (len(SKILLS), len(DOMAINS), len(DIFFICULTIES)) == (12, 10, 5)
    again = [options_of(request) for request in drive(FlaskScores(), pool("a", id="a"), judge)[1][:3]]
    assert again == orders[0]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[1, 3]", ("Math", "Coding")),
        ("They are [3, 1, 2].", ("Coding", "Math")),  # the first two
        ("['Coding', \"natural  science\"]", ("Coding", "Natural Science")),
        ("[2. Natural Science, 2]", ("Natural Science",)),
        ("[7, 0, 3, cooking]", ("Coding",)),  # what is no option is left out
        ("[3]\nAgain: [3]", ("Coding",)),
        ("**[`1`]**", ("Math",)),
    ],
)
def test_lists_by_index_or_name(text: str, names: tuple[str, ...]) -> None:
    assert picked(Completion(text=text), OPTIONS, 2) == names


@pytest.mark.parametrize("text", ["", "1, 3", "[]", "[9]", "[1-3]", "[1.5]", "[one]", "[1]\nor [2]", "Math"])
def test_what_is_no_list_of_options(text: str) -> None:
    with pytest.raises(Drop, match="no_pick"):
        picked(Completion(text=text), OPTIONS, 2)


def test_a_list_within_thinking_does_not_count() -> None:
    assert picked(through_engine("<think>[1]</think>[3]"), OPTIONS, 1) == ("Coding",)
    with pytest.raises(Drop):
        picked(through_engine("<think>[1]"), OPTIONS, 1)


def test_what_could_not_be_read_is_missing_and_counted() -> None:
    silent, asked = drive(FlaskScores(attempts=2), pool("good"), lambda _: Completion(text="no idea"))
    assert (silent.skills, silent.domain, silent.difficulty) == ((), "", "")
    assert values_of(silent) == {"flask": (None,)} and (silent.judgements, silent.unread, len(asked)) == (3, 3, 6)
    lost, _ = drive(FlaskScores(), pool("a"), lambda _: Completion(text="", error="engine_error: gone"))
    assert values_of(lost) == {"flask": (None,)} and lost.first_unread == "engine_error: gone"
    for score in (6, 4.5, "4"):
        bad, _ = drive(
            FlaskScores(),
            pool("good"),
            lambda request, score=score: (
                judge(request, score)
                if score == 6 or not request.schema_
                else Completion(text=orjson.dumps(dict.fromkeys(map(KEYS.get, WANTED), score)).decode())
            ),
        )
        assert values_of(bad)["flask"] == (None,) and (bad.judgements, bad.unread) == (4, 1)


def test_means_by_skill_domain_and_difficulty() -> None:
    rows = [drive(FlaskScores(), pool("good", "bad", id=name), judge)[0] for name in "ab"]
    silent, _ = drive(FlaskScores(), pool("good", id="c"), lambda _: Completion(text="?"))
    schema = pl.DataFrame(arrow_schema(FlaskPool).empty_table()).schema
    frames = [pl.DataFrame([row.model_dump()], schema=schema) for row in (*rows, silent)]
    skills, domain, difficulty = FlaskScores().figures(frames)
    assert skills.title == "flask by skill" and skills.columns == ("skill", "answers", "scores")
    assert skills.rows == (("Factuality", "4.00", "4"), ("Insightfulness", "3.00", "4"), ("Readability", "3.50", "4"))
    assert domain.rows == (("Natural Science", "3.50", "4"),) and difficulty.rows == (
        ("Major Level Knowledge", "3.50", "4"),
    )
    assert FlaskScores().figures(frames[2:]) == []


def test_in_a_pipeline_the_new_columns_go_on(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Why?", "area": "x"}])
    steps = {
        "pools": {"stage": "answer_pool", "count": 2},
        "flask": {"stage": "flask_scores"},
        "length": {"stage": "r3_scores"},
        "hard": {"stage": "filter", "where": "difficulty = 'Expert Level Knowledge' and area = 'x'"},
    }
    settings = {"source": "in.jsonl", "engines": {"teacher": "openai:m@http://127.0.0.1:9/v1"}, "steps": steps}
    assert [step.step for step in plan(read_settings(PipelineSettings, None, settings)).stages] == list(steps)
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Why?", "domain": "x"}])
    with pytest.raises(InputError, match=r"steps.flask: stage flask_scores: the rows have a column 'domain' already"):
        plan(read_settings(PipelineSettings, None, settings))
