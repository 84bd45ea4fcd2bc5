"""New prompts of any rows, without those that are too like one that is there already.

Source: docs/papers.md#self-instruct, the post-processing.
"""

from pathlib import Path
from typing import ClassVar

import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import Store, read_artifact, read_manifest
from synthmill.tasks.frames import Artifact, Artifacts, FrameStage, even_parts
from synthmill.tasks.generators.self_rip import PromptRules
from synthmill.tasks.texts.rouge import find_too_alike


class NovelPrompts(PromptRules, FrameStage):
    """Rows with a `prompt` -> those worth asking, with all their columns. Drops, in this order: length, keyword,
    program, start, too_alike.

    too_alike: ROUGE-L >= `overlap` with a prompt of the steps `against`, or an earlier one of these rows.
    """

    name: ClassVar = "novel_prompts"
    version: ClassVar = "1"
    whole: ClassVar = True
    needs: ClassVar = ("id", "prompt")

    programs: bool = Field(False, description="keep prompts that begin with `write a program`")
    against: Artifacts = ()
    rows_per_part: int = Field(256, ge=1)

    def others(self) -> tuple[Artifact, ...]:
        return self.against

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def fault(self, prompt: str) -> str:
        fault = super().fault(prompt)
        return "" if fault == "program" and self.programs else fault

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        ids, prompts = frame["id"].to_list(), frame["prompt"].to_list()
        faults = [self.fault(prompt) for prompt in prompts]
        dropped = [Dropped(id=row, reason=fault) for row, fault in zip(ids, faults, strict=True) if fault]
        good = [place for place, fault in enumerate(faults) if not fault]
        existing = [prompt for artifact in self.against for prompt in prompts_of(Store(store), artifact)]
        matches, scores = find_too_alike([prompts[place] for place in good], existing, self.overlap)
        texts = [*existing, *(prompts[place] for place in good)]
        for place, match, score in zip(good, matches.tolist(), scores.tolist(), strict=True):
            if match >= 0:
                detail = f"ROUGE-L {score:.3f} with: {texts[match]}"[:500]
                dropped.append(Dropped(id=ids[place], reason="too_alike", detail=detail))
        gone = [row.id for row in dropped]
        return frame.filter(~pl.col("id").is_in(gone)), dropped


def prompts_of(store: Store, artifact: Artifact) -> list[str]:
    """The prompts of another step's rows."""
    manifest = read_manifest(store.manifest_path(*artifact))
    return list(read_artifact(store, manifest, ("prompt",))["prompt"].to_pylist())
