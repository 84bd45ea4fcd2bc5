"""Openings: what is so in a dialogue before its first turn, and which of several dialogues on one input it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from schemas.dialogues import Opening
from schemas.errors import Drop
from schemas.hashing import child_id, digest
from schemas.rows import Dropped
from tasks.engines.worlds import draw_facts, load_world
from tasks.frames import FrameStage


class Openings(FrameStage):
    """Inputs -> dialogues to be: `branches` of each, with the facts that only its environment knows, drawn by seed.

    Facts come from the application's world (`draw`), else from its list, else they are left to the planner.
    """

    name: ClassVar = "openings"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "application", "pseudo_input")
    adds: ClassVar = tuple(Opening.model_fields)

    branches: int = Field(1, ge=1)
    seed: int = Field(0, ge=0)
    timeout_s: float = Field(60, exclude=True)
    worlds: dict[str, str] = Field(default_factory=dict, description="where each world's file is")

    def rows_per_row(self) -> int:
        return self.branches

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        """Where a world's file lies decides nothing; its hash is in its name."""
        found = super().identity(engines)
        return {**found, "settings": {"branches": self.branches, "seed": self.seed}}

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        per_row = frame.with_columns(branch=pl.lit(list(range(self.branches)), dtype=pl.List(pl.Int64)))
        opened = per_row.explode("branch")
        facts: list[str | None] = []
        dropped: dict[str, Dropped] = {}
        told = zip(opened["application"].to_list(), opened["pseudo_input"], opened["id"], opened["branch"], strict=True)
        for application, given, row_id, branch in told:
            try:
                facts.append(self.facts(application, given, branch))
            except Drop as drop:
                facts.append(None)
                dropped[row_id] = Dropped(id=row_id, reason=drop.reason, detail=drop.detail[:500])
        made = opened.with_columns(
            pl.Series("facts", facts, dtype=pl.String),
            pl.Series("parent_id", opened["id"]),
            pl.Series(
                "id", [child_id(row, n) for row, n in opened.select("id", "branch").iter_rows()], dtype=pl.String
            ),
        ).filter(~pl.col("parent_id").is_in(list(dropped)))
        return made.select(*Opening.model_fields), list(dropped.values())

    def facts(self, application: Mapping[str, Any], given: str, branch: int) -> str:
        """The facts of one dialogue, by a seed that stays when other things in the application change. Raises Drop."""
        seed = int.from_bytes(digest([self.seed, application["name"], given, branch], size=6), "big")
        if world := application["environment"]["world"]:
            return draw_facts(load_world(self.worlds[world], world), seed, given, self.timeout_s)
        facts: Sequence[str] = application["environment"]["facts"]
        return facts[seed % len(facts)] if facts else ""
