"""The patterns behind a model's failures, and new prompts of them. Source: docs/papers.md#self-challenge."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from synthmill.schemas.calls import Completion, Frozen, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import child_id, digest
from synthmill.schemas.rows import Dropped, Row
from synthmill.schemas.texts import one_line
from synthmill.tasks.frames import FrameStage, frame_schema
from synthmill.tasks.generators.failures import PromptSet
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_until, read_json
from synthmill.tasks.texts.prompt_faults import OVERLAP, check_prompt


class Failure(Frozen):
    """A prompt, the answer that was not good enough, and a good one, where there is one."""

    prompt: str
    answer: str
    reference: str = ""


class FailureGroup(Row):
    """Failures that are looked at together."""

    failures: tuple[Failure, ...]


class PatternText(Frozen):
    """What a kind of prompt has that makes a model fail, with a name."""

    name: str
    description: str


class PatternSet(Row):
    """The patterns of a group of failures; `explode` makes a row of each. failures: the group's."""

    pattern: tuple[PatternText, ...]
    failures: tuple[Failure, ...] = ()


class Pattern(Row):
    """One pattern, with failures that show it, where they are known."""

    pattern: PatternText
    failures: tuple[Failure, ...] = ()


class CheckedPattern(Pattern):
    """A pattern that was looked at. accepted: whether prompts can be written from it; remark: why, or why not."""

    accepted: bool
    remark: str = ""


class FailureGroups(FrameStage):
    """Prompts with their verdicts -> groups of about `size` that failed, in their order. A hash of a row's id says
    whether a group ends with it, so rows that are added change no group but the one they fall into. Drops: passed.
    """

    name: ClassVar = "failure_groups"
    version: ClassVar = "1"
    whole: ClassVar = True
    needs: ClassVar = ("id", "prompt", "failed", "worst_answer")
    adds: ClassVar = tuple(FailureGroup.model_fields)

    size: int = Field(5, ge=1)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        known = [name for name in (*self.needs, "reference") if name in frame.columns]
        groups: list[list[dict[str, Any]]] = [[]]
        for row in frame.filter(pl.col("failed")).select(known).iter_rows(named=True):
            groups[-1].append(row)
            ends = int.from_bytes(digest(["group", row["id"]], size=4)) % self.size == 0
            if ends or len(groups[-1]) == 2 * self.size:
                groups.append([])
        rows, drops = [], [Dropped(id=row_id, reason="passed") for row_id in frame.filter(~pl.col("failed"))["id"]]
        for first, *others in filter(None, groups):
            failures = [
                {"prompt": row["prompt"], "answer": row["worst_answer"], "reference": row.get("reference") or ""}
                for row in (first, *others)
            ]
            ids = {"id": child_id(first["id"], self.name), "parent_id": first["id"]}
            rows.append({**ids, "failures": failures})
            drops += [Dropped(id=row["id"], reason="in_group", detail=f"of {first['id']}") for row in others]
        return pl.DataFrame(rows, schema=frame_schema(FailureGroup)), drops


class PatternRows(FrameStage):
    """Rows with `name` and `description`, from a person's file -> patterns. Drops: empty_pattern."""

    name: ClassVar = "pattern_rows"
    version: ClassVar = "1"
    needs: ClassVar = ("id", *PatternText.model_fields)
    adds: ClassVar = tuple(Pattern.model_fields)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        written = pl.col("name").str.contains(r"\S") & pl.col("description").str.contains(r"\S")
        empty = frame.filter(~written.fill_null(value=False))["id"]
        rows = frame.filter(written).select("id", pattern=pl.struct(*PatternText.model_fields)).to_dicts()
        schema = frame_schema(Pattern)
        patterns = [{**row, "parent_id": "", "failures": []} for row in rows]
        return pl.DataFrame(patterns, schema=schema), [Dropped(id=row_id, reason="empty_pattern") for row_id in empty]


