"""Native tool calls beside the form by schema: what is sent, what is read, and that the dialogues are the same."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synthmill.schemas.calls import Completion, Message, Request, Sampling, ToolMessage, ask_hash
from synthmill.schemas.dialogue_settings import DialogueSettings
from synthmill.schemas.dialogues import Dialogue, PseudoInput, SingleTurn
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.calls import CallStore
from synthmill.storage.plain_files.applications import read_application
from synthmill.tasks.engines.engine import make_engine
from synthmill.tasks.engines.wire_messages import chat_messages
from synthmill.tasks.engines.worlds import load_world
from synthmill.tasks.generators.dialogues.role_swap import RoleSwap
from synthmill.tasks.generators.dialogues.single_turn import Outputs
from synthmill.tasks.generators.dialogues.talk import END
from synthmill.tasks.running.driver import Driver
from tests.tasks.test_genpi import EXAMPLES, ORDERS, SHELL, opening, play, scripted
from tests.tasks.test_providers import RestServer, rest_server
from tests.tasks.test_role_swap import call, say

NATIVE = RoleSwap(max_turns=5, tool_calls="native")


def called(name: str, server_id: str = "chatcmpl-tool-1", text: str = "", **arguments: Any) -> Completion:
    function = {"name": name, "arguments": json.dumps(arguments)}
    tool_call = {"id": server_id, "type": "function", "function": function}
    return Completion(text=text, finish_reason="tool_calls", completion_tokens=2, tool_calls=[tool_call])


ENVIRONMENT = ['{"status": "shipped"}', "Thanks!", END]


def talk(recipe: RoleSwap, asked: list[Request], *teacher: Any, app: Any = ORDERS) -> Dialogue:
    dialogue = play(recipe, opening(app), scripted(teacher=[*teacher], environment=ENVIRONMENT), asked)
    assert isinstance(dialogue, Dialogue)
    return dialogue


def test_questions_without_tools_are_what_they_were() -> None:
    request = Request(role="x", messages=(Message(role="user", content="hi"),), sampling=Sampling(seed=3))
    assert request.question_json() == (
        b'{"choice":null,"messages":[["user","hi"]],"sampling":{"logprobs":0,"max_tokens":1024,"seed":3,"stop":[],'
        b'"temperature":1.0,"top_p":0.9},"schema":null}'
    )
    for recipe in (RoleSwap(), Outputs()):
        assert "tool_calls" not in recipe.model_dump(mode="json")


def test_ids_and_signatures_are_sent_and_in_no_key() -> None:
    def question(server_id: str, **extra: Any) -> Request:
        function = {"name": "find", "arguments": "{}"}
        calls = ({"id": server_id, "type": "function", "function": function, **extra},)
        turns = (
            Message(role="user", content="hi"),
            ToolMessage(role="assistant", content="", tool_calls=calls),
            ToolMessage(role="tool", content="7", tool_call_id=server_id),
        )
        return Request(role="x", messages=turns, tools=({"type": "function", "function": {"name": "find"}},))

    one, other = question("a1"), question("b2", index=0, extra_content={"google": {"thought_signature": "c2ln"}})
    assert ask_hash(one.question_json()) == ask_hash(other.question_json())
    [_, calling, result] = chat_messages(other.messages)
    assert calling["content"] is None
    assert calling["tool_calls"][0].keys() == {"id", "type", "function", "extra_content"}
    assert result == {"role": "tool", "content": "7", "tool_call_id": "b2"}


def test_the_dialogue_is_the_same_in_both_forms() -> None:
    by_schema: list[Request] = []
    native: list[Request] = []
    words = ("It is shipped.", "Goodbye!")
    one = talk(RoleSwap(max_turns=5), by_schema, call("find_order", order_id="17"), *map(say, words))
    other = talk(NATIVE, native, called("find_order", order_id="17"), *words)
    assert [turn.model_dump() for turn in one.turns] == [turn.model_dump() for turn in other.turns]
    assert one.end_reason == other.end_reason
    told = [next(r.messages[-1].content for r in asked if r.role == "environment") for asked in (by_schema, native)]
    assert told[0].replace(" ", "") == told[1].replace(" ", "")  # the environment reads the same call
    first, second = [request for request in native if request.role == "teacher"][:2]
    assert [tool["function"]["name"] for tool in first.tools] == ["find_order", "cancel_order", "refund_order"]
    assert first.schema_ is None
    assert "JSON object" not in first.messages[0].content  # the tools are not told in words
    prompt = chat_messages(first.messages)
    assert prompt[4]["tool_calls"][0]["function"]["name"] == "find_order"  # the prompt's own call
    assert prompt[5]["role"] == "tool"
    assert prompt[5]["content"].startswith('{"order_id": "2210"')
    assert prompt[6] == {"role": "assistant", "content": "Your spade is on its way to you. Is there anything else?"}
    calling, result = chat_messages(second.messages)[-2:]
    assert calling["tool_calls"][0]["id"] == result["tool_call_id"] == "chatcmpl-tool-1"
    assert result["content"] == '{"status": "shipped"}'


def test_an_application_without_tools_is_asked_the_same() -> None:
    questions: list[list[bytes]] = []
    for recipe in (RoleSwap(max_turns=5), NATIVE):
        asked: list[Request] = []
        talk(recipe, asked, "Run: ls", "Answer: 3", app=SHELL)
        questions.append([request.question_json() for request in asked])
    assert questions[0] == questions[1]


@pytest.mark.parametrize(
    ("recipe", "bad", "good", "fault"),
    [
        (NATIVE, called("find_order"), called("find_order", order_id="7"), "'order_id' is a required property"),
        (NATIVE, called("find", order_id="7"), called("find_order", order_id="7"), "there is no tool 'find'"),
        (NATIVE, called("find_order", order_id=7), called("find_order", order_id="7"), "order_id breaks type"),
        (
            RoleSwap(max_turns=5),
            call("find_order", order_id="123456789"),
            call("find_order", order_id="7"),
            "order_id breaks maxLength",
        ),
    ],
)
def test_a_breach_is_asked_for_again_with_its_fault_named(recipe: RoleSwap, bad: Any, good: Any, fault: str) -> None:
    asked: list[Request] = []
    bye = "Goodbye!" if recipe.tool_calls == "native" else say("Goodbye!")
    dialogue = talk(recipe, asked, bad, good, bye)
    first, second = [request for request in asked if request.role == "teacher"][:2]
    assert fault in second.messages[-1].content
    assert second.messages[-1].content.startswith(first.messages[-1].content)
    assert (second.sample, dialogue.asked_again) == (first.sample + 1, 1)
    assert json.loads(dialogue.turns[0].tool_calls[0].function.arguments) == {"order_id": "7"}


def test_arguments_that_are_no_json_never_become_a_turn() -> None:
    broken = called("find_order")._replace(
        tool_calls=[{"id": "1", "type": "function", "function": {"name": "find_order", "arguments": '{"order'}}]
    )
    with pytest.raises(Drop, match="breached_schema: the arguments of find_order are no JSON"):
        talk(NATIVE, [], broken)


def test_words_before_a_call_stay_and_only_the_first_call_counts() -> None:
    two = called("find_order", text="One moment.", order_id="7")
    two = two._replace(tool_calls=[*(two.tool_calls or ()), {"id": "2", "function": {"name": "x", "arguments": "{}"}}])
    dialogue = talk(NATIVE, [], two, "Goodbye!")
    assert (dialogue.turns[0].content, len(dialogue.turns[0].tool_calls)) == ("One moment.", 1)


def test_first_answers_call_tools_natively() -> None:
    row = PseudoInput(id="i", application=ORDERS, pseudo_input="Where is order 7?")
    asked: list[Request] = []
    answers = scripted(student=["I do not know."], teacher=[called("find_order"), called("find_order", order_id="7")])
    made = play(Outputs(tool_calls="native"), row, answers, asked)
    assert isinstance(made, SingleTurn)
    assert made.teacher_calls_tool
    assert made.teacher_output_single == '{"tool": "find_order", "arguments": {"order_id":"7"}}'
    assert "'order_id' is a required property" in asked[-1].messages[-1].content


def test_an_engine_without_a_server_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    from synthmill.flows.methods.dialogues import check_tool_calls

    settings = DialogueSettings(applications=("x.yaml",), tool_calls="native")
    with pytest.raises(InputError, match="schema works on every engine"):
        check_tool_calls(settings, [ORDERS])
    check_tool_calls(settings, [SHELL])


# On a local server, which speaks both forms and is strict about the native one


class Desk(RestServer):
    """An agent that looks its order up, then says goodbye, in the form that it is asked in; a shell user beside."""

    def __init__(self) -> None:
        super().__init__(self.reply)
        self.calls = 0

    def reply(self, body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]]:
        if fault := fault_in(body):
            return 400, {"error": {"message": fault}}
        last = body["messages"][-1]
        looked_up = last["role"] == "tool" or last["content"].startswith("The tool find_order returned:")
        if not (body.get("tools") or body.get("response_format")):  # the shell's agent, who has no tools
            return 200, said("Answer: 3" if len(body["messages"]) > 9 else "Run: ls /home")
        if looked_up:
            return 200, said("It is known. Goodbye!" if body.get("tools") else say("It is known. Goodbye!"))
        if body.get("tools"):
            self.calls += 1
            function = {"name": "find_order", "arguments": '{"order_id": "1"}'}
            tool_call = {"id": f"chatcmpl-tool-{self.calls}", "type": "function", "function": function}
            return 200, said(None, "tool_calls", tool_calls=[tool_call])
        return 200, said(call("find_order", order_id="1"))


def said(content: str | None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content, **more}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}


def fault_in(body: dict[str, Any]) -> str:
    """What a strict server refuses: a result without its call, a call without its result."""
    open_ids: set[str] = set()
    for message in body["messages"]:
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_ids:
                return f"no call has the id {message['tool_call_id']}"
            open_ids.remove(message["tool_call_id"])
        elif open_ids:
            return f"the calls {sorted(open_ids)} have no result"
        open_ids |= {tool_call["id"] for tool_call in message.get("tool_calls", ())}
    return f"the calls {sorted(open_ids)} have no result" if open_ids else ""


@pytest.fixture
def desk() -> Iterator[RestServer]:
    agent = Desk()
    with rest_server(agent.reply) as server:
        yield server


@pytest.mark.parametrize(("file", "turns"), [("orders.yaml", 3), ("shell.yaml", 3)])
def test_both_forms_on_a_server_make_the_examples_dialogues(
    file: str, turns: int, desk: RestServer, tmp_path: Path
) -> None:
    app, worlds = read_application(EXAMPLES / file)
    roles = ("author", "teacher", "environment", "judge")

    async def run(form: Any) -> Any:
        chat = make_engine(EngineSettings.model_validate(f"openai:agent@{desk.url}/v1"))
        world = make_engine(EngineSettings(kind="worlds", model="worlds", options=worlds))
        calls = CallStore(tmp_path / form)
        for engine in (chat, world):
            await engine.open()
        recipe = RoleSwap(max_turns=4, environment="real", planner="never", tool_calls=form)
        [(name, place)] = worlds.items()
        row = opening(app, facts=load_world(place, name).draw(1, "task"))
        part = await Driver(recipe, {**dict.fromkeys(roles, chat), "world": world}, calls).run([row])
        calls.close()
        for engine in (chat, world):
            await engine.close()
        return part

    by_schema, native = (asyncio.run(run(form)) for form in ("schema", "native"))
    assert not [*by_schema.dropped, *native.dropped]
    [one], [other] = by_schema.rows, native.rows
    assert len(one.turns) >= turns
    assert [turn.model_dump() for turn in one.turns] == [turn.model_dump() for turn in other.turns]
    assert one.end_reason == other.end_reason == "agent"
