"""OpenRLHF: lists of messages, and the options without which it reads them as texts or forgets the prompt.

Read: openrlhf 0.11.2, datasets/sft_dataset.py, reward_dataset.py, prompts_dataset.py. Its reader of conversations never
passes tools to the chat template, and places the loss by rendering each beginning of a conversation: where the template
takes thinking away from earlier answers, the loss is on other tokens.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from synthmill.schemas.formats import Use
from synthmill.storage.published.forms.messages import Frame, provenance_of
from synthmill.storage.published.forms.reward_functions import OPENRLHF_REWARDS
from synthmill.storage.published.row_faults import EARLIER_THINKING
from synthmill.storage.published.rows import REASONING
from synthmill.storage.published.thinking import without_thinking
from synthmill.storage.published.trainer import NO_TOOLS, Form, Trainer, Written, names_by_use
from synthmill.storage.published.trainers.trl import sft

REWARDS = "reward_func.py"
PAIRS = "--data.prompt_key prompt --data.chosen_key chosen --data.rejected_key rejected"
COMMANDS: Mapping[Use, str] = {
    "sft": "train_sft --data.dataset",
    "pairs": f"train_dpo {PAIRS} --data.dataset",
    "reward": f"train_rm {PAIRS} --data.dataset",
    "prompts": "train_ppo_ray --data.input_key prompt --data.prompt_dataset",
    "rl": f"train_ppo_ray --data.input_key prompt --data.label_key label --reward.remote_url {REWARDS} "
    "--data.prompt_dataset",
}
LABEL = ("answer", "verifier", "verifier_arguments")


def earlier_thinking(row: Mapping[str, Any]) -> str:
    """Whether an answer before the last one has thinking, where every answer is learned."""
    earlier = row["messages"][:-1] if "learned_from" not in row else []
    return EARLIER_THINKING if any(is_thought_about(message) for message in earlier) else ""


def is_thought_about(message: Mapping[str, Any]) -> bool:
    return bool(message.get(REASONING)) or without_thinking(message["content"]) != message["content"]


def rl(rows: Frame) -> Frame:
    """`prompt`, `label` (JSON: what the reward function reads) and `datasource`."""
    labels = [json.dumps(row, ensure_ascii=False) for row in rows.select(LABEL).to_dicts()]
    source = pl.col("data_source").fill_null("default")
    label = pl.Series("label", labels, pl.String)
    return rows.select(*provenance_of(rows), "prompt", "pass_rate", label, datasource=source)


def command(table: Written) -> str:
    keys = ""
    if table.use == "sft":
        learned = "completion" in table.columns
        keys = (
            " --data.input_key prompt --data.output_key completion"
            if learned
            else " --data.input_key messages --data.multiturn"
        )
    return f"python -m openrlhf.cli.{COMMANDS[table.use]} {table.train[0]}{keys} --data.apply_chat_template"


def beside(tables: Sequence[Written]) -> dict[str, bytes]:
    lines = [f"# {table.name}\n{command(table)}\n" for table in tables]
    files = {"train.sh": "".join(["# in this folder; add your own settings\n", *lines]).encode()}
    return files | ({REWARDS: OPENRLHF_REWARDS.encode()} if any(table.use == "rl" for table in tables) else {})


def readme(tables: Sequence[Written]) -> Iterator[str]:
    yield "The commands are in `train.sh`, to be run in this folder:"
    yield ""
    yield from (f"- `{COMMANDS[use].split()[0]}`: {names}" for use, _, names in names_by_use(tables))


def as_they_are(rows: Frame) -> Frame:
    return rows


TRAINER = Trainer(
    "OpenRLHF",
    "0.11.2",
    {
        "sft": Form(sft, NO_TOOLS, fault=earlier_thinking),
        "pairs": Form(as_they_are, NO_TOOLS),
        "reward": Form(as_they_are, NO_TOOLS),
        "prompts": Form(as_they_are, NO_TOOLS),
        "rl": Form(rl, NO_TOOLS),
    },
    readme,
    beside,
    one_file=True,
)
