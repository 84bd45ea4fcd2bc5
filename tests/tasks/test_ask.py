"""A prompt of one's own between columns: what is asked, what is taken, and what is refused before a token is spent."""

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pydantic import ValidationError

from synthmill.flows.commands.show import prompt_texts, show_lineage
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.rows import TableRow
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import CALLS, Store, read_artifact
from synthmill.storage.catalog import rebuild
from synthmill.storage.lineage import lineage_of
from synthmill.tasks.asking.ask import Ask
from synthmill.tasks.running.in_process import InProcess
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.stages import run_stage
from synthmill.tasks.running.table_source import ingest_memory
from tests.conftest import ChatServer

TABLE = pa.table({"id": ["a"], "text": ["the mill"], "year": [1907], "tags": [["old", "stone"]], "unused": [b"x"]})
EXAM = """
role: teacher
system: You write exams.
prompt: "Ask about: {{ text }}"
answer:
  question: text
  answer: {type: string, maxLength: 40}
  difficulty: [easy, medium, hard]
  words: {list: text}
  source: {type: object, properties: {page: integer, sure: boolean}}
  parts: {list: {type: object, properties: {name: text}}}
  note: {type: [string, null]}
  weight: number
check:
  answer: {min_length: 3}
  question: {pattern: "\\\\?$"}
  difficulty: "difficulty != 'hard' or answer | length > 5"
"""
GOOD = {
    "question": "Why?",
    "answer": "Because.",
    "difficulty": "easy",
    "words": ["x"],
    "source": {"page": 3, "sure": True},
    "parts": [{"name": "wheel"}],
    "note": None,
    "weight": 2,
}


def ask(settings: str) -> Ask:
    return Ask.model_validate(yaml.safe_load(settings))


def drive(stage: Ask, table: pa.Table, *answers: Any) -> tuple[TableRow | Drop, list[Request]]:
    """A row's end, and all that was asked for it; answers are texts, values that become JSON, or completions."""
    [row], unreadable = stage.read(table)
    assert not unreadable
    steps, asked, waiting = stage.steps(row), [], list(answers)
    try:
        requests = next(steps)
        while True:
            asked += requests
            replies = [waiting.pop(0) for _ in requests]
            requests = steps.send([reply_of(reply) for reply in replies])
    except Drop as drop:
        return drop, asked
    except StopIteration as end:
        assert not waiting
        return end.value, asked


def reply_of(reply: Any) -> Completion:
    if isinstance(reply, Completion):
        return reply
    return Completion(text=reply if isinstance(reply, str) else json.dumps(reply))


def values(row: TableRow | Drop) -> dict[str, Any]:
    assert isinstance(row, TableRow), row
    return row.values


def test_a_prompt_fills_a_text_column_called_as_the_step() -> None:
    stage = ask("{prompt: \"Of {{ year }}: {{ text }}, {{ tags | join('+') }}, {{ tags | tojson }}\", column: summary}")
    row, [request] = drive(stage, TABLE, " A mill. ")
    assert request.messages[0].content == 'Of 1907: the mill, old+stone, ["old", "stone"]'
    assert request.role == "teacher" and request.schema_ is None
    assert isinstance(row, TableRow)
    assert (row.id, row.parent_id, row.values) == ("a", "", {"summary": "A mill."})
    assert stage.to_table([row]).to_pylist() == [{"id": "a", "parent_id": "", "summary": "A mill."}]
    assert stage.read(TABLE)[0][0].values.keys() == {"text", "year", "tags"}  # no other column becomes Python
    assert stage.output_columns(TABLE.schema).names == ["id", "parent_id", "summary"]
    assert pickle.loads(pickle.dumps(stage)) == stage  # compiled templates do not travel
    colder = stage.model_copy(update={"prompt": "Other"})
    assert drive(colder, TABLE, "x")[1][0].messages[0].content == "Other"