class ErrorPatterns(Recipe[FailureGroup, PatternSet]):
    """Failures -> up to `count` patterns behind them. Drops: bad_patterns."""

    name: ClassVar = "error_patterns"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"self_challenge/patterns": ("count", "most")}

    count: int = Field(2, ge=1)
    longest: int = Field(1200, ge=1, description="characters of a prompt or an answer that are shown")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: FailureGroup) -> Steps[PatternSet]:
        texts = {name: {"type": "string", "minLength": 1} for name in PatternText.model_fields}
        pattern = {"type": "object", "properties": texts, "required": list(texts), "additionalProperties": False}
        request = Request(
            role="teacher",
            messages=load("self_challenge/patterns").render(row=row, count=self.count, most=self.longest),
            sampling=self.sampling,
            schema_=object_of("patterns", pattern, self.count),
        )

        def parse(completion: Completion) -> PatternSet:
            listed = read_json(completion, "bad_patterns").get("patterns")
            entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
            fields = [[one_line(str(entry.get(name) or "")) for name in texts] for entry in entries]
            patterns = {name.casefold(): PatternText(name=name, description=text) for name, text in fields if text}
            if not patterns:
                raise Drop("bad_patterns: it had no pattern with a name and a description")
            return PatternSet.child_of(row, self.name, pattern=tuple(patterns.values())[: self.count])

        return (yield from ask_until(request, self.attempts, parse))


class CheckedPatterns(Recipe[Pattern, CheckedPattern]):
    """Pattern -> the same, with a judge's verdict: whether it says what makes prompts hard, and not only what they are
    about. Drops: bad_verdict.
    """

    name: ClassVar = "checked_patterns"
    version: ClassVar = "1"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"self_challenge/check": ()}

    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: Pattern) -> Steps[CheckedPattern]:
        verdict = {"remark": {"type": "string"}, "verdict": {"enum": ["accept", "refuse"]}}
        request = Request(
            role="judge",
            messages=load("self_challenge/check").render(row=row),
            sampling=self.sampling,
            schema_={"type": "object", "properties": verdict, "required": list(verdict), "additionalProperties": False},
        )

        def parse(completion: Completion) -> CheckedPattern:
            answer = read_json(completion, "bad_verdict")
            if answer.get("verdict") not in ("accept", "refuse"):
                raise Drop("bad_verdict: its verdict was neither accept nor refuse")
            remark, accepted = one_line(str(answer.get("remark") or "")), answer["verdict"] == "accept"
            return CheckedPattern.child_of(row, self.name, accepted=accepted, remark=remark)

        return (yield from ask_until(request, self.attempts, parse))


class PatternPrompts(Recipe[Pattern, PromptSet]):
    """Pattern -> up to `count` different prompts of it, from one answer. Those with a fault are left out.

    Drops, where none is left: bad_prompts, or the first prompt's fault.
    """

    name: ClassVar = "pattern_prompts"
    version: ClassVar = "2"
    roles: ClassVar = ("teacher",)
    adds_own_columns: ClassVar = True
    prompts: ClassVar = {"self_challenge/instances": ("count",)}

    count: int = Field(10, ge=1)
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: Pattern) -> Steps[PromptSet]:
        request = Request(
            role="teacher",
            messages=load("self_challenge/instances").render(row=row, count=self.count),
            sampling=self.sampling,
            schema_=object_of("prompts", {"type": "string", "minLength": 1}, self.count),
        )
        failed_prompts = tuple(failure.prompt for failure in row.failures)

        def parse(completion: Completion) -> PromptSet:
            listed = read_json(completion, "bad_prompts").get("prompts")
            texts = [text for text in listed if isinstance(text, str)] if isinstance(listed, list) else []
            prompts, faults = dict[str, None](), list[Drop]()
            for text in texts:
                try:
                    prompts[check_prompt(text, (*failed_prompts, *prompts), OVERLAP)] = None
                except Drop as fault:
                    faults.append(fault)
            if not prompts:
                raise faults[0] if faults else Drop("bad_prompts: it listed none")
            kept = tuple(prompts)[: self.count]
            return PromptSet.child_of(
                row, self.name, prompt=kept, shown=failed_prompts, group=row.id, origin=row.pattern.name
            )

        return (yield from ask_until(request, self.attempts, parse))


def object_of(name: str, items: Mapping[str, Any], most: int) -> dict[str, Any]:
    """A JSON schema for an object of one list."""
    texts = {"type": "array", "items": items, "minItems": 1, "maxItems": most}
    return {"type": "object", "properties": {name: texts}, "required": [name], "additionalProperties": False}
