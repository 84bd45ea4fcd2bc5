"""`synthmill compare-cuts`: what several rules keep of the same pools or rows, side by side."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import orjson
import polars as pl
import pyarrow as pa

from synthmill.flows.commands.option_values import split_set
from synthmill.flows.commands.pairs import write_pairs_of
from synthmill.flows.commands.row_rules import RowRules
from synthmill.flows.pages.cuts_page import cuts_page
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.settings_files import read_settings
from synthmill.storage.artifacts import Store
from synthmill.storage.files import write_text
from synthmill.storage.plain_files.lines import lines_of
from synthmill.storage.plain_files.pools import ColumnNames, PoolFile, read_pools
from synthmill.storage.plain_files.text_rows import text_column, texts_in
from synthmill.tasks.cores import Array
from synthmill.tasks.cuts.cut import CutSettings
from synthmill.tasks.cuts.rules import rules as rules_for_pairs
from synthmill.tasks.tables.rule_figures import Choice, RowTexts, contaminated_rows, overlap, rule_figures
from synthmill.tasks.vectors.embeddings import embed_whole

NO_EMBEDDER = "none"
MEASURES = (
    *("kept", "share", "score", "rejected_score", "length", "rejected_length", "vendi", "different_grams"),
    *("contaminated", "cost_per_kept"),
)
PAIR = ("prompt_id", "chosen_index", "rejected_index")


@dataclass(frozen=True)
class CompareSettings:
    """The options of `synthmill compare-cuts`. rules: names, each with its settings behind colons; cost: of all rows
    together; limit: the first rows only.
    """

    source: str
    rules: Sequence[str]
    columns: ColumnNames
    score: str
    text_column: str
    against: Sequence[str]
    cost: float | None
    embedder: str
    limit: int | None
    store: str
    page: Path | None


class Compared(NamedTuple):
    """The rows that rules chose from, what each chose, and how many answers there are. scores: of all, for pictures."""

    ids: list[str]
    texts: list[str]
    choices: list[Choice]
    answers: int
    scores: Array
    notes: list[str]


def compare_cuts(settings: CompareSettings, as_object: bool) -> None:
    """Print the figures as tables, or as one JSON object; write the page if one is asked for."""
    compared, report = compare(settings)
    if settings.page:
        write_text(settings.page, cuts_page(settings.source, report, compared.choices, compared.scores))
        print(f"-> {settings.page}", file=sys.stderr)
    if as_object:
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        print_report(report)


def compare(settings: CompareSettings) -> tuple[Compared, dict[str, Any]]:
    """What each rule keeps, and the figures. Raises InputError."""
    rules = [named_rule(text) for text in settings.rules]
    if not rules:
        raise InputError("--rules names no rule; expected for instance max-min,rip, or top:share=0.1:score=quality")
    are_for_pairs = {rule.name in rules_for_pairs() for rule in rules}
    if len(are_for_pairs) > 1:
        raise InputError("--rules names rules for pairs and stages on rows; compare what chooses from the same rows")
    compared = compare_pools(settings, rules) if are_for_pairs.pop() else compare_rows(settings, rules)
    store = Store(Path(settings.store).expanduser().resolve())
    vectors = None
    if settings.embedder != NO_EMBEDDER:
        store.prepare()
        vectors = embed_whole(settings.embedder, compared.texts, store.root)
    turns = [turn for path in settings.against for turn in turns_in(path)]
    contaminated = contaminated_rows(compared.texts, turns) if settings.against else None
    texts = RowTexts(compared.ids, compared.texts, vectors, contaminated)
    cost = float(compared.answers) if settings.cost is None else settings.cost
    return compared, {
        "rows": len(compared.ids),
        "answers": compared.answers,
        "cost": cost,
        "cost_unit": "answers" if settings.cost is None else "as stated",
        "all": texts.figures(np.arange(len(compared.ids))),
        "rules": [rule_figures(choice, texts, cost) for choice in compared.choices],
        "overlap": overlap(compared.choices),
        "overlap_of_choices": overlap(compared.choices, "keys"),
        "notes": compared.notes,
    }


class NamedRule(NamedTuple):
    """A rule as the user calls it, its own name, and its settings."""

    label: str
    name: str
    settings: dict[str, Any]


def named_rule(text: str) -> NamedRule:
    """Of NAME:KEY=VALUE:KEY=VALUE, or of LABEL=NAME:KEY=VALUE. Raises InputError."""
    first, *settings = text.split(":")
    label, equals, name = first.partition("=")
    values = dict(split_set(each, "--rules", "top-k:count=2") for each in settings)
    return NamedRule(label if equals else text, name or label, values)


def turns_in(path: str) -> Iterator[str]:
    """The texts of a benchmark, a message each."""
    column = text_column(path)
    for line in lines_of(path):
        if line.fields:
            try:
                yield from texts_in(line.fields.get(column))[1]
            except Drop:
                continue


def compare_pools(settings: CompareSettings, named: Sequence[NamedRule]) -> Compared:
    """Pools cut by every rule, as `synthmill pairs` does it."""
    if settings.limit or settings.text_column:
        raise InputError("--limit and --text-column are for rows; of pools, prompts are compared, all of them")
    cuts = [read_settings(CutSettings, None, {"rule": rule.name, **rule.settings}) for rule in named]
    with TemporaryDirectory() as folder:
        file = PoolFile(settings.source, settings.columns)
        ids, texts, rewards = read_pools(file, prompts_and_rewards, Path(folder))
        place = {row_id: number for number, row_id in enumerate(ids)}
        choices, notes = [], []
        for (label, *_), rule in zip(named, cuts, strict=True):
            out = Path(folder) / "pairs.parquet"
            summary = write_pairs_of(settings.source, out, rule, settings.columns)
            choices.append(pairs_chosen(label, pl.read_parquet(out), place))
            notes += [f"{label}: {count:,} prompts have no pair, {why}" for why, count in summary["dropped"].items()]
    return Compared(ids, texts, choices, len(rewards), rewards, notes)


def prompts_and_rewards(tables: Iterator[pa.Table]) -> tuple[list[str], list[str], Array]:
    """(ids, prompts, all rewards) of a file's pools."""
    ids: list[str] = []
    texts: list[str] = []
    rewards = [np.zeros(0)]
    for table in tables:
        ids += table["prompt_id"].to_pylist()
        texts += table["prompt"].to_pylist()
        rewards.append(pl.Series(table["rewards"]).explode().cast(pl.Float64).fill_null(np.nan).to_numpy())
    return ids, texts, np.concatenate(rewards)


