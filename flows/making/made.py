"""What a session read or made: rows that can be looked at, and the source of what comes next."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape

import polars as pl
import pyarrow as pa

from synthmill.flows.making.steps import KnownArtifact
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.settings_files import read_settings
from synthmill.storage.artifacts import CALLS, Store, read_dropped
from synthmill.storage.published.by_columns import AS_IT_IS, TableForm
from synthmill.storage.published.configurations import Kind
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import stream_of

SHOWN = 5


@dataclass(frozen=True, eq=False)
class Made:
    """An artifact of a session. Stages whose settings name other artifacts take it there, too.

    known: what a plan knows of it; spent: what the session spent on it, by role; form: how its rows are published.
    """

    store: Store
    manifest: Manifest
    known: KnownArtifact
    spent: dict[str, dict[str, int]] = field(default_factory=dict)
    form: TableForm = AS_IT_IS

    @property
    def step(self) -> str:
        """Its id in the session's run."""
        return self.known.step

    @property
    def columns(self) -> pa.Schema:
        """The columns of its rows."""
        return self.known.columns

    @property
    def carried(self) -> frozenset[str]:
        """Those of its columns that are the user's own, and go on with the rows."""
        return self.known.carried

    @property
    def stage(self) -> str:
        """The name of the stage that made it."""
        return self.manifest.stage

    @property
    def key(self) -> str:
        """What identifies it: a hash of settings, prompts, engines' names and source."""
        return self.manifest.key

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.manifest.rows

    @property
    def dropped(self) -> dict[str, int]:
        """How many rows could not be read or made, by reason."""
        return dict(self.manifest.dropped)

    def frame(self, columns: list[str] | None = None) -> pl.DataFrame:
        """The rows in memory, with all columns or some. Raises StoreError for a part that is not as it was written."""
        frame = stream_of(self.store, self.manifest).frame(columns)
        return frame if columns else frame.drop(CALLS, strict=False)

    def stream(self) -> RowStream:
        """The rows batch by batch, for artifacts that do not fit into memory."""
        return stream_of(self.store, self.manifest)

    def as_table(
        self,
        kind: Kind | None = None,
        *,
        prompt: str = "prompt",
        system: str = "system",
        answer: str = "",
        columns: Sequence[str] | None = None,
        about: str = "",
    ) -> "Made":
        """The same rows, to be published as `publish` has them in a pipeline's file.

        kind: completions, preferences, conversations, prompts, triplets or other; default: what the columns say.
        prompt, system, answer: their columns; of pools, answer is a policy or `best by SCORE`. columns: further ones,
        default: all. about: what a row is. Raises InputError where the rows lack what this kind needs.
        """
        values = {"kind": kind, "prompt": prompt, "system": system, "answer": answer, "columns": columns}
        form = read_settings(TableForm, None, {**values, "about": about})
        form.check(self.columns.names, self.step)
        return replace(self, form=form)

    def drops(self) -> pl.DataFrame:
        """The rows that could not be read or made: id, reason, detail."""
        drops = [row.model_dump() for seal in self.manifest.parts for row in read_dropped(self.store, seal)]
        return pl.DataFrame(drops, schema=dict.fromkeys(("id", "reason", "detail"), pl.String))

    def head(self) -> pl.DataFrame:
        """The first rows."""
        frame = self.stream().take(range(min(SHOWN, self.rows)))
        return frame.drop(CALLS, strict=False)

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items()) or "none"
        calls = sum(numbers.get("sent", 0) for numbers in self.spent.values())
        return (
            f"{self.step}: {self.rows:,} rows, dropped: {reasons}, {calls:,} calls sent ({self.stage}@{self.key[:8]})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.head()._repr_html_()}"
