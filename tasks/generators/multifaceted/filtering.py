"""Filtering instructions: no duplicates, no system or persona message, only some languages and lengths.

Source: docs/papers.md#multifaceted, "filter"; the paper names duplicates and persona messages, the rest is ours.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.rows import Dropped, Instruction
from synthmill.schemas.texts import normalised
from synthmill.tasks.frames import FrameStage, even_parts
from synthmill.tasks.texts.languages import language_of

PERSONA = re.compile(
    r"^\W*(you are (now )?(an? |the (?!best|one|only)|my |going to (act|be|play|pretend) )|you're an? |"
    r"act as (?!soon|if )|i want you to (act|be|play|pretend)|i need you to act|"
    r"pretend (to be|you are|that you are)|imagine (that )?you are (an? |the )|"
    r"from now on,? you (are|will|must|act) |assume the role |play the role |take on the role |your role is |as an ai |"
    r"(please )?(act|behave|speak|respond|reply) (as|like) (an?|the|if you) )",
    re.IGNORECASE,
)
ROLES = re.compile(r"^\W*(system\s*:\s*you |<\|system\|>|<\|im_start\|>system|<<sys>>|\[inst\])", re.IGNORECASE)


class FilterInstructions(FrameStage):
    """Instructions -> those that any system message may precede.

    Drops, by reason, in this order: has_system, persona, too_short, too_long, language, duplicate (the
    first in order of id stays). Source: docs/papers.md#multifaceted, "filter".
    """

    name: ClassVar = "filtered"
    version: ClassVar = "2"
    whole: ClassVar = True
    needs: ClassVar = tuple(Instruction.model_fields)

    languages: tuple[str, ...] = ("en",)
    min_chars: int = 10
    max_chars: int = 8000
    keep_personas: bool = False
    rows_per_part: int = Field(256, ge=1)

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        dropped: list[Dropped] = []
        kept: list[bool] = []
        first: dict[str, str] = {}
        faults = [self.fault_of(row) for row in frame.iter_rows(named=True)]
        keys = [normalised(prompt) for prompt in frame["prompt"]]
        for row_id, key, fault in sorted(zip(frame["id"], keys, faults, strict=True)):
            if not fault:
                first.setdefault(key, row_id)
        for row_id, key, fault in zip(frame["id"], keys, faults, strict=True):
            if not fault and first[key] != row_id:
                fault = f"duplicate: of {first[key]}"
            kept.append(not fault)
            if fault:
                reason, _, detail = fault.partition(": ")
                dropped.append(Dropped(id=row_id, reason=reason, detail=detail[:500]))
        return frame.filter(pl.Series(kept, dtype=pl.Boolean)), dropped

    def fault_of(self, row: Mapping[str, Any]) -> str:
        """The fault of one instruction by itself, as `reason: detail`; empty if it has none."""
        prompt = row["prompt"].strip()
        if not self.keep_personas:
            if row["system"] and row["system"].strip():
                return f"has_system: {row['system']}"
            if match := PERSONA.match(prompt) or ROLES.match(prompt):
                return f"persona: {match.group().strip()}"
        if len(prompt) < self.min_chars:
            return f"too_short: {len(prompt)} characters"
        if len(prompt) > self.max_chars:
            return f"too_long: {len(prompt)} characters"
        language = language_of(prompt)
        return f"language: {language}" if self.languages and language and language not in self.languages else ""
