"""The form of an answer: how it is asked for, what a server's refusal teaches, and what is checked here."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from synthmill.schemas.calls import Completion, Message, Request
from synthmill.schemas.errors import Drop, EngineLearned, EngineRefused
from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.texts import object_in
from synthmill.storage.artifacts import Store
from synthmill.storage.learned import learn
from synthmill.tasks.engines.engine import engine_name, resolve
from synthmill.tasks.engines.structures import PLAIN, PORTABLE, STRICT, closed, rewritten, without_nulls
from synthmill.tasks.generators.dialogues.tools import read_turn
from synthmill.tasks.recipe import ask_until, read_json
from tests.odd_server import odd_server, refused, said
from tests.tasks.test_engines import SCHEMA, ask, asked, one

GOOD = '{"a": "x", "b": 3}'
OPTIONAL = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "size": {"type": "integer", "minimum": 1},
        "kind": {"type": ["string", "null"]},
        "parts": {
            "type": "array",
            "uniqueItems": True,
            "items": {"type": "object", "properties": {"n": {"type": "number"}}},
        },
    },
    "required": ["name"],
}


def test_a_closed_schema_has_all_fields_and_no_others() -> None:
    form = rewritten(OPTIONAL, STRICT)
    assert rewritten(OPTIONAL, PLAIN) is OPTIONAL
    assert (form["required"], form["additionalProperties"]) == (["name", "size", "kind", "parts"], False)
    assert form["properties"]["name"] == OPTIONAL["properties"]["name"]
    assert form["properties"]["size"] == {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}
    assert form["properties"]["kind"] == {"type": ["string", "null"]}
    [parts, _] = form["properties"]["parts"]["anyOf"]
    assert parts["items"]["required"] == ["n"] and parts["uniqueItems"]
    assert "maxLength" not in json.dumps(rewritten(OPTIONAL, PORTABLE))
    assert "uniqueItems" not in json.dumps(rewritten(OPTIONAL, PORTABLE))


FIELDS = st.fixed_dictionaries(
    {"name": st.text(max_size=9)},
    optional={
        "size": st.integers(1, 9),
        "kind": st.none() | st.text(max_size=3),
        "parts": st.lists(st.fixed_dictionaries({}, optional={"n": st.integers(0, 9)}), max_size=1),
    },
)


def filled(value: Any, form: Any) -> Any:
    """A value with null for every field that it lacks."""
    if isinstance(value, list):
        return [filled(member, form["items"]) for member in value]
    if not isinstance(value, dict):
        return value
    return {name: filled(value[name], field) if name in value else None for name, field in form["properties"].items()}


@given(FIELDS)
def test_an_answer_to_the_closed_schema_is_one_to_the_schema_itself(value: dict[str, Any]) -> None:
    sent = filled(value, OPTIONAL)
    for portable in (False, True):
        assert Draft202012Validator(closed(OPTIONAL, portable=portable)).is_valid(sent)
    read = json.loads(without_nulls(json.dumps(sent), OPTIONAL))
    assert Draft202012Validator(OPTIONAL).is_valid(read)
    assert {**read, "kind": None} == {**value, "kind": None}


def test_branches_of_tools_lose_their_own_nulls_only() -> None:
    optional = {
        "type": "object",
        "properties": {"path": {"type": "string"}, "all": {"type": "boolean"}},
        "required": ["path"],
    }
    say = {"type": "object", "properties": {"say": {"type": "string"}}, "required": ["say"]}
    call = {
        "type": "object",
        "properties": {"tool": {"type": "string"}, "arguments": optional},
        "required": ["tool", "arguments"],
    }
    turn = {"type": "object", "properties": {"turn": {"anyOf": [call, say]}}, "required": ["turn"]}
    text = '{"turn": {"tool": "ls", "arguments": {"path": "/", "all": null}}}'
    assert json.loads(without_nulls(text, turn)) == {"turn": {"tool": "ls", "arguments": {"path": "/"}}}
    assert without_nulls("no json", turn) == "no json"
    assert without_nulls(GOOD, SCHEMA) == GOOD


def spec(server: Any, **settings: Any) -> dict[str, Any]:
    return {"spec": server.spec, **settings}


@pytest.mark.parametrize(
    ("structure", "text"),
    [("json_schema", GOOD), ("json_object", GOOD), ("none", f"Here it is:\n```json\n{GOOD}\n```\nGood?")],
)
def test_a_schema_is_asked_for_in_each_way(structure: str, text: str) -> None:
    with odd_server(lambda body: said(text)) as server:
        answer = one(spec(server, structure=structure), asked(schema_=SCHEMA))
        assert read_json(answer, "bad") == {"a": "x", "b": 3} and answer.text == text
        choice = one(spec(server, structure=structure), asked(choice=("yes", "no")))
        assert choice.text == text  # neither: the recipe judges
        [body, _] = server.bodies
    told = body["messages"][-1]["content"]
    assert body.get("response_format", {}).get("type") == (None if structure == "none" else structure)
    assert told.startswith("hello") and (json.dumps(SCHEMA, separators=(",", ":")) in told) == (
        structure != "json_schema"
    )


def test_a_forced_call_gives_its_arguments() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "answer", "arguments": GOOD}}
    with odd_server(lambda body: said(None, "tool_calls", tool_calls=[call])) as server:
        answer = one(spec(server, structure="tool"), asked(schema_=SCHEMA))
        assert (answer.text, answer.tool_calls, answer.finish_reason) == (GOOD, None, "tool_calls")
        [body] = server.bodies
        assert body["tools"][0]["function"]["parameters"] == SCHEMA
        assert body["tool_choice"] == {"type": "function", "function": {"name": "answer"}}
        assert one(server.spec, asked()).tool_calls == [call]


def test_choices_are_read_from_any_wrapping() -> None:
    for text, picked in (
        ('{"choice": "yes"}', "yes"),
        ('Well: {"choice": "yes"}.', "yes"),
        ('{"choice": "oh"} no', '{"choice": "oh"} no'),
    ):
        with odd_server(lambda body, text=text: said(text)) as server:
            assert one(spec(server, structure="none"), asked(choice=("yes", "no"))).text == picked


def test_options_that_name_a_form_of_response_are_obeyed() -> None:
    with odd_server(lambda body: said(GOOD)) as server:
        for response_format, is_told in (({"type": "json_object"}, True), (None, True), ({"type": "text"}, False)):
            assert one(spec(server, options={"response_format": response_format}), asked(schema_=SCHEMA)).text == GOOD
            body = server.bodies[-1]
            assert body.get("response_format") == response_format
            assert ("JSON schema" in body["messages"][-1]["content"]) == is_told


def test_the_strict_form_is_learned_for_the_schema_that_needs_it() -> None:
    def answer(body: dict[str, Any]) -> Any:
        schema = body["response_format"]["json_schema"]["schema"]
        if schema["required"] != list(schema["properties"]):
            return refused("Invalid schema for response_format 'answer': 'required' must have every key")
        return said('{"name": "n", "size": null, "kind": null, "parts": null}')

    with odd_server(answer) as server:
        answers = ask(server.spec, *(asked(f"{n}", schema_=OPTIONAL) for n in range(3)))
        assert [answer[0].text for answer in answers] == ['{"name":"n","kind":null}'] * 3


def test_a_schema_that_no_grammar_takes_is_sent_without_its_rare_words() -> None:
    def answer(body: dict[str, Any]) -> Any:
        rare = "uniqueItems" in json.dumps(body["response_format"])
        return refused("The provided JSON schema contains features not supported by xgrammar.") if rare else said(GOOD)

    with odd_server(answer) as server:
        assert one(server.spec, asked(schema_=OPTIONAL)).text == GOOD


def test_the_next_way_is_learned_from_a_refusal_and_remembered(store: Store) -> None:
    def answer(body: dict[str, Any]) -> Any:
        form = body.get("response_format", {}).get("type")
        return refused(f"response_format {form} is not supported by this model") if form else said(GOOD)

    def asks(structure: str) -> Any:
        return ask(spec(server, structure=structure), asked(schema_=SCHEMA))[0]

    with odd_server(answer) as server:
        for structure, learned in (("auto", "json_object"), ("auto:json_object", "tool")):
            lesson = asks(structure)
            assert isinstance(lesson, EngineLearned) and f"structure={learned} from now on" in lesson.message
        assert asks("auto:none")[0].text == GOOD
        stopped = asks("json_schema")
        assert (
            type(stopped) is EngineRefused
            and "set engines.ROLE.structure to json_object or tool or none" in stopped.message
        )
        settings = EngineSettings.model_validate(server.spec)
        learn(store, "odd", server.url, {"structure": "auto:tool"})
        known = resolve(settings, store)
        assert known.structure == "auto:tool"
        assert (
            engine_name(known)
            == engine_name(settings.model_copy(update={"structure": "tool"}))
            != engine_name(settings)
        )
        explicit = settings.model_copy(update={"structure": "json_schema"})
        assert resolve(explicit, store).structure == "json_schema" and engine_name(explicit) == engine_name(settings)


def test_tools_that_a_server_ignores_without_a_word_are_left_for_the_prompt() -> None:
    def answer(body: dict[str, Any]) -> Any:
        if "response_format" in body:
            return refused("response_format is not supported by this model")
        return said(GOOD if "JSON schema" in body["messages"][-1]["content"] else "Well, a is x.")

    with odd_server(answer) as server:

        def asks(structure: str) -> Any:
            [result] = ask({"spec": server.spec, "structure": structure}, asked(schema_=SCHEMA))
            return result

        lesson = asks("auto:tool")
        assert isinstance(lesson, EngineLearned) and "takes tools, and calls none" in lesson.message
        assert "structure=none from now on" in lesson.message
        assert asks("auto:none")[0].text == GOOD
        assert asks("tool")[0].text == "Well, a is x."  # said so: the recipe refuses it


def test_an_answer_that_broke_off_or_calls_the_tool_teaches_nothing() -> None:
    def answer(body: dict[str, Any]) -> Any:
        if "cut" in body["messages"][-1]["content"]:
            return said("Well", "length")
        call = {"id": "c", "type": "function", "function": {"name": "answer", "arguments": GOOD}}
        return said(None, tool_calls=[call])

    with odd_server(answer) as server:
        spec = {"spec": server.spec, "structure": "auto:tool", "concurrency": 1}
        cut, whole = ask(spec, asked("cut", schema_=SCHEMA), asked(schema_=SCHEMA))
    assert (cut[0].text, whole[0].text) == ("Well", GOOD)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (GOOD, {"a": "x", "b": 3}),
        (f"```\n{GOOD}\n```", {"a": "x", "b": 3}),
        (f"Sure {{this}}:\n{GOOD}\nand that is {{it}}.", {"a": "x", "b": 3}),
        ('{"a": 1} or better {"a": 1, "b": 2}', {"a": 1, "b": 2}),
        ('{"a": NaN}', None),
        ("[1, 2]", None),
        ("nothing {", None),
        ("", None),
    ],
)
def test_an_object_is_found_in_a_text(text: str, value: Any) -> None:
    assert object_in(text) == value


TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "book",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "seats": {"type": "array", "items": {"type": "integer", "maximum": 40}, "uniqueItems": True},
                        "class": {"type": "string"},
                    },
                    "required": ["seats"],
                    "allOf": [
                        {
                            "if": {"required": ["class"]},
                            "then": {"properties": {"class": {"pattern": "^(first|second)$"}}},
                        }
                    ],
                    "not": {"required": ["driver"]},
                },
            },
        }
    ]
)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"seats": [1, 2]}, ""),
        ({"seats": [1, 2], "class": "first"}, ""),
        ({"seats": [1, 1]}, "seats breaks uniqueItems: true"),
        ({"seats": [41]}, "seats.0 breaks maximum: 40"),
        ({}, "it: 'seats' is a required property"),
        ({"seats": [], "class": "third"}, 'class breaks pattern: "^(first|second)$"'),
        ({"seats": [], "driver": 1}, 'it breaks not: {"required":["driver"]}'),
        ({"seats": ["1"]}, 'seats.0 breaks type: "integer"'),
    ],
)
def test_arguments_of_a_call_are_checked_against_the_tools_schema(arguments: dict[str, Any], fault: str) -> None:
    text = json.dumps({"turn": {"tool": "book", "arguments": arguments}})
    if not fault:
        assert json.loads(read_turn(text, TOOLS).arguments) == arguments
        return
    with pytest.raises(Drop) as drop:
        read_turn(text, TOOLS)
    assert drop.value.message == f"breached_schema: the arguments of book do not fit: {fault}"


def test_an_answer_that_breaks_a_rich_schema_is_asked_for_again_with_its_fault() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "multipleOf": 5}}, "required": ["n"]}
    request = Request(role="r", messages=(Message(role="user", content="a number"),), schema_=schema)
    asking = ask_until(request, 2, lambda completion: read_json(completion, "bad")["n"])
    next(asking)
    [again] = asking.send([Completion('{"n": 7}')])
    assert "n breaks multipleOf: 5" in again.messages[-1].content
    with pytest.raises(StopIteration) as done:
        asking.send([Completion('{"n": 10}')])
    assert done.value.value == 10
