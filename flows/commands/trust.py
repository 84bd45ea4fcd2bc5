"""`synthmill trust`: how far scores agree with people, and what they prefer without a reason."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from synthmill.flows.pages.trust_page import trust_page
from synthmill.schemas.errors import InputError
from synthmill.storage.files import write_text
from synthmill.storage.plain_files.human_labels import HumanLabels
from synthmill.storage.plain_files.pools import ColumnNames, PoolFile
from synthmill.storage.plain_files.scored_answers import ScoredAnswers
from synthmill.tasks.texts.languages import language_of
from synthmill.tasks.trust.comparisons import comparisons_of, comparisons_of_ratings
from synthmill.tasks.trust.trust import Trust, remarks

MEASURES = ("accuracy", "kappa", "alpha", "spearman")
CALIBRATION = {"ece": "calibration error", "brier": "Brier score", "auroc": "AUROC"}
LABELS = {"prompt": pl.Int64, "first": pl.Int64, "second": pl.Int64, "value": pl.Float64, "annotator": pl.String}
RATINGS = {"prompt": pl.Int64, "place": pl.Int64, "value": pl.Float64, "annotator": pl.String}


@dataclass(frozen=True)
class TrustSettings:
    """The options of `synthmill trust`. own: parts of the names of the judge's own family; page: an HTML file."""

    source: str
    labels: str
    scores: Sequence[str]
    columns: ColumnNames
    own: Sequence[str]
    model_column: str
    label_column: str
    page: Path | None
    draws: int
    seed: int


def trust_file(settings: TrustSettings, as_object: bool) -> None:
    """Print the figures as a table, or as one JSON object; write the page if one is asked for."""
    report = trust_of(settings)
    if settings.page:
        write_text(settings.page, trust_page(settings.source, report))
        print(f"-> {settings.page}", file=sys.stderr)
    if as_object:
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        print_report(report)


def trust_of(settings: TrustSettings) -> dict[str, Any]:
    """The figures of every scorer. Raises InputError."""
    file = PoolFile(settings.source, settings.columns, rewards=False)
    scores = list(dict.fromkeys(settings.scores or [file.reward]))
    if not scores[0]:
        raise InputError(f"{settings.source} has no column rewards or reward; name its scores with --score-column")
    answers, prompts, missing = read_answers(file, scores, settings)
    if not answers.height:
        raise InputError(f"{settings.source} has no answer that can be used")
    languages = [language_of(prompt) for prompt in prompts.values()]
    labels, ratings, faults = read_labels(settings, list(prompts), answers)
    columns = column_names(scores)
    comparisons = comparisons_of(
        pl.concat([labels, comparisons_of_ratings(ratings).select(labels.columns)]), answers, columns
    )
    trust = Trust(answers, comparisons, ratings, languages, settings.draws, settings.seed)
    rows = [trust.scorer(column, name) for column, name in zip(columns, scores, strict=True)]
    notes = [note for row in rows for note in remarks(row, missing[row["scorer"]])]
    if faults:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in faults.items())
        notes.insert(0, f"{sum(faults.values()):,} labels were not used: {reasons}")
    return {"prompts": len(prompts), "people": trust.people(), "scorers": rows, "notes": notes}


def read_answers(
    file: PoolFile, scores: Sequence[str], settings: TrustSettings
) -> tuple[pl.DataFrame, dict[str, str], dict[str, dict[str, int]]]:
    """(answers, prompt id -> prompt, per score why numbers are missing)."""
    reader = ScoredAnswers(file, scores, settings.model_column)
    family = [name.casefold() for name in settings.own]
    if family and not reader.model:
        raise InputError(f"{settings.source} does not say who wrote its answers; name the column with --model-column")
    prompts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    rows = []
    for answer in reader:
        number = numbers.setdefault(answer.prompt_id, len(numbers))
        prompts.setdefault(answer.prompt_id, answer.prompt)
        own = any(name in answer.model.casefold() for name in family)
        rows.append((number, answer.place, answer.text, len(answer.text), own, *answer.scores))
    kinds = {"prompt": pl.Int64, "place": pl.Int64, "text": pl.String, "length": pl.Int64, "own": pl.Boolean}
    frame = pl.DataFrame(rows, schema={**kinds, **dict.fromkeys(column_names(scores), pl.Float64)}, orient="row")
    return frame, prompts, {name: dict(counts) for name, counts in reader.missing.items()}


