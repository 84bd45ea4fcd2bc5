"""Training rows for prompt internalization: SFT rows, prompt-generation rows, and their joint loss's weights.

Source: docs/papers.md#genpi, step S5.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from synthmill.schemas.applications import Application
from synthmill.schemas.dialogues import Dialogue, TrainingRow
from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import child_id
from synthmill.schemas.rows import Dropped, row_columns
from synthmill.storage.published.rows import thinks
from synthmill.tasks.engines.token_estimates import USUAL_CHARS_PER_TOKEN
from synthmill.tasks.frames import FrameStage, frame_schema
from synthmill.tasks.generators.dialogues.signs import calls_as_text
from synthmill.tasks.generators.dialogues.talk import END
from synthmill.tasks.texts.tokens import load_tokenizer

IGNORED = -100
GUESS = (
    "A context in front of the input below turned the bad output into the good output. "
    "Guess the context and give the reason."
)
Message = dict[str, Any]


def trim_end(turns: Sequence[Message]) -> list[Message]:
    """The end-trim rule: leave out the last turn if it is the environment's and contains the end marker."""
    ends = bool(turns) and turns[-1]["role"] != "assistant" and END in turns[-1]["content"]
    return list(turns[:-1] if ends else turns)


def message_of(role: str, content: str) -> Message:
    return {"role": role, "content": content, "tool_calls": [], "tool_call_id": ""}


def sft_messages(row: Mapping[str, Any], application: Application) -> list[Message]:
    """The student's input, then the dialogue: the model learns to hold it without the prompt."""
    return [message_of("user", application.for_student(row["pseudo_input"])), *trim_end(row["turns"])]


def prompt_generation_messages(row: Mapping[str, Any], application: Application) -> list[Message]:
    """The input with a bad and a good output; the target is the whole prompt and the reason."""
    question = (
        f"{GUESS}\n\n### Input\n{row['pseudo_input']}\n\n### Bad Output\n{row['student_output_single']}"
        f"\n\n### Good Output\n{row['teacher_output_single']}"
    )
    return [
        message_of("user", question),
        message_of("assistant", f"### Context\n{application.context}\n\n### Reason\n{row['reason']}"),
    ]


def label_mask(tokenizer: Any, messages: Sequence[Message], *, most: int | None = None) -> tuple[list[int], list[int]]:
    """(input_ids, labels) as the joint loss trains them: labels are -100 but for the assistant's tokens.

    The labels of an assistant turn include its end-of-turn token, but not what the template puts before the turn (a
    BOS, a role's header). most: how many tokens of a turn are trained at most (the paper's target_max_len, 512).
    """
    ids: list[int] = []
    labels: list[int] = []

    def render(upto: int, prompt: bool) -> list[int]:
        token_ids: list[int] = tokenizer.apply_chat_template(
            list(messages[:upto]), add_generation_prompt=prompt, tokenize=True, return_dict=False
        )
        return token_ids

    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = render(place, True), render(place + 1, False)
        if after[: len(before)] != before or before[: len(ids)] != ids:
            raise InputError("this chat template rewrites earlier turns, so its assistant turns cannot be told apart")
        target = after[len(before) :]
        ends = [position for position, token in enumerate(target) if token == tokenizer.eos_token_id]
        trained_count = ends[-1] + 1 if ends else len(target)  # a line break after it belongs to the template
        if most is not None:
            trained_count = min(trained_count, most)
        labels += (
            [IGNORED] * (len(before) - len(ids)) + target[:trained_count] + [IGNORED] * (len(target) - trained_count)
        )
        ids = after
    return ids, labels


def target_tokens(text: str, tokenizer: str) -> int:
    """Tokens of one assistant turn; a quarter of its characters where no tokenizer is given."""
    if not tokenizer:
        return math.ceil(len(text) / USUAL_CHARS_PER_TOKEN)
    return len(load_tokenizer(tokenizer).encode(text, add_special_tokens=False))


class TrainingRows(FrameStage):
    """Signed dialogues -> an SFT row per kept one and a prompt-generation row per input, with the joint loss's weights.

    The SFT rows of an input's branches share `joint_ratio`; the prompt-generation row has the rest. Source:
    docs/papers.md#genpi, step S5.
    """

    name: ClassVar = "training_rows"
    version: ClassVar = "1"
    needs: ClassVar = (*row_columns(Dialogue), "kept", "cut_by")
    adds: ClassVar = row_columns(TrainingRow)

    joint_ratio: float | None = Field(None, ge=0, le=1, description="instead of the applications' own")
    tokenizer: str = Field("", description="a folder or Hub id, to count targets' tokens by")

    def rows_per_row(self) -> int:
        return 2

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        dialogues = list(frame.iter_rows(named=True))
        kept: dict[tuple[str, str], int] = {}
        for row in dialogues:
            kept[input_of(row)] = kept.get(input_of(row), 0) + row["kept"]
        rows: list[dict[str, Any]] = []
        prompted_inputs: set[tuple[str, str]] = set()
        dropped: list[Dropped] = []
        for row in dialogues:
            application = Application.model_validate(row["application"])
            ratio = application.joint_ratio if self.joint_ratio is None else self.joint_ratio
            before = len(rows)
            if row["kept"]:
                weight = ratio / kept[input_of(row)]
                rows.append(self.row(row, application, "sft", sft_messages(row, application), ratio, weight))
            if input_of(row) not in prompted_inputs:
                prompted_inputs.add(input_of(row))
                messages = prompt_generation_messages(row, application)
                rows.append(self.row(row, application, "prompt_generation", messages, ratio, 1 - ratio))
            if len(rows) == before:
                dropped.append(Dropped(id=row["id"], reason=f"cut_by_{row['cut_by']}"))
        return pl.DataFrame(rows, schema=frame_schema(TrainingRow, thinks(frame.schema["turns"]))), dropped

    def row(
        self,
        row: Mapping[str, Any],
        application: Application,
        kind: str,
        messages: list[Message],
        ratio: float,
        weight: float,
    ) -> dict[str, Any]:
        agent_turns = [message for message in messages if message["role"] == "assistant"]
        targets = [message["content"] or calls_as_text(message["tool_calls"]) for message in agent_turns]
        return {
            "id": child_id(row["id"], kind),
            "parent_id": row["id"],
            "application_name": application.name,
            "kind": kind,
            "messages": messages,
            "tools": application.tools if kind == "sft" else "",
            "joint_ratio": ratio,
            "weight": weight,
            "longest_target_tokens": max(target_tokens(text, self.tokenizer) for text in targets),
        }


def input_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """The key of an input, which all its branches share."""
    return row["application"]["id"], row["pseudo_input"]