def test_an_answer_has_the_fields_of_its_form_with_their_types() -> None:
    stage = ask(EXAM)
    row, [request] = drive(stage, TABLE, "```json\n" + json.dumps(GOOD) + "\n```")
    assert [message.role for message in request.messages] == ["system", "user"]
    assert request.schema_ and request.schema_["required"] == list(GOOD)
    assert request.schema_["additionalProperties"] is False
    assert request.schema_["properties"]["source"]["required"] == ["page", "sure"]
    table = stage.to_table([row])  # type: ignore[list-item]
    assert table.schema == stage.output_columns(TABLE.schema)
    assert {field.name: str(field.type) for field in table.schema if field.name not in ("id", "parent_id")} == {
        **dict.fromkeys(("question", "answer", "difficulty", "note"), "string"),
        "words": "list<item: string>",
        "source": "struct<page: int64, sure: bool>",
        "parts": "list<item: struct<name: string>>",
        "weight": "double",
    }
    assert table.drop_columns(["id", "parent_id"]).to_pylist() == [GOOD]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"answer": "x" * 41}, "answer: String should have at most 40 characters"),
        ({"difficulty": "grim"}, "difficulty: Input should be 'easy', 'medium' or 'hard'"),
        ({"source": {"page": 3.5, "sure": True}}, "source.page: Input should be a valid integer"),
        ({"source": {"page": 1 << 63, "sure": True}}, "source.page: Input should be less than"),
        ({"weight": "2"}, "weight: Input should be a valid number"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"question": None}, "question: Input should be a valid string"),
        ({"answer": "no"}, "answer has 2 characters, at least 3 are needed"),
        ({"question": "Why"}, "question must match \\?$"),
        ({"difficulty": "hard", "answer": "Five."}, "difficulty must satisfy: difficulty != 'hard' or"),
    ],
)
def test_a_bad_answer_is_asked_again_with_its_fault_then_dropped(changed: dict[str, Any], fault: str) -> None:
    row, [first, second] = drive(ask(EXAM), TABLE, {**GOOD, **changed}, GOOD)
    assert isinstance(row, TableRow) and second.sample == first.sample + 1
    assert fault in second.messages[-1].content and fault not in first.messages[-1].content
    drop, asked = drive(ask(EXAM), TABLE, *[{**GOOD, **changed}] * 3)
    assert isinstance(drop, Drop) and len(asked) == 3 and drop.detail.startswith(fault)
    assert drop.reason in ("bad_answer", "failed_check")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("  ", "empty_answer"),
        (Completion(text="It is", finish_reason="length"), "cut_answer"),
        (Completion(text="It is", finish_reason="content_filter"), "cut_answer"),
    ],
)
def test_empty_and_cut_answers_are_asked_again_then_dropped(reply: Any, reason: str) -> None:
    row, _ = drive(ask("{prompt: '{{ text }}', attempts: 2}"), TABLE, reply, "whole")
    assert values(row) == {"answer": "whole"}
    drop, _ = drive(ask("{prompt: '{{ text }}', attempts: 2}"), TABLE, reply, reply)
    assert isinstance(drop, Drop) and drop.reason == reason


def test_what_a_schema_says_beyond_types_is_checked_by_jsonschema() -> None:
    stage = ask("{prompt: '{{ text }}', answer: {day: {type: string, format: date}, n: {type: integer, maximum: 5}}}")
    drop, _ = drive(
        stage, TABLE, *[{"day": "soon", "n": 1}, {"day": "2020-01-01", "n": 6}, {"day": "2020-13-01", "n": 1}]
    )
    assert isinstance(drop, Drop) and drop.message == "bad_answer: day: it breaks format: date"
    assert values(drive(stage, TABLE, {"day": "2020-01-01", "n": 5})[0]) == {"day": "2020-01-01", "n": 5}


