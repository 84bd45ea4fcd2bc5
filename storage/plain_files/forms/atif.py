"""ATIF, the Agent Trajectory Interchange Format of Harbor and Terminal-Bench: `schema_version`, `agent` and `steps`.

A step of the agent is an answer with its calls and thinking; its observation's results are the tools' messages, and,
where no call is named, what the user (the environment) says next. Source: Harbor's RFC 0001, versions 1.0 to 1.7.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.schemas.messages import text_in
from synthmill.storage.plain_files.chat_messages import Message, call_of, list_in, tools_of, with_ids
from synthmill.storage.plain_files.chat_rows import ChatRow
from synthmill.storage.plain_files.forms import Form

ROLES = {"system": "system", "user": "user", "agent": "assistant"}
READ = {"step_id", "source", "message", "reasoning_content", "tool_calls", "observation"}


def read(fields: Mapping[str, Any], padded: bool) -> ChatRow:
    lost: dict[str, None] = {}
    messages: list[Message] = []
    for step in list_in(fields["steps"], "steps"):
        if not isinstance(step, Mapping) or step.get("source") not in ROLES:
            raise Drop(f"bad_steps: a step is {step!r:.60}; expected a source of {', '.join(ROLES)}")
        lost.update(dict.fromkeys(f"{name} of steps" for name in sorted(step) if step[name] and name not in READ))
        messages += messages_of(step, lost, padded)
    agent = fields.get("agent")
    agent = agent if isinstance(agent, Mapping) else {}
    lost.update(dict.fromkeys(f"{name} of the agent" for name in sorted(agent) if name != "tool_definitions"))
    tools = tools_of(agent.get("tool_definitions"), padded=padded)
    return ChatRow("conversation", with_ids(messages), tools=tools, lost=tuple(lost))


def messages_of(step: Mapping[str, Any], lost: dict[str, None], padded: bool) -> list[Message]:
    """A step's message, and what it observed. Raises Drop."""
    message: Message = {"role": ROLES[step["source"]], "content": text_in(step.get("message")) or ""}
    if thoughts := step.get("reasoning_content"):
        message["reasoning_content"] = thoughts
    if calls := step.get("tool_calls"):
        message["tool_calls"] = [call_in(call, padded) for call in calls]
    names = {call["id"] for call in message.get("tool_calls", ())}
    messages = [message]
    for result in (step.get("observation") or {}).get("results") or ():
        lost.update({"trajectories of subagents": None} if result.get("subagent_trajectory_ref") else {})
        text, call = text_in(result.get("content")), result.get("source_call_id")
        if call in names:
            messages.append({"role": "tool", "content": text or "", "tool_call_id": call})
        elif text:
            messages.append({"role": "user", "content": text})
    return messages


def call_in(call: Any, padded: bool) -> dict[str, Any]:
    """A call of a step: {tool_call_id, function_name, arguments}. Raises Drop."""
    if not isinstance(call, Mapping):
        raise Drop(f"bad_call: a call is {call!r:.60}; expected {{tool_call_id, function_name, arguments}}")
    plain = {"name": call.get("function_name"), "arguments": call.get("arguments"), "id": call.get("tool_call_id")}
    return call_of(plain, padded)


FORM = Form(
    "atif",
    (frozenset({"schema_version", "steps"}),),
    frozenset({"schema_version", "agent", "steps"}),
    read,
)
