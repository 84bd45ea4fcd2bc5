"""Axolotl: messages for its chat templates, and the `datasets:` block that reads them.

Read: axolotl 0.19.0, prompt_strategies/chat_template.py, dpo/chat_template.py, kto/chatml.py,
bradley_terry/chat_template.py. Turns called function_call or observation vanish, so calls stay messages; arguments and
tools may be JSON texts; pairs keep role and content alone, and an answer is looked for by its text; KTO and reward
models take ChatML conversations and texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import yaml

from synthmill.schemas.formats import Use
from synthmill.storage.published.chats import Chat, chat_type, chats_in
from synthmill.storage.published.forms.messages import Frame, last_content, provenance_of, tools_of, whole_chat
from synthmill.storage.published.thinking import fields_of
from synthmill.storage.published.trainer import NO_TOOLS, Form, Trainer, Written

MAPPINGS = {"role": "role", "content": "content"}
HEADERS = (
    "<|im_start|>user\n[[dummy_message]]<|im_end|>\n<|im_start|>assistant\n",
    "<|start_header_id|>user<|end_header_id|>\n\n[[dummy_message]]<|eot_id|><|start_header_id|>assistant<|end_header_id|>",
)
"""What stands before an answer where the reader of pairs looks for it, with the templates of ChatML and Llama 3."""
MODES: Mapping[Use, str] = {"pairs": "rl: dpo", "kto": "rl: kto", "reward": "reward_model: true"}


def sft(rows: Frame) -> Frame:
    """`messages`; where rows say so, each with whether it is learned."""
    if "learned_from" not in rows.columns:
        return rows
    chats = [
        [{**message, "training": place >= start} for place, message in enumerate(chat)]
        for chat, start in zip(rows["messages"].to_list(), rows["learned_from"].to_list(), strict=True)
    ]
    column = pl.Series("messages", chats, chat_type(fields_of(rows.schema["messages"]), training=pl.Boolean()))
    return rows.select(*provenance_of(rows), *tools_of(rows), column)


def short_answer(row: Mapping[str, Any]) -> str:
    """Whether an answer's text stands in the template's own, where the reader would find it."""
    answers = (row[side][-1]["content"] for side in ("chosen", "rejected") if row[side])
    stands_in_template = any(answer in header for answer in answers for header in HEADERS)
    return "an answer so short that the reader finds it in the template's text" if stands_in_template else ""


def kto(rows: Frame) -> Frame:
    """`completion` as the whole conversation, and `label`."""
    return rows.select(*provenance_of(rows), completion=whole_chat(rows, "completion"), label="label")


def reward(rows: Frame) -> Frame:
    """`system`, `input`, `chosen` and `rejected` as texts."""
    prompts = chats_in(rows["prompt"])
    texts = {
        name: [content_of(chat, role) for chat in prompts] for name, role in (("system", "system"), ("input", "user"))
    }
    columns = (pl.Series(name, values, pl.String) for name, values in texts.items())
    sides = {side: last_content(side) for side in ("chosen", "rejected")}
    return rows.select(*provenance_of(rows), *columns, **sides)


def content_of(chat: Chat, role: str) -> str:
    return "\n\n".join(message["content"] for message in chat if message["role"] == role)


def block(table: Written, path: str) -> dict[str, Any]:
    """An entry of `datasets:`."""
    file = {"path": path, "ds_type": "json", "split": "train"}
    if table.use == "sft":
        trained = {"message_field_training": "training"} if "learned_from" in table.made_of else {}
        names = {"field_messages": "messages", "message_property_mappings": MAPPINGS, "roles_to_train": ["assistant"]}
        return {**file, "type": "chat_template", **names, **trained}
    if table.use == "pairs":
        return {
            **file,
            "type": "chat_template.default",
            "field_messages": "prompt",
            "message_property_mappings": MAPPINGS,
        }
    return {**file, "type": "chatml.argilla_chat" if table.use == "kto" else "bradley_terry.chat_template"}


def beside(tables: Sequence[Written]) -> dict[str, bytes]:
    """One file of settings a table, to be copied into a run's."""
    return {f"{table.name}.yaml": settings(table) for table in tables}


def settings(table: Written) -> bytes:
    mode = f"{MODES[table.use]}\n" if table.use in MODES else ""
    blocks = {"datasets": [block(table, path) for path in table.train]}
    if table.test:
        blocks["test_datasets"] = [block(table, path) for path in table.test]
    return (mode + yaml.safe_dump(blocks, sort_keys=False)).encode()


def readme(tables: Sequence[Written]) -> Iterator[str]:
    names = ", ".join(f"`{table.name}.yaml`" for table in tables)
    yield f"- Copy {names} into your run's settings, and start axolotl in this folder: paths are relative to it."
    if any(table.use == "kto" for table in tables):
        yield "- KTO is written in ChatML; for Llama 3 set `type: llama3.argilla_chat`."


TRAINER = Trainer(
    "axolotl",
    "0.19.0",
    {
        "sft": Form(sft),
        "pairs": Form(lambda rows: rows, NO_TOOLS, thinking="text", fault=short_answer),
        "kto": Form(kto, NO_TOOLS, thinking="text"),
        "reward": Form(reward, NO_TOOLS - {"earlier turns"}, thinking="text"),
    },
    readme,
    beside,
)