def test_a_later_prompt_reads_an_earlier_ones_answer() -> None:
    stage = ask("""
        prompts:
          plan: {prompt: "Plan: {{ text }}", answer: {title: text, items: {list: text}}}
          draft: "Write {{ plan.title }}: {{ plan.items | join(', ') }} ({{ row.text }})"
          final: {prompt: "Improve: {{ draft }}", answer: {text: text, score: integer}, role: judge, temperature: 0}
        keep: [draft, final]
    """)
    stage.check_columns(TABLE.schema)
    assert stage.needs_roles() == ("teacher", "judge") and stage.requests_per_row() == 9
    answers = [{"title": "Mills", "items": ["wind", "water"]}, "A draft.", {"text": "Better.", "score": 4}]
    row, asked = drive(stage, TABLE, *answers)
    contents = [request.messages[-1].content for request in asked]
    assert contents[1:] == ["Write Mills: wind, water (the mill)", "Improve: A draft."]
    assert (asked[2].role, asked[2].sample, asked[2].sampling.temperature) == ("judge", 0, 0)
    assert values(row) == {"draft": "A draft.", "final": {"text": "Better.", "score": 4}}
    names = stage.identity({"teacher": "t", "judge": "j"})["prompts"]
    texts = prompt_texts(stage.identity({"teacher": "t", "judge": "j"}))
    assert texts["ask/draft"] == stage.own_prompts["draft"].prompt and texts.keys() == names.keys()
    assert [*names] == ["ask/plan", "ask/draft", "ask/final"] and all(len(hash) == 12 for hash in names.values())


def test_samples_are_lists_without_those_that_failed() -> None:
    stage = ask("{prompt: '{{ text }}', answer: {word: text}, samples: 3, attempts: 2}")
    assert str(stage.new_columns()[0].type) == "list<item: string>"
    lost = Completion(text="", finish_reason="error", error="engine_error: 500")
    row, asked = drive(stage, TABLE, {"word": "one"}, lost, "no JSON", {"word": "three"})
    assert values(row) == {"word": ["one", "three"]}
    assert len({request.sample for request in asked}) == 4 and len({id(r.messages) for r in asked[:3]}) == 1
    assert all(request.optional for request in asked)
    drop, _ = drive(stage, TABLE, *[lost] * 3)
    assert isinstance(drop, Drop) and drop.message == "engine_error: 500"
    chained = ask("{prompts: {draft: '{{ text }}', final: 'Better: {{ draft }}'}, samples: 2, attempts: 1}")
    row, asked = drive(chained, TABLE, "", "b", "B")
    assert values(row) == {"draft": ["b"], "final": ["B"]} and asked[-1].messages[0].content == "Better: b"


def test_rows_share_answers_unless_they_draw_for_themselves() -> None:
    two = pa.table({"id": ["a", "b"], "text": ["same", "same"]})

    def samples(settings: str) -> set[int]:
        stage = ask(settings)
        return {next(stage.steps(row))[0].sample for row in stage.read(two)[0]}

    assert len(samples("{prompt: '{{ text }}', shared: false}")) == 2
    assert samples("{prompt: '{{ text }}'}") == {0}
    assert samples("{prompt: '{{ text }}', shared: false, sampling: {temperature: 0}}") == {0}


def test_a_null_drops_its_row_unless_the_template_expects_it() -> None:
    table = pa.table({"id": ["a"], "text": pa.array([None], pa.string())})
    drop, asked = drive(ask("{prompt: 'Say: {{ text }}'}"), table)
    assert isinstance(drop, Drop) and not asked
    assert drop.message == "null_column: text is null, and the prompt writes it"
    row, [request] = drive(ask("{prompt: 'Say: {{ text or \"hello\" }}{% if text %}!{% endif %}'}"), table, "x")
    assert isinstance(row, TableRow) and request.messages[0].content == "Say: hello"
    drop, _ = drive(ask("{prompt: '{% if text %}{{ text }}{% endif %}'}"), table)
    assert isinstance(drop, Drop) and drop.reason == "empty_prompt"
    drop, _ = drive(ask("{prompt: '{{ 1 / 0 }}'}"), table)
    assert isinstance(drop, Drop) and drop.message == "bad_prompt: ZeroDivisionError: division by zero"


