"""A chat as what is said in it, whatever form it came in: the one measure by which rows and readers are compared.

A saying is (who, text): system, user, assistant, thinking, result; or ("call", JSON of name and arguments) and
("tools", JSON of one definition).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Saying = tuple[str, str]

TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|(?=<\|im_start\|>)|\Z)", re.DOTALL)
TOOLS = re.compile(r"<tools>\n(.*?)\n</tools>", re.DOTALL)
CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)
RESULT = re.compile(r"<tool_response>\n(.*?)\n</tool_response>", re.DOTALL)
THINKING = re.compile(r"<think>\n?(.*?)\n?</think>\s*", re.DOTALL)
TOOLS_HEAD = re.compile(r"\s*# Tools\n.*\Z", re.DOTALL)


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def of_messages(messages: Sequence[Mapping[str, Any]]) -> Iterator[Saying]:
    """What our rows say: messages with calls, whose arguments are JSON texts."""
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if message.get("reasoning_content"):
            yield "thinking", message["reasoning_content"].strip()
        if role == "tool":
            yield "result", content.strip()
        elif content:
            yield role, content.strip()
        for call in message.get("tool_calls") or []:
            function = call["function"]
            arguments = function["arguments"]
            parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
            yield "call", as_json({"name": function["name"], "arguments": parsed})


def of_tools(tools: str | None) -> list[Saying]:
    return [("tools", as_json(tool)) for tool in json.loads(tools or "[]")]


def of_text(text: str, role: str = "") -> Iterator[Saying]:
    """What a decoded chat says. role: whose text it is, where its turn's beginning is not part of it."""
    if role and not text.startswith("<|im_start|>"):
        text = f"<|im_start|>{role}\n{text}"
    text = text.replace("<|endoftext|>", "")
    for who, said in TURN.findall(text):
        yield from of_turn(who, said)


def of_turn(who: str, said: str) -> Iterator[Saying]:
    if who == "system":
        for block in TOOLS.findall(said):
            yield from (("tools", as_json(json.loads(line))) for line in block.splitlines() if line.strip())
        if TOOLS.search(said):
            said = TOOLS_HEAD.sub("", "\n" + said)
    results = RESULT.findall(said) if who in ("user", "tool") else []
    calls = CALL.findall(said) if who == "assistant" else []
    thoughts = THINKING.findall(said) if who == "assistant" else []
    if who == "assistant":
        said = CALL.sub("", THINKING.sub("", said))
    yield from (("thinking", thought.strip()) for thought in thoughts if thought.strip())
    if results:
        said = RESULT.sub("", said)
    elif who == "tool":
        results, said = [said], ""
    if said.strip():
        yield who, said.strip()
    yield from (("result", result.strip()) for result in results)
    yield from (("call", parsed(call)) for call in calls)


def parsed(call: str) -> str:
    try:
        return as_json(json.loads(call))
    except ValueError:
        return call
