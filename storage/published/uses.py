"""What a trainer does with rows: each kind of table as the rows of a use, with the same columns whatever the kind.

sft                `messages`, ending in the answer; `learned_from`: the place of the first message to be learned from,
                   where a row says (its prompt's answers are not)
pairs, reward      `prompt`, `chosen`, `rejected`, as lists of messages; reward: `loss_margin` where rows have one
kto                `prompt`, `completion`, `label`
prompts            `prompt`, each once
rl                 `prompt`, `answer` (the reference), `verifier`, `verifier_arguments` (JSON), `data_source`,
                   `pass_rate`
triplets           `anchor`, `positive`, `negative`
self-distillation  `prompt` without, and `privileged_context` with, what the model shall learn to do without

Beside them `id`, `parent_id`, `source` and, where rows have any, `tools` (their definitions as JSON).
"""

from collections.abc import Mapping
from functools import partial

import polars as pl

from synthmill.schemas.formats import Use
from synthmill.storage.published.chats import CHAT, Chat, chat_column, chats_in
from synthmill.storage.published.configurations import Kind
from synthmill.storage.published.forms.messages import (
    Frame,
    as_prompts,
    kto,
    prompts,
    provenance_of,
    sft,
    tools_of,
    triplets,
    up_to_answer,
)
from synthmill.storage.published.row_streams import RowStream

OWN: Mapping[Kind, Use] = {
    "conversations": "sft",
    "completions": "sft",
    "preferences": "pairs",
    "labelled": "kto",
    "prompts": "prompts",
    "rl": "rl",
    "triplets": "triplets",
    "distillation": "self-distillation",
}
"""What rows of a kind are made for."""
KINDS: Mapping[Use, tuple[Kind, ...]] = {
    "sft": ("conversations", "completions", "preferences"),
    "pairs": ("preferences",),
    "kto": ("labelled", "preferences"),
    "reward": ("preferences",),
    "prompts": ("prompts", "completions", "preferences", "labelled", "rl"),
    "rl": ("rl",),
    "triplets": ("triplets",),
    "self-distillation": ("distillation", "conversations", "completions", "preferences", "other"),
}
"""The kinds of rows that a use can be made of."""
LOSS_MARGIN = "loss_margin"
"""What the loss of a reward model subtracts from the difference of rewards, row by row."""
CONTEXT, FIRST_INPUT = "context", "pseudo_input"
"""Columns of a table of dialogues: an application's prompt, and what its user said first."""
RL: Mapping[str, pl.DataType] = {
    **dict.fromkeys(("answer", "verifier", "verifier_arguments", "data_source"), pl.String()),
    "pass_rate": pl.Float64(),
}


def can_be(use: Use, kind: Kind, rows: RowStream) -> bool:
    """Whether a table's rows can be used so; dialogues have their context in columns, chats in a system message."""
    if kind not in KINDS[use]:
        return False
    return kind != "other" or {CONTEXT, FIRST_INPUT} <= set(rows.columns)


def rows_for(use: Use, kind: Kind, rows: RowStream) -> RowStream:
    """A table's rows in the columns of a use."""
    if use == "sft":
        learned = "messages" if kind == "conversations" else "prompt"
        return rows.map(partial(sft_rows, kind, learned))
    if use == "kto":
        return rows.map(lambda batch: kto(batch, kind), same_height=kind == "labelled")
    if use == "prompts":
        return rows.map(lambda batch: prompts(batch, kind)).unique("prompt")
    if use == "rl":
        return rows.map(rl_rows)
    if use == "triplets":
        return rows.map(lambda batch: triplets(batch, kind))
    if use == "self-distillation":
        openings = rows.map(partial(distillation_rows, kind), same_height=False).unique("both")
        return openings.map(lambda batch: batch.drop("both"))
    return rows.map(lambda batch: batch.select(*provenance_of(batch), *tools_of(batch), *sides_of(use, batch)))


def sides_of(use: Use, rows: Frame) -> list[str]:
    """A pair's columns; for reward models with the margin of their loss, where rows have one."""
    margin = [LOSS_MARGIN] if use == "reward" and LOSS_MARGIN in rows.columns else []
    return ["prompt", "chosen", "rejected", *margin]


def sft_rows(kind: Kind, learned: str, rows: Frame) -> Frame:
    """Conversations up to their last answer; without one, they are empty."""
    if kind == "conversations":
        return rows.select(*provenance_of(rows), *tools_of(rows), up_to_answer())
    return sft(rows, kind).with_columns(learned_from=rows[learned].list.len().cast(pl.Int64))


def rl_rows(rows: Frame) -> Frame:
    """Prompts with what their verifier needs; columns that rows lack are empty."""
    rows = as_prompts(rows)
    own = [
        (pl.col(name).cast(kind) if name in rows.columns else pl.lit(None, kind)).alias(name)
        for name, kind in RL.items()
    ]
    return rows.select(*provenance_of(rows), *tools_of(rows), "prompt", *own)


def distillation_rows(kind: Kind, rows: Frame) -> Frame:
    """Each opening of a conversation once, with the context that its model shall learn to do without; rows without a
    context are left out.
    """
    if kind == "other":
        kept = rows.filter(pl.col("kept")) if rows.schema.get("kept") == pl.Boolean else rows
        openings = [[{"role": "user", "content": text}] for text in kept[FIRST_INPUT].to_list()]
        contexts = kept[CONTEXT].to_list()
    elif kind == "distillation":
        kept, openings, contexts = rows, chats_in(rows["prompt"]), rows["privileged_context"].to_list()
    else:
        kept = rows
        chats = chats_in(rows["messages" if kind == "conversations" else "prompt"])
        openings = [opening_of(chat) for chat in chats]
        contexts = [system_of(chat) for chat in chats]
    columns = [
        chat_column("prompt", openings, ("role", "content")),
        pl.Series("privileged_context", contexts, pl.String),
    ]
    whole = (pl.col("prompt").list.len() > 0) & (pl.col("privileged_context").fill_null("") != "")
    both = pl.struct("prompt", "privileged_context")
    return kept.select(provenance_of(kept)).with_columns(columns).filter(whole).with_columns(both=both)


def opening_of(chat: Chat) -> Chat:
    """What users said before the first answer."""
    turns = [message for message in chat if message["role"] != "system"]
    answer = next((place for place, message in enumerate(turns) if message["role"] != "user"), len(turns))
    return turns[:answer]


def system_of(chat: Chat) -> str:
    """A chat's system messages."""
    return "\n\n".join(message["content"] for message in chat if message["role"] == "system")


def has_system(conversations: RowStream) -> bool:
    """Whether any conversation has a system message."""
    roles = pl.col(CHAT).list.eval(pl.element().struct.field("role") == "system").list.any()
    return any(batch.select(roles.any()).item() for batch in conversations.batches([CHAT]))
