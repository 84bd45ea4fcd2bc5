"""Tool calls: asking a model for one, on any engine, and writing it into a dialogue, in OpenAI's form.

The model answers with one JSON object, by schema: {"turn": {"tool": NAME, "arguments": {...}}} or {"turn": {"say":
TEXT}}. That works on every engine, even for models that were not trained on tool calls. What a model calls is checked
against the tool's schema, because engines enforce only parts of one.
"""

from typing import Any, NamedTuple

import orjson

from synthmill.schemas.applications import Function, ToolCall, Turn
from synthmill.schemas.errors import Drop
from synthmill.schemas.texts import object_in
from synthmill.tasks.texts.breaches import BREACH, breach


class Act(NamedTuple):
    """An agent's turn: what it says, or the tool it calls with its arguments (a JSON object as text)."""

    text: str
    tool: str = ""
    arguments: str = ""


def functions_of(tools: str) -> list[dict[str, Any]]:
    """The `function` parts of a JSON list of OpenAI tool definitions."""
    return [tool["function"] for tool in (orjson.loads(tools) if tools else [])]


def turn_schema(tools: str) -> dict[str, Any] | None:
    """The JSON schema of a turn; None where there are no tools and a turn is plain text."""
    if not tools:
        return None

    def form(**properties: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    calls = [
        form(tool={"type": "string", "enum": [function["name"]]}, arguments=function["parameters"])
        for function in functions_of(tools)
    ]
    return form(turn={"anyOf": [*calls, form(say={"type": "string", "minLength": 1})]})


def read_turn(text: str, tools: str) -> Act:
    """Parse a model's answer to `turn_schema`; raises Drop for what is no turn: malformed_turn, or breached_schema for
    arguments that break the tool's schema, which engines enforce in part only.
    """
    if not tools:
        return Act(text.strip())
    try:
        turn = (object_in(text) or {})["turn"]
        if "say" in turn:
            return Act(str(turn["say"]).strip())
        parameters = {function["name"]: function["parameters"] for function in functions_of(tools)}
        if turn["tool"] not in parameters:
            raise Drop(f"malformed_turn: there is no tool {turn['tool']!r:.40}")
        if not isinstance(turn["arguments"], dict):
            raise Drop(f"malformed_turn: the arguments of {turn['tool']} are no object")
        check_call(str(turn["tool"]), turn["arguments"], tools)
        return Act("", str(turn["tool"]), orjson.dumps(turn["arguments"]).decode())
    except (ValueError, KeyError, TypeError) as error:
        raise Drop(f"malformed_turn: {type(error).__name__}: {' '.join(text.split())[:100]!r}") from error


def check_call(name: str, arguments: Any, tools: str) -> None:
    """Raises Drop for a tool that there is not, and for arguments that its schema does not allow."""
    names = [function["name"] for function in functions_of(tools)]
    if name not in names:
        raise Drop(f"{BREACH}: there is no tool {name!r:.40}; the tools are {', '.join(names)}")
    if fault := breach(arguments, next(each["parameters"] for each in functions_of(tools) if each["name"] == name)):
        raise Drop(f"{BREACH}: the arguments of {name} do not fit: {fault}")


def result_head(tool: str) -> str:
    """What stands before a tool's result, where it is told in a user turn."""
    return f"The tool {tool} returned:\n"


def as_text(act: Act) -> str:
    """A turn as one text: what is said, or the call as a JSON object."""
    return f'{{"tool": "{act.tool}", "arguments": {act.arguments}}}' if act.tool else act.text


def agent_turn(act: Act, place: int, reasoning: str = "") -> Turn:
    """The agent's turn at `place` of a dialogue, as trainers read it."""
    if not act.tool:
        return Turn(role="assistant", content=act.text, reasoning=reasoning or None)
    call = ToolCall(id=f"call_{place}", function=Function(name=act.tool, arguments=act.arguments))
    return Turn(role="assistant", content=act.text, tool_calls=(call,), reasoning=reasoning or None)


def reply_turn(text: str, act: Act, place: int) -> Turn:
    """The reply to the agent's turn at `place`."""
    if not act.tool:
        return Turn(role="user", content=text)
    return Turn(role="tool", content=text, tool_call_id=f"call_{place}")