def column_names(scores: Sequence[str]) -> list[str]:
    """What scores are called in frames; a user's name could be that of another column."""
    return [f"score_{number}" for number in range(len(scores))]


def read_labels(
    settings: TrustSettings, prompts: Sequence[str], answers: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    """(labels of pairs, labels of answers, why others were not used)."""
    pairs: list[tuple[Any, ...]] = []
    ratings: list[tuple[Any, ...]] = []
    if settings.labels:
        number_of = {name: number for number, name in enumerate(prompts)}
        counts = answers.group_by("prompt", maintain_order=True).len()["len"].to_list()
        places: dict[tuple[int, str], int] = {}
        for prompt, place, text in answers.select("prompt", "place", "text").iter_rows():
            places.setdefault((prompt, text), place)
        reader = HumanLabels(settings.labels, settings.label_column)
        for label in reader:
            number = number_of.get(label.prompt_id)
            if number is None:
                reader.faults["unknown_prompt"] += 1
                continue
            sides = [
                places.get((number, side)) if isinstance(side, str) else side if side < counts[number] else None
                for side in (label.first, label.second)
                if side is not None
            ]
            if None in sides:
                reader.faults["unknown_answer"] += 1
            elif len(sides) == 2 and sides[0] == sides[1]:
                reader.faults["same_answer"] += 1
            else:
                (pairs if len(sides) == 2 else ratings).append((number, *sides, label.value, label.annotator))
        faults = dict(reader.faults)
        if not pairs and not ratings:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in faults.items())
            raise InputError(f"no label of {settings.labels} fits an answer of {settings.source} ({reasons})")
    else:
        faults = {}
    return (
        pl.DataFrame(pairs, schema=LABELS, orient="row"),
        pl.DataFrame(ratings, schema=RATINGS, orient="row"),
        faults,
    )


def print_report(report: Mapping[str, Any]) -> None:
    """Tables: agreement, slices, sides; then what to know of each scorer."""
    from rich.console import Console
    from rich.text import Text

    from synthmill.flows.terminal.tables import table

    console, people = Console(emoji=False), report["people"]
    if people["comparisons"]:
        lines = table("scorer", "pairs", *MEASURES, numbers=("pairs", *MEASURES))
        for row in report["scorers"]:
            measures = (interval(row[measure], measure == "accuracy") for measure in MEASURES)
            lines.add_row(Text(row["scorer"]), f"{row['comparisons']:,}", *measures)
        if people["alpha"]["value"] is not None:
            cell = interval(people["alpha"], False)
            lines.add_row(Text("people with each other"), f"{people['by_several']:,}", "", "", cell, "")
        console.print(lines)
        lines = table("scorer", "people prefer", "pairs", "accuracy", numbers=("pairs", "accuracy"))
        for row in report["scorers"]:
            for part in row["slices"]:
                name = f"{part['by']}: {part['slice']}"
                count, share = f"{part['comparisons']:,}", interval(part["accuracy"], True)
                lines.add_row(Text(row["scorer"]), Text(name), count, share)
        console.print(lines)
    if calibrated := [row for row in report["scorers"] if row["calibration"]]:
        lines = table("scorer", *CALIBRATION.values(), numbers=tuple(CALIBRATION.values()))
        for row in calibrated:
            lines.add_row(Text(row["scorer"]), *(interval(row["calibration"][name], False) for name in CALIBRATION))
        console.print(lines)
    numbers = ("pairs", "prefers it", "above people")
    lines = table("scorer", "side", *numbers, numbers=numbers)
    for row in report["scorers"]:
        for side in row["sides"]:
            cells = f"{side['pairs']:,}", interval(side["share"], True), interval(side["above_people"], True)
            lines.add_row(Text(row["scorer"]), Text(side["side"]), *cells)
    console.print(lines)
    for note in report["notes"]:
        print(note, file=sys.stderr)


def interval(measure: Mapping[str, float | None], as_share: bool) -> str:
    """A value with its interval."""
    value, low, high = (measure[name] for name in ("value", "low", "high"))
    if value is None:
        return ""
    return f"{value:.1%} ({low:.1%} to {high:.1%})" if as_share else f"{value:.2f} ({low:.2f} to {high:.2f})"
