"""An artifact's own record: a seal per part, and the manifest, which is written last and makes the artifact exist."""

from typing import Any, Literal

from pydantic import Field

from synthmill.schemas.calls import Frozen
from synthmill.schemas.hashing import content_hash

FORMAT: Literal[1] = 1
SETTLED_AFTER = 2  # runs that lost the same answer


class Loss(Frozen):
    """An answer that a failing engine lost. One that two runs lost is settled: runs ask for it again only on demand."""

    runs: int = 1
    run: str = Field("", description="the last of these runs")
    error: str = Field("", description="the engine's words: reason, colon, detail")

    @property
    def settled(self) -> bool:
        return self.runs >= SETTLED_AFTER


class PartSeal(Frozen):
    """One finished part. content: hash of its rows, which keys the next stage's part; checksum: of the Parquet file.

    spent: per role, requests sent, reused, failed, and tokens.
    """

    key: str
    stage: str
    file: str = Field(description="Parquet, relative to the store")
    checksum: str
    content: str
    rows_in: int
    rows: int
    dropped_file: str | None = None
    dropped_checksum: str | None = None
    dropped: dict[str, int] = Field(default_factory=dict)
    lost_answers: int = Field(0, description="answers lost to a failing engine")
    lost: dict[str, Loss] = Field(default_factory=dict, description="those answers, by call key")
    spent: dict[str, dict[str, int]] = Field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether the next run has no lost answer of this part to ask for again."""
        return self.lost_answers == 0 or (bool(self.lost) and all(loss.settled for loss in self.lost.values()))


class Manifest(Frozen):
    """How one artifact was made. sources: the artifacts it was made from, with their content at that time."""

    format: Literal[1] = FORMAT
    stage: str
    key: str
    identity: dict[str, Any]
    sources: dict[str, str] = Field(default_factory=dict, description="artifact key -> content")
    columns: dict[str, str] = Field(default_factory=dict, description="column -> Arrow type")
    parts: tuple[PartSeal, ...]
    files: dict[str, str] = Field(default_factory=dict, description="what is not Parquet: name -> checksum")
    notes: dict[str, Any] = Field(default_factory=dict, description="what the stage has to say of what it did")
    run: str = ""
    made_at: str = ""

    @property
    def reference(self) -> str:
        """The artifact's name for people and for SQL: stage_1a2b3c4d."""
        return f"{self.stage}_{self.key[:8]}"

    @property
    def content(self) -> str:
        """A hash of every row, in order."""
        return content_hash([part.content for part in self.parts])

    @property
    def rows_in(self) -> int:
        return sum(part.rows_in for part in self.parts)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def dropped(self) -> dict[str, int]:
        """Rows dropped, by reason, the most frequent first."""
        counts: dict[str, int] = {}
        for part in self.parts:
            for reason, count in part.dropped.items():
                counts[reason] = counts.get(reason, 0) + count
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    @property
    def spent(self) -> dict[str, dict[str, int]]:
        """Per role, what all runs spent on the parts."""
        return add_spent(part.spent for part in self.parts)


def add_spent(tables: Any) -> dict[str, dict[str, int]]:
    """Add up {role: {what: number}} tables."""
    total: dict[str, dict[str, int]] = {}
    for spent in tables:
        for role, numbers in spent.items():
            role_total = total.setdefault(role, {})
            for counter, number in numbers.items():
                role_total[counter] = role_total.get(counter, 0) + number
    return total
