"""ATIF, the Agent Trajectory Interchange Format of Harbor and Terminal-Bench: `schema_version`, `agent` and `steps`.

A step of the agent is an answer with its calls and thinking; its observation's results are the tools' messages, and,
where no call is named, what the user (the environment) says next. Source: Harbor's RFC 0001, versions 1.0 to 1.7.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.calls import ChatRole
from synthmill.schemas.errors import Drop
from synthmill.schemas.messages import text_in
from synthmill.storage.plain_files.chat_messages import ChatReader, Message, list_in
from synthmill.storage.plain_files.chat_rows import ChatRow
from synthmill.storage.plain_files.forms import Form

ROLES: Mapping[str, ChatRole] = {"system": "system", "user": "user", "agent": "assistant"}
READ = {"step_id", "source", "message", "reasoning_content", "tool_calls", "observation"}


def read(fields: Mapping[str, Any], reader: ChatReader) -> ChatRow:
    agent = fields.get("agent")
    agent = agent if isinstance(agent, Mapping) else {}
    tools = reader.tools(agent.get("tool_definitions"))
    reader.lost.update({f"{name} of the agent": None for name in sorted(agent) if name != "tool_definitions"})
    messages: list[Message] = []
    for step in list_in(fields["steps"], "steps"):
        if not isinstance(step, Mapping) or step.get("source") not in ROLES:
            raise Drop(f"bad_steps: a step is {step!r:.60}; expected a source of {', '.join(ROLES)}")
        reader.lost.update({f"{name} of steps": None for name in sorted(step) if step[name] and name not in READ})
        messages += messages_of(step, reader)
    return ChatRow("conversation", messages, tools=tools)


def messages_of(step: Mapping[str, Any], reader: ChatReader) -> list[Message]:
    """A step's message, if it says or does anything, and what it observed. Raises Drop."""
    message: Message = {"role": ROLES[step["source"]], "content": text_in(step.get("message")) or ""}
    if thoughts := step.get("reasoning_content"):
        message["reasoning_content"] = thoughts
    if calls := step.get("tool_calls"):
        message["tool_calls"] = [reader.call(plain_call(call)) for call in calls]
    messages = [message] if message["content"] or len(message) > 2 else []
    ids = {call["id"] for call in message.get("tool_calls", ())}
    for result in (step.get("observation") or {}).get("results") or ():
        if result.get("subagent_trajectory_ref"):
            reader.lost["trajectories of subagents"] = None
        text, call = text_in(result.get("content")) or "", result.get("source_call_id")
        if call in ids:
            messages.append({"role": "tool", "content": text, "tool_call_id": call})
        elif text:
            messages.append({"role": "user", "content": text})
    return messages


def plain_call(call: Any) -> dict[str, Any]:
    """A call of a step, {tool_call_id, function_name, arguments}, as others name its fields. Raises Drop."""
    if not isinstance(call, Mapping):
        raise Drop(f"bad_call: a call is {call!r:.60}; expected {{tool_call_id, function_name, arguments}}")
    return {"name": call.get("function_name"), "arguments": call.get("arguments"), "id": call.get("tool_call_id")}


FORM = Form("atif", (frozenset({"schema_version", "steps"}),), frozenset({"schema_version", "agent", "steps"}), read)
