"""OpenAI's fine-tuning, supervised and on preferences, by its documented lines.

A line has no key but messages and tools, or input, preferred_output and non_preferred_output, of one answer each.
"""

from collections.abc import Iterator, Mapping, Sequence

from synthmill.schemas.formats import Use
from synthmill.storage.published.forms.messages import Frame
from synthmill.storage.published.forms.openai import openai
from synthmill.storage.published.trainer import EVERYTHING, NO_TOOLS, Form, Trainer, Written, names_by_use

METHODS: Mapping[Use, str] = {"sft": "supervised", "pairs": "dpo"}


def sft(rows: Frame) -> Frame:
    return openai(rows, "conversations")


def pairs(rows: Frame) -> Frame:
    return openai(rows, "preferences")


def readme(tables: Sequence[Written]) -> Iterator[str]:
    yield "Upload `NAME/train.jsonl` with the purpose `fine-tune`; ids lie in `ids/`, line by line."
    yield ""
    yield from (f"- `{METHODS[use]}`: {names}" for use, _, names in names_by_use(tables))


TRAINER = Trainer(
    "OpenAI's fine-tuning",
    "the documentation's",
    {
        "sft": Form(sft, EVERYTHING, lines="sparse", objects=("tools",), with_ids=False),
        "pairs": Form(pairs, NO_TOOLS, lines="sparse", with_ids=False),
    },
    readme,
    thinking="drop",
)
