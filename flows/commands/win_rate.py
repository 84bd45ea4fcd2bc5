"""`synthmill win-rate`: how often policies beat a baseline, and how often they would at equal lengths."""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from synthmill.schemas.errors import InputError
from synthmill.storage.plain_files.pools import ColumnNames, PoolFile
from synthmill.storage.plain_files.scored_answers import ScoredAnswers
from synthmill.tasks.cores import Array
from synthmill.tasks.trust.length_control import FEWEST, Gamed, estimated_difficulties, length_controlled

GAMED = ("index", "preference", "std_delta_len", "instruction_difficulty")


@dataclass(frozen=True)
class WinRateSettings:
    """The options of `synthmill win-rate`. chances: the score is the chance to beat the baseline, not a score of its
    own; gamed: AlpacaEval's df_gamed.csv.
    """

    source: str
    baseline: str
    score: str
    chances: bool
    gamed: Path | None
    columns: ColumnNames
    model_column: str


def win_rate_file(settings: WinRateSettings, as_object: bool) -> None:
    """Print a row per policy, the best first, as a table or as JSON."""
    rows = win_rates(settings)
    if as_object:
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    else:
        print_rates(rows)
    if few := [row["policy"] for row in rows if row["controlled"] is None]:
        print(f"{', '.join(few)}: fewer than {FEWEST} prompts, so no length control", file=sys.stderr)


def win_rates(settings: WinRateSettings) -> list[dict[str, Any]]:
    """Per policy its rates. Raises InputError."""
    prompts, policies, preferences, differences = read_preferences(settings)
    gamed, difficulties = read_gamed(settings.gamed, prompts) if settings.gamed else (None, None)
    if difficulties is None:
        difficulties = estimated_difficulties(preferences, differences)
    rows = []
    for place, policy in enumerate(policies):
        present = ~np.isnan(preferences[:, place])
        if present.any():
            of_policy = preferences[present, place], differences[present, place], difficulties[present]
            rows.append({"policy": policy, **length_controlled(*of_policy, gamed)._asdict()})
    return sorted(rows, key=lambda row: -(row["win_rate"] if row["controlled"] is None else row["controlled"]))


def read_preferences(settings: WinRateSettings) -> tuple[list[str], list[str], Array, Array]:
    """(prompt ids, policies, chances to beat the baseline, lengths of the baseline less theirs); NaN where there is
    none: both (prompts, policies). Of several answers of a policy to a prompt the first counts.
    """
    file = PoolFile(settings.source, settings.columns, rewards=not settings.score)
    score = settings.score or file.reward
    reader = ScoredAnswers(file, [score], settings.model_column)
    if not reader.model:
        raise InputError(f"{settings.source} does not say who wrote its answers; name the column with --model-column")
    answers: dict[str, dict[str, tuple[float | None, int]]] = {}
    for answer in reader:
        answers.setdefault(answer.prompt_id, {}).setdefault(answer.model, (answer.scores[0], len(answer.text)))
    policies = list(dict.fromkeys(name for pool in answers.values() for name in pool if name != settings.baseline))
    if not any(settings.baseline in pool for pool in answers.values()):
        names = ", ".join(policies[:10])
        raise InputError(f"no answer of {settings.source} is by {settings.baseline!r}; its models are {names}")
    preferences = np.full((len(answers), len(policies)), np.nan)
    differences = preferences.copy()
    places = {name: place for place, name in enumerate(policies)}
    for row, pool in enumerate(answers.values()):
        if settings.baseline not in pool:
            continue
        own, length = pool.pop(settings.baseline)
        for name, (value, characters) in pool.items():
            if value is not None and (settings.chances or own is not None):
                preferences[row, places[name]] = value if settings.chances else (1 + np.sign(value - (own or 0.0))) / 2
                differences[row, places[name]] = length - characters
    if settings.chances and not ((preferences >= 0) & (preferences <= 1) | np.isnan(preferences)).all():
        raise InputError(f"{score} has values outside 0 to 1, so it is no chance to win; leave --chances out")
    if np.isnan(preferences).all():
        raise InputError(f"no prompt of {settings.source} has scores of both a policy and {settings.baseline}")
    return list(answers), policies, preferences, differences


def read_gamed(path: Path, prompts: list[str]) -> tuple[Gamed, Array | None]:
    """The gamed baselines' rows, and the prompts' difficulties where `index` names them all. Raises InputError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = {name: [row[name] for row in rows] for name in GAMED}
        numbers = {name: np.array(columns[name], float) for name in GAMED[1:]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); expected a CSV file with {', '.join(GAMED)}"
        ) from error
    present = np.isfinite(numbers["preference"])
    kept = [numbers[name][present] for name in GAMED[1:]]
    difficulty = dict(zip(columns["index"], numbers["instruction_difficulty"], strict=True))
    known = all(prompt in difficulty for prompt in prompts)
    return Gamed(*kept), np.array([difficulty[prompt] for prompt in prompts]) if known else None


def print_rates(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.text import Text

    from synthmill.flows.terminal.tables import table

    numbers = ("prompts", "win rate", "at equal lengths")
    lines = table("policy", *numbers, numbers=numbers)
    for row in rows:
        rates = [
            "" if row[rate] is None else f"{row[rate]:.2f} +- {row[error]:.2f}"
            for rate, error in (("win_rate", "error"), ("controlled", "controlled_error"))
        ]
        lines.add_row(Text(row["policy"]), f"{row['prompts']:,}", *rates)
    Console(emoji=False).print(lines)
