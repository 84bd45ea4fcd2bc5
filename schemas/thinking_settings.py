"""What is done with a model's thinking."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from synthmill.schemas.spelled import Spelled

Effort = Literal["minimal", "low", "medium", "high"]
EFFORTS: tuple[str, ...] = get_args(Effort)
Marks = Sequence[tuple[str, str]]
MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)
"""How models mark their thinking in a text: DeepSeek, Qwen and many others; Magistral, Kimi, Seed, gpt-oss."""


class ThinkingSettings(Spelled):
    """May be written as its mode (keep, drop, off), its effort (minimal, low, medium, high) or its tokens.

    What stands before an answer, between marks or in a field of its own, is thinking: recipes, scorers and parsers see
    the answer alone.
    """

    mode: Literal["keep", "drop", "off"] = Field(
        "keep",
        description="keep: beside the answer, also in datasets; drop: only in the call store; off: not asked for",
    )
    effort: Literal["", Effort] = Field("", description="asked of the model")
    tokens: int | None = Field(
        None, ge=1, description="room for thinking, on top of max_tokens, which is then the answer's alone"
    )
    marks: tuple[tuple[str, str], ...] = Field(
        MARKS, description="what begins and ends thinking in a text; []: nothing"
    )

    @classmethod
    def read_spec(cls, spec: str) -> dict[str, Any]:
        if spec in EFFORTS:
            return {"effort": spec}
        return {"tokens": int(spec)} if spec.isdecimal() else {"mode": spec}

    @classmethod
    def without_spec(cls, value: Any) -> Any:
        """As of others; tokens are a number, and `off` is false to YAML."""
        fields = super().without_spec("off" if value is False else str(value) if type(value) is int else value)
        off = isinstance(fields, Mapping) and fields.get("mode") is False
        return {**fields, "mode": "off"} if off else fields

    @model_validator(mode="after")
    def consistent(self) -> "ThinkingSettings":
        if self.mode == "off" and (self.effort or self.tokens):
            raise ValueError("effort and tokens have no effect while thinking is off; leave them out")
        if any(not opening or not closing for opening, closing in self.marks):
            raise ValueError("a mark is empty; expected pairs of texts, such as [<think>, </think>]")
        return self

    @cached_property
    def openings(self) -> tuple[str, ...]:
        return tuple(opening for opening, _ in self.marks)

    @cached_property
    def first_signs(self) -> tuple[str, ...]:
        """The characters that closing marks begin with: most answers hold none of them, which is seen at once."""
        return tuple({closing[0] for _, closing in self.marks})

    def kept(self) -> dict[str, Any]:
        """What of it decides what rows hold, of the same answers; empty where it is as usual."""
        usual = type(self).model_fields["marks"].default
        return ({"mode": "drop"} if self.mode == "drop" else {}) | (
            {"marks": self.marks} if self.marks != usual else {}
        )

    def identity(self) -> dict[str, Any]:
        """What of it decides which answers a model gives; empty where nothing is asked of it."""
        asked = {"off": self.mode == "off", "effort": self.effort, "tokens": self.tokens}
        return {name: value for name, value in asked.items() if value}
