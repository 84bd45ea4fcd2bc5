"""torchtune: whole conversations, and the dataset components that read them.

Read: torchtune 0.6.1, datasets/_chat.py, datasets/_preference.py, data/_messages.py. A message keeps role and content;
every answer of a conversation is learned; an explicit prompt beside chosen and rejected is lost without a word; it has
no tools.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from synthmill.storage.published.forms.messages import Frame, provenance_of, reward
from synthmill.storage.published.trainer import NO_TOOLS, Form, Trainer, Written


def sft(rows: Frame) -> Frame:
    return rows.select(*provenance_of(rows), "messages")


def pairs(rows: Frame) -> Frame:
    """`chosen` and `rejected` with their prompt."""
    return reward(rows, "preferences")


def component(table: Written, file: str) -> dict[str, Any]:
    """A `dataset:` of a recipe's configuration."""
    source = {"source": "json", "data_files": file, "split": "train"}
    if table.use == "pairs":
        return {"_component_": "torchtune.datasets.preference_dataset", **source}
    style = {"conversation_column": "messages", "conversation_style": "openai"}
    return {"_component_": "torchtune.datasets.chat_dataset", **source, **style}


def beside(tables: Sequence[Written]) -> dict[str, bytes]:
    return {f"{table.name}.yaml": settings(table) for table in tables}


def settings(table: Written) -> bytes:
    blocks = {"dataset": component(table, table.train)}
    if table.test:
        blocks["dataset_val"] = component(table, table.test)
    return yaml.safe_dump(blocks, sort_keys=False).encode()


def readme(tables: Sequence[Written]) -> Iterator[str]:
    names = ", ".join(f"`{table.name}.yaml`" for table in tables)
    yield f"- Copy `dataset:` of {names} into a recipe's configuration, and run it in this folder."
    if any(table.use == "pairs" for table in tables):
        yield "- `_pairs` is for the recipes of DPO."


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