def test_a_file_holds_blocks_by_chat_role_and_its_text_is_the_setting(tmp_path: Path) -> None:
    text = "{# mine #}\n{% block system %}Short.{% endblock %}\n{% block user %}{{ text }}{% endblock %}\n"
    text += "{% block assistant %}So:{% endblock %}{% block user_again %}More{% endblock %}"
    (tmp_path / "qa.jinja").write_text(text)
    stage = Ask.model_validate({"prompt": "qa.jinja"}, context={"folder": tmp_path})
    assert stage.prompt == text and Ask.model_validate(stage.model_dump(mode="json")) == stage
    assert stage == ask(yaml.safe_dump({"prompt": str(tmp_path / "qa.jinja")}))
    _, [request] = drive(stage, TABLE, "x")
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "user"]
    (tmp_path / "qa.jinja").write_text("one\n{% if %}")
    with pytest.raises(ValidationError, match=r"qa\.jinja, line 2: Expected an expression"):
        Ask.model_validate({"prompt": "qa.jinja"}, context={"folder": tmp_path})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{prompt: 'a {% for x %}'}", "line 1: "),
        ("{prompt: nowhere.jinja}", "nowhere.jinja cannot be read"),
        ("{prompt: '{{ a | uper }}'}", "No filter named 'uper'"),
        ("{prompt: '{{ [1, 2] | random }}'}", "No filter named 'random'"),
        ("{prompt: '{% include \"x\" %}'}", "it cannot load others"),
        ("{prompt: '{% block teacher %}x{% endblock %}'}", "the block teacher has no chat role"),
        ("{prompt: 'Hi {% block user %}x{% endblock %}'}", "outside of the blocks"),
        ("{prompt: '{% block system %}x{% endblock %}', system: y}", "the prompt has a system block of its own"),
        ("{answer: {a: txt}}", "a: 'txt' is no form of a value; did you mean 'text'"),
        ("{answer: {a: {b: text}}}", "a: .*without a type makes no column"),
        ("{answer: {a: [yes, no]}}", "in quotes"),
        ("{answer: {a: {type: strin}}}", "a: the type 'strin'"),
        ("{answer: {a: {type: string, maxLength: x}}}", "a.maxLength: this is no JSON schema"),
        ("{answer: {a: {type: string, pattern: '('}}}", r"a: '\(' is no regular expression"),
        ("{answer: {a: {type: array}}}", "a: a list says what is in it"),
        ("{answer: {a: {type: [string, integer]}}}", "a: the type"),
        ("{answer: {o: {type: object, properties: {x: text}, required: []}}}", "o: every field is required"),
        ("{answer: {id: text}}", "'id' is a name that every row has already"),
        ("{answer: text}", "names no fields"),
        ("{answer: {a: text}, check: {b: {min_length: 1}}}", "check.b: the answer has no field 'b'"),
        ("{answer: {a: text}, check: {a: {pattern: '['}}}", "check.a"),
        ("{answer: {a: integer}, check: {a: {min_length: 2}}}", "check.a: int64 has no length"),
        ("{answer: {a: text}, check: {a: 'a ='}}", "is no expression"),
        ("{prompts: {a: x, b: y}, keep: [c]}", "keep: there is no prompt 'c'"),
        ("{prompts: {a: x}, prompt: y}", "beside them"),
    ],
)
def test_bad_settings_are_named(settings: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ask(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{prompt: 'Of\n\n{{ txet }}'}", "ask: prompt, line 2: 'txet' is no column; did you mean 'text'"),
        ("{prompt: '{{ row.yaer }}'}", "'yaer' is no column; did you mean 'year'"),
        ("{prompt: '{{ text }}', system: '{{ tag }}'}", "ask: system, line 1: 'tag' is no column; did you mean 'tags'"),
        ("{prompt: '{{ text }}', answer: {tags: text}}", "the rows have a column 'tags' already"),
        (
            "{prompt: '{{ text }}', answer: {a: text}, check: {a: 'a in txt'}}",
            "ask: check.a, line 1: 'txt' is no column",
        ),
        ("{prompts: {a: '{{ b }}', b: x}}", "the prompt 'a': prompt, line 1: 'b' is no column"),
        (
            "{prompts: {a: {prompt: x, answer: {title: text}}, b: '{{ a.titel }}'}}",
            "'a' has no 'titel'; did you mean 'title'",
        ),
    ],
)
def test_a_name_that_is_no_column_is_an_error_before_anything_is_asked(settings: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(settings).check_columns(TABLE.schema)


def test_loop_variables_and_jinjas_own_names_are_no_columns() -> None:
    stage = ask(
        "{prompt: '{% set n = 2 %}{% for t in tags %}{{ t }}{{ loop.index + n }}{% endfor %}{{ range(3) | list }}'}"
    )
    stage.check_columns(TABLE.schema)
    assert drive(stage, TABLE, "x")[1][0].messages[0].content == "old3stone4[0, 1, 2]"
    table = pa.table({"id": ["a"], "range": ["wide"], "my text": ["spaced"]})
    _, [request] = drive(ask("{prompt: '{{ range }} {{ row[\"my text\"] }} {{ row | length }}'}"), table, "x")
    assert request.messages[0].content == "wide spaced 3"


def test_the_key_has_what_decides_and_nothing_else() -> None:
    def key(settings: str) -> str:
        return ask(settings).key({"teacher": "t"})

    first = key("{prompt: x, answer: {a: text, b: text}}")
    assert first == key("{prompt: x, answer: {a: {type: string}, b: string}, column: other}")
    assert first != key("{prompt: x, answer: {b: text, a: text}}")  # a model writes them in this order
    assert key("{prompts: {a: x, b: y}}") != key("{prompts: {b: y, a: x}}")
    assert key("{prompt: x, column: a}") != key("{prompt: x, column: b}")


def test_a_worker_asks_keeps_ids_carries_columns_and_remembers(
    store: Store, server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pa.table({"id": [f"r{n}" for n in range(20)], "text": [f"t{n % 2}" for n in range(20)], "own": range(20)})
    source = ingest_memory(store, table.append_column("gap", pa.nulls(20, pa.string())), 8, "run")
    stage = ask(
        "{prompt: 'About {{ text }}', answer: {q: text, s: {type: integer, minimum: 0}}, samples: 2, shared: false}"
    )
    engines = {"teacher": EngineSettings.model_validate(server.spec)}
    planned = Planned(stage, engines, source.key, carries=("text", "own", "gap"))
    null = Planned(ask("{prompt: '{{ gap }}'}"), engines, source.key)
    pool = InProcess(store, "run", threading.Event())
    try:
        manifest = run_stage(store, planned, source, pool, "run")
        assert run_stage(store, null, source, pool, "run").dropped == {"null_column": 20}
    finally:
        pool.close()
    made = read_artifact(store, manifest)
    assert made["id"].equals(table["id"]) and made["own"].equals(table["own"])
    assert set(made.column_names) == {"id", "parent_id", "q", "s", "text", "own", "gap", CALLS}
    assert {len(texts) for texts in made["q"].to_pylist()} == {2} and server.stats()["total"] == 40
    assert len({tuple(texts) for texts in made["q"].to_pylist()}) == 20
    rebuild(store)
    steps = lineage_of(store, "r3").steps
    assert [step.manifest.stage for step in steps] == ["rows", "ask"] and len(steps[1].calls) == 2
    assert prompt_texts(steps[1].manifest.identity) == {"ask/q+s": "About {{ text }}"}
    show_lineage(store, "r3")
    assert "ask/q+s@" in (shown := capsys.readouterr().out) and "ask/q+s: About {{ text }}" in shown
