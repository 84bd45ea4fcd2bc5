"""TRL: conversational rows as its trainers take them; calls have their arguments as objects, as chat templates do.

Read: trl 1.16, trainer/sft_trainer.py, dpo_trainer.py, kto_trainer.py, reward_trainer.py, grpo_trainer.py,
experimental/sdft/sdft_trainer.py. It requires `datasets` 4.7, so its rows may have objects. GRPO and RLOO render no
tools of a row: theirs are the trainer's own functions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import polars as pl

from synthmill.schemas.formats import Use
from synthmill.storage.published.chats import with_json_messages
from synthmill.storage.published.forms.messages import Frame, provenance_of, reward, tools_of
from synthmill.storage.published.forms.reward_functions import TRL_REWARDS
from synthmill.storage.published.row_faults import CHATS
from synthmill.storage.published.trainer import EVERYTHING, NO_TOOLS, Form, Trainer, Written, names_by_use
from synthmill.storage.published.uses import LOSS_MARGIN

READERS: Mapping[Use, str] = {
    "sft": "`SFTTrainer` (of `messages` everything is learned, or the answers with `assistant_only_loss=True`)",
    "pairs": "`DPOTrainer`",
    "kto": "`KTOTrainer`, with batches of 2 or more",
    "reward": "`RewardTrainer`",
    "prompts": "`GRPOTrainer` or `RLOOTrainer`",
    "rl": "`GRPOTrainer(reward_funcs=verified)`, `verified` from `reward_funcs.py`",
    "self-distillation": "`trl.experimental.sdft.SDFTTrainer`",
}
REWARDS = "reward_funcs.py"


def sft(rows: Frame) -> Frame:
    """`prompt` and `completion`, of which the completion alone is learned, where rows say so; else `messages`."""
    if "learned_from" not in rows.columns:
        return rows
    chat, place = pl.col("messages"), pl.col("learned_from")
    sides = {"prompt": chat.list.head(place), "completion": chat.list.slice(place)}
    return rows.select(*provenance_of(rows), *tools_of(rows), **sides)


def whole_conversations(rows: Frame) -> Frame:
    """`chosen` and `rejected` with their prompt, and the `margin` that the loss subtracts, where rows have one."""
    margins = [rows[LOSS_MARGIN].alias("margin")] if LOSS_MARGIN in rows.columns else []
    return reward(rows, "preferences").with_columns(margins)


def as_they_are(rows: Frame) -> Frame:
    return rows


MAKERS: Mapping[Use, Callable[[Frame], Frame]] = {"sft": sft, "reward": whole_conversations}


def form(use: Use) -> Form:
    """The form of a use as Parquet, in which messages that may call are objects."""
    make = MAKERS.get(use, as_they_are)
    holds = NO_TOOLS if use in ("prompts", "rl") else EVERYTHING
    return Form(lambda rows: with_json_messages(make(rows), CHATS), holds, lines="", objects=CHATS)


def readme(tables: Sequence[Written]) -> Iterator[str]:
    yield "`load_dataset(FOLDER, NAME)`, with these names:"
    yield ""
    yield from (f"- {READERS[use]}: {names}" for use, _, names in names_by_use(tables))


def beside(tables: Sequence[Written]) -> dict[str, bytes]:
    return {REWARDS: TRL_REWARDS.encode()} if any(table.use == "rl" for table in tables) else {}


TRAINER = Trainer(
    "TRL",
    "1.16",
    {use: form(use) for use in READERS},
    readme,
    beside,
)
