"""verl: Parquet with structs, for conversations and for RL with rewards that verifiers give.

Read: verl 0.9.1, utils/dataset/multiturn_sft_dataset.py, rl_dataset.py, reward_score/. A prompt as JSON text is
accepted and wrong; every answer of a conversation is learned; its rows come from Parquet, where tools and arguments
would be padded, so tools are not held.
"""

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from synthmill.schemas.formats import Use
from synthmill.storage.published.forms.messages import Frame, provenance_of
from synthmill.storage.published.forms.reward_functions import VERL_REWARDS
from synthmill.storage.published.trainer import NO_TOOLS, Form, Trainer, Written, names_by_use

REWARDS = "reward_func.py"
ENTRIES: Mapping[Use, str] = {"sft": "sft_trainer", "rl": "main_ppo"}
VERIFIER = ("verifier", "verifier_arguments", "pass_rate")


def sft(rows: Frame) -> Frame:
    return rows.select(*provenance_of(rows), "messages")


def rl(rows: Frame) -> Frame:
    """`data_source`, `prompt`, `ability`, `reward_model` with the reference answer, and `extra_info`."""
    rule, truth = pl.lit("rule").alias("style"), pl.col("answer").fill_null("").alias("ground_truth")
    row = [pl.col(name) for name in ("id", *VERIFIER) if name in rows.columns]
    return rows.select(
        *provenance_of(rows),
        data_source=pl.col("data_source").fill_null("synthmill"),
        prompt="prompt",
        ability=pl.col("verifier").fill_null("exact").str.strip_prefix("verify:"),
        reward_model=pl.struct(rule, truth),
        extra_info=pl.struct(*row),
    )


def options(table: Written) -> list[str]:
    """What a command of verl says about a table."""
    files = [f"data.train_files={listed(table.files['train'])}"] if "train" in table.files else []
    files += [f"data.val_files={listed(paths)}" for split, paths in table.files.items() if split != "train"]
    if table.use == "sft":
        return [*files, "data.messages_key=messages"]
    rewards = [f"custom_reward_function.path={REWARDS}", "custom_reward_function.name=compute_score"]
    return [*files, "data.prompt_key=prompt", *rewards]


def listed(paths: Sequence[str]) -> str:
    return f"[{','.join(paths)}]"


def command(table: Written) -> str:
    return f"python -m verl.trainer.{ENTRIES[table.use]} {' '.join(options(table))}"


def beside(tables: Sequence[Written]) -> dict[str, bytes]:
    lines = [f"# {table.name}\n{command(table)}\n" for table in tables]
    files = {"train.sh": "".join(["# in this folder; add your own settings\n", *lines]).encode()}
    return files | ({REWARDS: VERL_REWARDS.encode()} if any(table.use == "rl" for table in tables) else {})


def readme(tables: Sequence[Written]) -> Iterator[str]:
    yield "The commands are in `train.sh`, to be run in this folder:"
    yield ""
    yield from (f"- `{ENTRIES[use]}`: {names}" for use, _, names in names_by_use(tables))


ALL_LEARNED = NO_TOOLS - {"answers in the prompt, which would be learned, too"}
TRAINER = Trainer(
    "verl", "0.9.1", {"sft": Form(sft, ALL_LEARNED, lines=""), "rl": Form(rl, NO_TOOLS, lines="")}, readme, beside
)