def pairs_chosen(label: str, pairs: pl.DataFrame, place: Mapping[str, int]) -> Choice:
    """A rule's pairs as a choice among prompts."""
    pairs = pairs.with_columns(text_of(pairs, side) for side in ("chosen", "rejected"))
    rows = np.array([place[row_id] for row_id in pairs["prompt_id"]], np.int64)
    columns = {
        "score": pairs["chosen_reward"],
        "rejected_score": pairs["rejected_reward"],
        "length": pairs["chosen"].str.len_chars(),
        "rejected_length": pairs["rejected"].str.len_chars(),
    }
    numbers = {name: column.cast(pl.Float64).to_numpy() for name, column in columns.items()}
    return Choice(label, np.unique(rows), set(pairs.select(PAIR).iter_rows()), numbers)


def text_of(pairs: pl.DataFrame, side: str) -> pl.Expr:
    """An answer's text, whatever form `pairs` wrote it in."""
    if pairs.schema[side] == pl.String:
        return pl.col(side)
    return pl.col(side).list.last().struct.field("content").alias(side)


def compare_rows(settings: CompareSettings, named: Sequence[NamedRule]) -> Compared:
    """Rows chosen by every stage."""
    embedder = "" if settings.embedder == NO_EMBEDDER else settings.embedder
    columns = (settings.text_column, settings.score)
    source = RowRules(settings.source, settings.limit, *columns, settings.store, embedder)
    frame, choices = source.choose(named)
    return Compared(
        frame["id"].to_list(), frame["text"].to_list(), choices, frame.height, frame["score"].to_numpy(), []
    )


def print_report(report: Mapping[str, Any]) -> None:
    """The table, the overlaps, and what to know."""
    from rich.console import Console
    from rich.text import Text

    from synthmill.flows.terminal.tables import table

    console, rules = Console(emoji=False), report["rules"]
    names = [row["rule"] for row in rules]
    lines = table("", *names)
    for measure in MEASURES:
        if any(row.get(measure) is not None for row in rules):
            lines.add_row(measure.replace("_", " "), *(cell(row, measure) for row in rules))
    console.print(lines)
    lines = table("overlap (Jaccard)", *names)
    for name, shares in zip(names, report["overlap"], strict=True):
        lines.add_row(Text(name), *(f"{share:.2f}" for share in shares))
    console.print(lines)
    for note in report["notes"]:
        print(note, file=sys.stderr)


def cell(row: Mapping[str, Any], name: str) -> str:
    """A figure; of diversity, with that of as many random rows behind it."""
    value = row.get(name)
    if value is None:
        return ""
    if name in ("share", "contaminated"):
        return f"{value:.1%}"
    if name in ("kept", "length", "rejected_length"):
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    control = row.get(f"{name}_random")
    return text if control is None else f"{text} ({control:.3g})"
