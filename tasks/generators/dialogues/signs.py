"""Signs of a dialogue's quality, a column each, and the cut by them. docs/papers.md#genpi, "signs"; ours."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from synthmill.schemas.applications import AGENT, USER
from synthmill.schemas.dialogue_settings import DialogueCutSettings
from synthmill.schemas.dialogues import Dialogue, SignedDialogue
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import Dropped, arrow_schema
from synthmill.schemas.texts import normalised
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.texts.patterns import has_full_match, has_match
from synthmill.tasks.texts.words import GRAM, grams, rouge_l, words_of

ENVIRONMENT_LABELS = rf"^\s*({re.escape(USER)}|user:|human:|customer:|environment:|observation:)"
AGENT_LABELS = rf"^\s*({re.escape(AGENT)}|agent:|assistant:)"
SIGNS = tuple(name for name in SignedDialogue.model_fields if name not in Dialogue.model_fields)


def matches_any(patterns: Sequence[str], text: str) -> bool:
    """Whether any of the patterns matches somewhere in the text; an empty pattern never does."""
    return any(pattern and has_match(pattern, text, re.MULTILINE | re.IGNORECASE) for pattern in patterns)


def share(verdicts: Sequence[bool]) -> float | None:
    return sum(verdicts) / len(verdicts) if verdicts else None


def copied_share(texts: Sequence[str], source: set[tuple[str, ...]]) -> float:
    """The share of the texts' words that stand in a run of 8 which is in `source`."""
    total = covered = 0
    for text in texts:
        words, covered_until = words_of(text), 0
        for place, gram in enumerate(grams(words)):
            if gram in source:
                covered += place + GRAM - max(covered_until, place)
                covered_until = place + GRAM
        total += len(words)
    return covered / total if total else 0.0


def signs_of(dialogue: Mapping[str, Any]) -> dict[str, Any]:
    """The signs of one dialogue; SignedDialogue says what each means."""
    application, turns = dialogue["application"], dialogue["turns"]
    environment = application["environment"]
    agent_turns = [
        turn["content"] or calls_as_text(turn["tool_calls"]) for turn in turns if turn["role"] == "assistant"
    ]
    replies = [turn["content"] for turn in turns if turn["role"] != "assistant"]
    agent_texts = [turn["content"] for turn in turns if turn["role"] == "assistant" and turn["content"]]
    observations = zip(replies, dialogue["real_observations"] or (), strict=False)
    both = [(simulated, real) for simulated, real in observations if real is not None]
    # only user turns: the prompt's agent turns are examples to follow
    user_turns = (turn["content"] for turn in application["turns"] if turn["role"] == "user")
    prompt = {gram for text in user_turns for gram in grams(words_of(text))}
    failure = environment["failure"]

    def fails(reply: str) -> bool:
        return matches_any((failure,), reply)

    return {
        "repeated_turns": len(agent_turns) - len({normalised(text) for text in agent_turns}),
        "confused_agent": sum(matches_any((environment["marks"], ENVIRONMENT_LABELS), text) for text in agent_texts),
        "confused_environment": sum(matches_any((application["marks"], AGENT_LABELS), text) for text in replies),
        "format_adherence": share([is_action(application["action"], text) for text in agent_texts])
        if application["action"]
        else None,
        "copied_prompt": copied_share((*agent_turns, *replies), prompt),
        "observation_chars": sum(map(len, replies)) / len(replies) if replies else 0.0,
        "realism": sum(rouge_l(simulated, real) for simulated, real in both) / len(both) if both else None,
        "same_outcome": share([fails(simulated) == fails(real) for simulated, real in both]) if failure else None,
    }


def calls_as_text(tool_calls: Sequence[Mapping[str, Any]]) -> str:
    """Tool calls as text, without their ids: equal calls are equal texts."""
    return " ".join(f"{call['function']['name']}({call['function']['arguments']})" for call in tool_calls)


def is_action(pattern: str, text: str) -> bool:
    """Whether an agent's turn matches the application's grammar from end to end."""
    return has_full_match(pattern, text.strip())


class DialogueSigns(FrameStage):
    """Dialogues -> the same with signs of their quality, and the cut's verdict by them; what is cut stays in."""

    name: ClassVar = "dialogue_signs"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "application", "turns", "real_observations", "end_reason", "cut_turns", "agent_turns")
    adds: ClassVar = SIGNS

    limits: DialogueCutSettings = DialogueCutSettings()

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        empty = pl.DataFrame(arrow_schema(SignedDialogue).empty_table()).select(SIGNS).drop("kept", "cut_by")
        signs: list[dict[str, Any]] = []
        dropped: list[Dropped] = []
        for row in frame.select(self.needs).iter_rows(named=True):
            try:
                signs.append(signs_of(row))
            except Drop as drop:
                dropped.append(Dropped(id=row["id"], reason=drop.reason, detail=drop.detail))
        remaining = frame.filter(~pl.col("id").is_in([row.id for row in dropped]))
        return self.cut(pl.concat([remaining, pl.DataFrame(signs, schema=empty.schema)], how="horizontal")), dropped

    def cut(self, signed: pl.DataFrame) -> pl.DataFrame:
        """Adds `kept` and `cut_by`, the first sign that is outside its limit."""
        limits = self.limits
        fails = {
            "end_reason": pl.col("end_reason").is_in(limits.ends),
            "agent_turns": pl.col("agent_turns") < limits.min_agent_turns,
            "format_adherence": pl.col("format_adherence") < limits.min_format_adherence,
            "confused_agent": pl.col("confused_agent") > limits.max_confused_agent,
            "confused_environment": pl.col("confused_environment") > limits.max_confused_environment,
            "repeated_turns": pl.col("repeated_turns") > limits.max_repeated_turns,
            "cut_turns": pl.col("cut_turns") > limits.max_cut_turns,
            "copied_prompt": pl.col("copied_prompt") > limits.max_copied_prompt,
        }
        first = pl.coalesce([pl.when(fail).then(pl.lit(name)) for name, fail in fails.items()] + [pl.lit("")])
        return signed.with_columns(cut_by=first).with_columns(kept=pl.col("cut_by") == "")
