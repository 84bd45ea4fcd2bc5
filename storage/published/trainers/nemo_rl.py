"""NeMo RL: OpenAI's lines, ranked completions, and prompts with their answers; and the `data:` block that reads them.

Read: nemo_rl 0.6.0, data/datasets: response_datasets/oai_format_dataset.py and response_dataset.py,
preference_datasets/preference_dataset.py. `use_preserving_dataset` reads lines as they are; without it tools are
padded. Every answer is learned unless `sft.only_unmask_final` says that the last one is. Rows for RL are a question and
its answer as texts; its own environments verify them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import yaml

from synthmill.schemas.formats import Use
from synthmill.storage.published.chats import CHAT, with_json_messages
from synthmill.storage.published.forms.messages import Frame, provenance_of, tools_of
from synthmill.storage.published.row_faults import CHATS
from synthmill.storage.published.trainer import EVERYTHING, NO_TOOLS, Form, Trainer, Written

DATASETS: Mapping[Use, dict[str, Any]] = {
    "sft": {"dataset_name": "openai_format", "chat_key": CHAT, "tool_key": "tools", "use_preserving_dataset": True},
    "pairs": {"dataset_name": "PreferenceDataset"},
    "reward": {"dataset_name": "PreferenceDataset"},
    "rl": {"dataset_name": "ResponseDataset", "input_key": "input", "output_key": "output"},
}


def sft(rows: Frame) -> Frame:
    """`messages` and `tools`, each message with the fields that it uses."""
    return with_json_messages(rows.select(*provenance_of(rows), *tools_of(rows), CHAT), (CHAT,))


def ranked(rows: Frame) -> Frame:
    """`context`, and `completions` with their ranks, 0 for the better one."""
    sides = [pl.struct(rank=pl.lit(rank), completion=side) for rank, side in enumerate(CHATS[2:4])]
    return rows.select(*provenance_of(rows), context="prompt", completions=pl.concat_list(sides))


def rl(rows: Frame) -> Frame:
    """`input` and `output`, with the verifier's columns for whoever reads them."""
    question = pl.col("prompt").list.first().struct.field("content")
    others = ("verifier", "verifier_arguments", "data_source", "pass_rate")
    return rows.select(*provenance_of(rows), *others, input=question, output=pl.col("answer"))


def no_answer(row: Mapping[str, Any]) -> str:
    return "" if row["answer"] else "no reference answer"


def beside(tables: Sequence[Written]) -> dict[str, bytes]:
    return {f"{table.name}.yaml": settings(table) for table in tables}


def settings(table: Written) -> bytes:
    data = {"train": {**DATASETS[table.use], "data_path": table.train[0]}}
    if table.test:
        data["validation"] = {**DATASETS[table.use], "data_path": table.test[0]}
    learned = {"sft": {"only_unmask_final": True}} if "learned_from" in table.made_of else {}
    return yaml.safe_dump({"data": data, **learned}, sort_keys=False).encode()


def readme(tables: Sequence[Written]) -> Iterator[str]:
    names = ", ".join(f"`{table.name}.yaml`" for table in tables)
    yield f"- Copy the settings of {names} into a configuration, and run it in this folder."
    if any(table.use == "rl" for table in tables):
        yield "- Rewards are its own environments' (`env: math`); the verifier of each row stands beside it."


HOLDS = EVERYTHING - {"tools", "several calls at once", "text beside a call", "several results in a row"}
TRAINER = Trainer(
    "NeMo RL",
    "0.6.0",
    {
        "sft": Form(sft, lines="sparse", objects=(CHAT, "tools")),
        "pairs": Form(ranked, HOLDS),
        "reward": Form(ranked, HOLDS),
        "rl": Form(rl, NO_TOOLS - {"a system message", "earlier turns"}, fault=no_answer),
    },
    readme,
    beside,
    one_file=True,
)
