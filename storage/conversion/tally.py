"""What is said of a conversion: rows left out, and what the written ones lost, each with the first place."""

from dataclasses import dataclass, field


@dataclass
class Count:
    """How many rows, and where the first one is."""

    rows: int
    first: str
    detail: str = ""


@dataclass
class Tally:
    """Counts by name."""

    counts: dict[str, Count] = field(default_factory=dict)

    def add(self, name: str, place: str, detail: str = "") -> None:
        count = self.counts.setdefault(name, Count(0, place, detail))
        count.rows += 1

    @property
    def rows(self) -> int:
        return sum(count.rows for count in self.counts.values())

    def lines(self) -> list[str]:
        """A line each, the most frequent first."""
        ordered = sorted(self.counts.items(), key=lambda item: -item[1].rows)
        return [
            f"{name}: {count.rows:,} rows, the first {count.first}{f' ({count.detail})' if count.detail else ''}"
            for name, count in ordered
        ]

    def as_dict(self) -> dict[str, dict[str, str | int]]:
        return {name: {"rows": count.rows, "first": count.first} for name, count in self.counts.items()}


@dataclass
class Report:
    """A conversion. kinds: rows read, by kind; left_out: rows not written, by reason; lost: rows that lack something,
    by what it is; not_compared: rows written that could not be read again to know that.
    """

    form: str
    rows: int = 0
    written: int = 0
    not_compared: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    left_out: Tally = field(default_factory=Tally)
    lost: Tally = field(default_factory=Tally)
