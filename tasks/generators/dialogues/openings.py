"""Openings: the state of a dialogue before its first turn, and its branch (one of several dialogues on one input)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from synthmill.schemas.dialogues import Opening
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import child_id, digest
from synthmill.schemas.rows import Dropped, row_columns
from synthmill.tasks.engines.worlds import draw_facts, load_world
from synthmill.tasks.frames import FrameStage


class Openings(FrameStage):
    """Inputs -> `branches` dialogue openings each, with the facts that only the environment knows, drawn by seed.

    Facts come from the application's world (`draw`), else from its list, else from the planner.
    """

    name: ClassVar = "openings"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "application", "pseudo_input")
    adds: ClassVar = row_columns(Opening)

    branches: int = Field(1, ge=1)
    seed: int = Field(0, ge=0)
    timeout_s: float = Field(60, exclude=True)
    worlds: dict[str, str] = Field(default_factory=dict, description="where each world's file is")

    def rows_per_row(self) -> int:
        return self.branches

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        """Without the paths of worlds' files: a world's name holds its hash."""
        identity = super().identity(engines)
        return {**identity, "settings": {"branches": self.branches, "seed": self.seed}}

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        per_row = frame.with_columns(branch=pl.lit(list(range(self.branches)), dtype=pl.List(pl.Int64)))
        expanded = per_row.explode("branch")
        facts: list[str | None] = []
        dropped: dict[str, Dropped] = {}
        columns = (expanded[name].to_list() for name in ("application", "pseudo_input", "id", "branch"))
        for application, pseudo_input, row_id, branch in zip(*columns, strict=True):
            try:
                facts.append(self.draw_facts(application, pseudo_input, branch))
            except Drop as drop:
                facts.append(None)
                dropped[row_id] = Dropped(id=row_id, reason=drop.reason, detail=drop.detail[:500])
        rows = expanded.with_columns(
            pl.Series("facts", facts, dtype=pl.String),
            pl.Series("parent_id", expanded["id"]),
            pl.Series(
                "id", [child_id(row, n) for row, n in expanded.select("id", "branch").iter_rows()], dtype=pl.String
            ),
        ).filter(~pl.col("parent_id").is_in(list(dropped)))
        return rows.select(name for name in Opening.model_fields if name in rows.columns), list(dropped.values())

    def draw_facts(self, application: Mapping[str, Any], pseudo_input: str, branch: int) -> str:
        """One dialogue's facts, by a seed that does not depend on the rest of the application. Raises Drop."""
        seed = int.from_bytes(digest([self.seed, application["name"], pseudo_input, branch], size=6), "big")
        if world := application["environment"]["world"]:
            return draw_facts(load_world(self.worlds[world], world), seed, pseudo_input, self.timeout_s)
        facts: Sequence[str] = application["environment"]["facts"]
        return facts[seed % len(facts)] if facts else ""
