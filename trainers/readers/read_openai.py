"""OpenAI's fine-tuning: it has no reader to install, so lines are checked by its documented rules, and rendered.

Rules: a line has `messages`, and `tools` and `parallel_tool_calls` at most; or `input`, `preferred_output` and
`non_preferred_output`. A call has an id and its arguments as a JSON text, a result names a call before it, and the last
message is an assistant's; one whose `weight` is 0 is not learned. Each output of a preference is one assistant message.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reading import Row, main

SFT, PAIR = {"messages", "tools", "parallel_tool_calls"}, {"input", "preferred_output", "non_preferred_output"}
FIELDS = {"role", "content", "name", "tool_calls", "tool_call_id", "weight", "refusal"}


def read(export: Path, tokenizer: Any, job: dict[str, Any]) -> Iterator[Row]:
    for line in (export / job["table"] / "train.jsonl").read_text().splitlines():
        row = json.loads(line)
        if job["kind"] == "pairs":
            require(set(row) == PAIR, f"keys {sorted(row)}")
            prompt, tools = row["input"]["messages"], row["input"].get("tools")
            check(prompt)
            sides = {"chosen": row["preferred_output"], "rejected": row["non_preferred_output"]}
            require(all(len(side) == 1 and side[0]["role"] == "assistant" for side in sides.values()), "outputs")
            yield {name: rendered(tokenizer, [*prompt, *side], tools, len(prompt)) for name, side in sides.items()}
        else:
            require("messages" in row and set(row) <= SFT, f"keys {sorted(row)}")
            check(row["messages"])
            require(row["messages"][-1]["role"] == "assistant", "the last message is no assistant's")
            yield rendered(tokenizer, row["messages"], row.get("tools"))


def require(right: bool, fault: str) -> None:
    if not right:
        raise ValueError(fault)


def check(messages: list[Row]) -> None:
    calls: set[str] = set()
    for message in messages:
        require(set(message) <= FIELDS, f"fields {sorted(message)}")
        for call in message.get("tool_calls") or []:
            require(call["type"] == "function" and isinstance(call["function"]["arguments"], str), f"call {call}")
            json.loads(call["function"]["arguments"])
            calls.add(call["id"])
        if message["role"] == "tool":
            require(message.get("tool_call_id") in calls, f"a result without its call: {message}")
        require(isinstance(message.get("content"), str) or bool(message.get("tool_calls")), "no content")


def rendered(tokenizer: Any, messages: list[Row], tools: Any, first: int = 0) -> Row:
    """The chat by the template; trained: what each assistant message from `first` on adds, as the service learns it."""
    chat = [with_parsed_calls(message) for message in messages]
    spans = []
    for place in range(first, len(chat)):
        if chat[place]["role"] == "assistant" and chat[place].get("weight") != 0:
            before = tokenizer.apply_chat_template(
                chat[:place], tools=tools, tokenize=False, add_generation_prompt=True
            )
            spans.append(tokenizer.apply_chat_template(chat[: place + 1], tools=tools, tokenize=False)[len(before) :])
    return {"text": tokenizer.apply_chat_template(chat, tools=tools, tokenize=False), "trained": spans}


def with_parsed_calls(message: Row) -> Row:
    """A message as chat templates have it: with a text, and arguments as objects."""
    calls = message.get("tool_calls") or []
    functions = [{**call["function"], "arguments": json.loads(call["function"]["arguments"])} for call in calls]
    parsed = [{**call, "function": function} for call, function in zip(calls, functions, strict=True)]
    return {**message, "content": message.get("content") or "", "tool_calls": parsed}


if __name__ == "__main__":
    main(read)
