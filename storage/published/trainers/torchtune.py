"""torchtune: whole conversations, and the dataset components that read them.

Read: torchtune 0.6.1, datasets/_chat.py, datasets/_preference.py, data/_messages.py, config/_instantiate.py. A message
keeps role and content; every answer of a conversation is learned; an explicit prompt beside chosen and rejected is lost
without a word; it has no tools. Its own component for pairs learns from all answers of both sides, those of the prompt,
too: the one beside the rows, which it finds in the folder where it runs, from the last message alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from synthmill.storage.published.forms.messages import Frame, provenance_of, reward
from synthmill.storage.published.trainer import NO_TOOLS, Form, Trainer, Written

COMPONENT = "pairs_of_last_answers"
LAST_ANSWERS = '''"""torchtune's preference data, of which the last message of each side alone is learned."""

from torchtune.data import Message
from torchtune.datasets import PreferenceDataset


def dataset(tokenizer, *, source, **options):
    """A `dataset:` of the recipes of DPO. options: as `load_dataset` takes them."""
    return PreferenceDataset(source=source, message_transform=sides, tokenizer=tokenizer, **options)


def sides(row):
    return {name: list(messages(row[name])) for name in ("chosen", "rejected")}


def messages(chat):
    for place, message in enumerate(chat, 1):
        yield Message(role=message["role"], content=message["content"], masked=place < len(chat))
'''


def sft(rows: Frame) -> Frame:
    return rows.select(*provenance_of(rows), "messages")


def pairs(rows: Frame) -> Frame:
    """`chosen` and `rejected` with their prompt."""
    return reward(rows, "preferences")


def component(table: Written, files: Sequence[str]) -> dict[str, Any]:
    """A `dataset:` of a recipe's configuration."""
    source = {"source": "json", "data_files": list(files), "split": "train"}
    if table.use == "pairs":
        return {"_component_": f"{COMPONENT}.dataset", **source}
    style = {"conversation_column": "messages", "conversation_style": "openai"}
    return {"_component_": "torchtune.datasets.chat_dataset", **source, **style}


def beside(tables: Sequence[Written]) -> dict[str, bytes]:
    code = {f"{COMPONENT}.py": LAST_ANSWERS.encode()} if any(table.use == "pairs" for table in tables) else {}
    return {f"{table.name}.yaml": settings(table) for table in tables} | code


def settings(table: Written) -> bytes:
    blocks = {"dataset": component(table, table.train)}
    if table.test:
        blocks["dataset_val"] = component(table, table.test)
    return yaml.safe_dump(blocks, sort_keys=False).encode()


def readme(tables: Sequence[Written]) -> Iterator[str]:
    names = ", ".join(f"`{table.name}.yaml`" for table in tables)
    yield f"- Copy `dataset:` of {names} into a recipe's configuration, and run it in this folder."
    if any(table.use == "pairs" for table in tables):
        yield f"- `_pairs` is for the recipes of DPO, which learn the last answer alone by `{COMPONENT}.py` beside it."


ALL_LEARNED = NO_TOOLS - {"answers in the prompt, which would be learned, too"}
TRAINER = Trainer(
    "torchtune",
    "0.6.1",
    {
        "sft": Form(sft, ALL_LEARNED),
        "pairs": Form(pairs, NO_TOOLS - {"an answer of several messages"}),
    },
    readme,
    beside,
    thinking="text",
)
