"""Native tool calls: tools are sent as `tools`, calls are read from `tool_calls`, results go back under their ids.

`tools.py` has the other form, JSON by schema, which every engine has. Which one an agent is asked in is the method's
setting `tool_calls`; what comes of it, turns of a dialogue, is the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson

from synthmill.schemas.applications import Turn
from synthmill.schemas.calls import Completion, Message, Request, ToolMessage
from synthmill.schemas.errors import Drop
from synthmill.schemas.texts import loads
from synthmill.tasks.generators.dialogues.tools import Act, check_call, read_turn, result_head
from synthmill.tasks.recipe import retry_request
from synthmill.tasks.texts.breaches import BREACH

ToolCalls = Literal["schema", "native"]
Call = Mapping[str, Any]


def is_schema(form: ToolCalls) -> bool:
    """For `exclude_if`: the form that has always been is in no key."""
    return form == "schema"


def tool_definitions(tools: str) -> tuple[dict[str, Any], ...]:
    """A JSON list of OpenAI tool definitions, as requests hold them."""
    return tuple(orjson.loads(tools)) if tools else ()


def read_call(completion: Completion, tools: str) -> tuple[Act, Call | None]:
    """The agent's turn: its first call, with the words before it, or its words alone. Raises Drop for a call that its
    tool does not take.
    """
    text = completion.text.strip()
    if not completion.tool_calls:
        return Act(text), None
    call = completion.tool_calls[0]
    try:
        name, written = str(call["function"]["name"]), call["function"]["arguments"]
        arguments = loads(written) if isinstance(written, str) and written.strip() else written or {}
    except (KeyError, TypeError) as error:
        raise Drop(f"{BREACH}: a tool call without a function") from error
    except ValueError as error:
        raise Drop(f"{BREACH}: the arguments of {name} are no JSON") from error
    check_call(name, arguments, tools)
    plain = orjson.dumps(arguments).decode()
    call = {**call, "id": str(call.get("id") or ""), "function": {"name": name, "arguments": plain}}
    return Act(text, name, plain), call


def written_turn(act: Act) -> str:
    """A turn as the other form writes it, which is what the environment reads in both."""
    turn = {"tool": act.tool, "arguments": orjson.loads(act.arguments)} if act.tool else {"say": act.text}
    return orjson.dumps({"turn": turn}).decode()


def agent_message(act: Act, call: Call, place: int) -> ToolMessage:
    """The agent's call, as it came, for its own later turns."""
    return ToolMessage(role="assistant", content=act.text, tool_calls=({**call, "id": call["id"] or call_id(place)},))


def call_id(place: int) -> str:
    """An id for a call that has none: nine letters and digits, which is what the strictest servers take."""
    return f"call{place:05d}"


def native_history(turns: Sequence[Turn], tools: str) -> tuple[Message, ...]:
    """A prompt's turns: those that call a tool in the other form become calls, and what follows them their results."""
    messages: list[Message] = []
    for place, turn in enumerate(turns):
        if messages and (call := call_in(messages[-1])):
            text = turn.content.removeprefix(result_head(call["function"]["name"]))
            messages.append(result_message(text, call))
        elif turn.role == "assistant":
            messages.append(prompt_message(turn.content, tools, place))
        else:
            messages.append(Message(role=turn.role, content=turn.content))
    return tuple(messages)


def call_in(message: Message) -> Call | None:
    """The call that a message makes, if it makes one."""
    return message.tool_calls[0] if isinstance(message, ToolMessage) and message.tool_calls else None


def result_message(text: str, call: Call) -> ToolMessage:
    return ToolMessage(role="tool", content=text, tool_call_id=call["id"])


def prompt_message(content: str, tools: str, place: int) -> Message:
    """An agent's turn of a prompt; one that is no turn in JSON is plain words."""
    try:
        act = read_turn(content, tools)
    except Drop:
        return Message(role="assistant", content=content)
    if not act.tool:
        return Message(role="assistant", content=act.text)
    call = {"id": "", "type": "function", "function": {"name": act.tool, "arguments": act.arguments}}
    return agent_message(act, call, place)


def with_fault(request: Request, fault: Drop | None) -> Request:
    """The request again; its last message ends with the fault of the answer before."""
    return retry_request(request, 0, fault)
