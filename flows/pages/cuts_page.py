"""The page of `synthmill compare-cuts`: what rules keep of the same rows, in pictures and numbers."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from synthmill.flows.pages.charts import Whisker, histogram, whiskers
from synthmill.flows.pages.templates import FOLDER, render
from synthmill.tasks.cores import Array
from synthmill.tasks.tables.rule_figures import Choice


def cuts_page(source: str, report: Mapping[str, Any], choices: Sequence[Choice], scores: Array) -> str:
    """HTML without scripts. What the files say is escaped. scores: of all answers or rows."""
    return render(
        "cuts.html",
        source=Path(source).name,
        report=report,
        shares=Markup(whiskers(list(shares(report)), "What each rule keeps", middle=0.5)),
        pictures=[(choice.name, Markup(scores_of(choice, scores))) for choice in choices],
        style=Markup((FOLDER / "report.css").read_text()),
    )


def shares(report: Mapping[str, Any]) -> Iterator[Whisker]:
    for row in report["rules"]:
        yield Whisker(row["rule"], row["share"], 0.0, row["share"])


def scores_of(choice: Choice, scores: Array) -> str:
    """The scores of everything, and of what a rule keeps; empty without scores."""
    kept = {"rejected": choice.columns["rejected_score"]} if "rejected_score" in choice.columns else {}
    name = "chosen" if kept else "kept"
    return histogram({"all answers": scores, **kept, name: choice.columns["score"]}, f"Scores by {choice.name}")
