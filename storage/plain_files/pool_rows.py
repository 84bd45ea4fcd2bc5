"""One row of a file of pools: a prompt with its answers (wide), or one answer of it (long). Prompts may be messages."""

import math
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import orjson

from synthmill.schemas.errors import Drop
from synthmill.schemas.messages import content_in, known_role, message_in, role_in, text_in
from synthmill.storage.plain_files.lines import Line
from synthmill.storage.plain_files.rows import id_of

MESSAGES = "messages"
"""Our column of prompts of messages, each as a list of {role, content} in JSON."""
ENDS = "finish_reasons"
"""Our column of finish reasons."""
THINKING = "reasoning"
"""Our column of what was thought before each answer."""
POLICIES = "policies"
"""Our column of who gave each answer."""
BESIDE_ANSWERS = (ENDS, THINKING, POLICIES)
"""Columns of texts, one per answer, which need not be there."""
VERIFIER = ("verifier", "verifier_arguments")
"""Columns that say how a row's answers are verified; the second holds JSON."""
RUBRIC = "rubric"
"""A column with the rubric of a row's answers, a text or JSON."""
BESIDE_PROMPT = (*VERIFIER, RUBRIC)
"""What a row may say of how its answers are scored."""


class RowForm(NamedTuple):
    """How a file's rows are read. columns: our name -> the file's; chat: whether prompts are messages; single_turn:
    whether prompts of several turns are refused.
    """

    columns: Mapping[str, str]
    wide: bool
    chat: bool
    single_turn: bool


def pool_row(line: Line, form: RowForm) -> tuple[dict[str, Any], int]:
    """A row under our column names, and its length in characters. Raises Drop."""
    if line.fields is None:
        raise Drop(line.fault)
    row: dict[str, Any] = {ours: line.fields.get(theirs) for ours, theirs in form.columns.items()}
    if row["prompt"] is None:
        raise Drop("null_prompt")
    for name in ("system", "reference"):
        if row.get(name) is not None and not isinstance(row[name], str):
            raise Drop(f"{name}_not_text")
    if form.chat:
        row |= conversation(row["prompt"], row.get("system"), form.single_turn)
    elif not isinstance(row["prompt"], str):
        raise Drop("prompt_not_text")
    for name in BESIDE_PROMPT:
        if row.get(name) is not None and not isinstance(row[name], str):
            row[name] = in_json(row[name])
    own = form.columns["prompt_id"] != form.columns["prompt"]  # else a prompt is its pool's name
    row["prompt_id"] = (id_of(row["prompt_id"]) if own else "") or pool_name(row)
    row |= answers_in(row, form)
    texts = [row["prompt_id"], row["prompt"], row.get("system"), row.get("reference"), row.get(MESSAGES)]
    texts += [row.get(name) for name in BESIDE_PROMPT]
    texts += row["answers"] if form.wide else [row["answers"]]
    try:
        "".join(filter(None, texts)).encode()
    except UnicodeEncodeError:
        raise Drop("not_utf8") from None
    return row, sum(len(text or "") for text in texts)


def pool_name(row: Mapping[str, Any]) -> str:
    """The name of a pool without an id: its prompt, or the transcript of its messages."""
    messages = orjson.loads(row[MESSAGES]) if MESSAGES in row else []
    return transcript(messages) if len(messages) > 1 else str(row["prompt"])


def answers_in(row: Mapping[str, Any], form: RowForm) -> dict[str, Any]:
    """A row's answers, and its other columns with a value per answer. Raises Drop."""
    if isinstance(row["answers"], list) != form.wide:
        raise Drop("answers_not_lists" if form.wide else "answer_not_text")
    texts = [answer_text(answer) for answer in (row["answers"] if form.wide else [row["answers"]])]
    fields: dict[str, Any] = {"answers": texts if form.wide else texts[0]}
    for name in form.columns.keys() - {"prompt_id", "prompt", "system", "reference", "answers", *BESIDE_PROMPT}:
        values = row[name] if form.wide else [row[name]]
        if name in BESIDE_ANSWERS:
            fields[name] = texts_beside(values, len(texts)) if form.wide else texts_beside(values, 1)[0]
            continue
        if not isinstance(values, list | None):  # the answer may be one list of messages
            is_chat = all(isinstance(answer, Mapping) and role_in(answer) for answer in row["answers"])
            raise Drop("answer_not_text: found messages" if is_chat else f"{name}_not_lists")
        numbers = [None] * len(texts) if values is None else [number_in(value) for value in values]
        if len(numbers) != len(texts):
            raise Drop(f"as_many_{name}_as_answers")
        fields[name] = numbers if form.wide else numbers[0]
    return fields


def texts_beside(values: Any, count: int) -> list[str | None]:
    """A text for each answer, its finish reason or its thinking; None for all where the row does not have that many."""
    if not isinstance(values, list) or len(values) != count:
        return [None] * count
    return [value if isinstance(value, str) else None for value in values]


def answer_text(answer: Any) -> str | None:
    """An answer's text, which may stand in an object as `text` or `content`; None for null. Raises Drop."""
    if isinstance(answer, Mapping) and ("text" in answer or "content" in answer):
        answer = answer.get("text", answer.get("content"))
        answer = text_in(answer) if isinstance(answer, list) else answer
    if answer is not None and not isinstance(answer, str):
        raise Drop(f"answer_not_text: found {type(answer).__name__}")
    return answer


def conversation(prompt: Any, system: str | None, single_turn: bool) -> dict[str, Any]:
    """A prompt of messages as a text, its system message, and as messages. Raises Drop where a message has no
    text or an unknown role, since all are used.
    """
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list):
        raise Drop(f"prompt_not_text: found {type(prompt).__name__}")
    messages = []
    for message in map(message_in, prompt):
        content = content_in(message)
        if message.get("tool_calls"):
            raise Drop("tool_calls in prompt")
        if content is None:
            raise Drop("bad_messages: a message of the prompt has no text")
        messages.append({"role": known_role(message), "content": content})
    instructions = [message["content"] for message in messages if message["role"] == "system"]
    if system and not instructions:
        messages, instructions = [{"role": "system", "content": system}, *messages], [system]
    turns = [message for message in messages if message["role"] != "system"]
    if not any(message["role"] == "user" for message in turns):
        raise Drop("bad_messages: no message of the prompt is the user's")
    if single_turn and len(turns) > 1:
        raise Drop(f"several_turns: the prompt has {len(turns)} messages; `synthmill pairs` takes them")
    text = turns[0]["content"] if len(turns) == 1 else transcript(turns)
    return {"prompt": text, "system": "\n\n".join(instructions) or None, MESSAGES: in_json(messages)}


def in_json(value: Any) -> str:
    """A value as JSON. Raises Drop for texts that are no UTF-8."""
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:
        raise Drop("not_utf8") from None


def transcript(messages: list[dict[str, str]]) -> str:
    """Messages as one text, each under its role."""
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)


def number_in(value: Any) -> float | None:
    """A finite number, also one that is written as text (CSV), or as true or false; None for anything else."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if not isinstance(value, int | float) or abs(value) > sys.float_info.max:
        return None
    return float(value) if math.isfinite(value) else None
