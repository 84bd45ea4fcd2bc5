"""The page of `synthmill trust`: one picture, and the figures behind it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from synthmill.flows.pages.charts import Whisker, whiskers
from synthmill.flows.pages.templates import FOLDER, render


def trust_page(source: str, report: Mapping[str, Any]) -> str:
    """HTML without scripts. What the files say is escaped."""
    return render(
        "trust.html",
        source=Path(source).name,
        report=report,
        picture=Markup(whiskers(list(marks(report)), "Agreement with people, and what scorers prefer", middle=0.5)),
        style=Markup((FOLDER / "report.css").read_text()),
    )


def marks(report: Mapping[str, Any]) -> Iterator[Whisker]:
    """A line per scorer and slice: accuracy with its interval; then how often it prefers each side."""
    for number, row in enumerate(report["scorers"]):
        colour = f"s{(number + 2) % 3}"
        figures = [("accuracy", row["accuracy"])]
        figures += [(f"{part['by']}: {part['slice']}", part["accuracy"]) for part in row["slices"]]
        figures += [(f"prefers: {side['side']}", side["share"]) for side in row["sides"]]
        for name, figure in figures:
            if figure["value"] is not None:
                yield Whisker(f"{row['scorer']}, {name}", figure["value"], figure["low"], figure["high"], colour)
