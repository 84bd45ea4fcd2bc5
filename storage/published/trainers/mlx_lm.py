"""MLX LM: a folder with train.jsonl and valid.jsonl, read as plain JSON, so that tools may be objects.

Read: mlx_lm 0.32.2, tuner/datasets.py. With `--mask-prompt` the last message alone is learned, else everything.
"""

from collections.abc import Iterator, Sequence

from synthmill.storage.published.chats import CHAT, with_json_messages
from synthmill.storage.published.forms.messages import Frame, provenance_of, tools_of
from synthmill.storage.published.trainer import Form, Trainer, Written, names_by_use


def sft(rows: Frame) -> Frame:
    """`messages` and `tools`, each message with the fields that it uses."""
    chats = rows.select(*provenance_of(rows), *tools_of(rows), CHAT)
    return with_json_messages(chats, (CHAT,))


def readme(tables: Sequence[Written]) -> Iterator[str]:
    yield "In this folder, `mlx_lm.lora --train --model MODEL --data NAME --mask-prompt` learns a row's last answer"
    yield "alone; without `--mask-prompt` it learns every message, the user's, too. NAME:"
    yield ""
    yield from (f"- {names}" for _, _, names in names_by_use(tables))
    if not all(table.test for table in tables):
        yield "- There is no `valid.jsonl`: export with `--test 0.05` to watch the loss on rows that it does not learn."


TRAINER = Trainer(
    "MLX LM",
    "0.32.2",
    {"sft": Form(sft, lines="sparse", objects=(CHAT, "tools"))},
    readme,
    splits={"test": "valid"},
    one_file=True,
)
