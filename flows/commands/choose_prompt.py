"""`synthmill choose-prompt`: which of several templates makes a model's answers depend most on the input."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from synthmill.flows.commands.engine_choice import chosen_engine
from synthmill.flows.making.learning import with_lessons
from synthmill.flows.making.limiting import check_something_left
from synthmill.flows.making.plan import table_source
from synthmill.flows.making.step_maker import step_maker
from synthmill.schemas.column_names import check_columns
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings import TableSettings
from synthmill.schemas.settings_files import read_settings
from synthmill.storage.artifacts import Store, read_artifact
from synthmill.storage.runs import new_run
from synthmill.tasks.asking.prompt_choice import PromptFigures, prompt_figures
from synthmill.tasks.cores import Array
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.generators.option_chances import CHANCES, FAULTS, OptionChances
from synthmill.tasks.running.job import Planned
from synthmill.tasks.scorers.labels import one_token

ROWS_PER_PART = 256


@dataclass(frozen=True)
class ChooseSettings:
    """The options of `synthmill choose-prompt`. by: mutual_information, or calibrated."""

    source: str
    templates: Sequence[Path]
    options: Sequence[str]
    engine: str
    label_column: str
    by: str
    concurrency: int
    store: str
    limit: int | None
    seed: int
    engine_option: Mapping[str, Any] = field(default_factory=dict)
    auto_drop: bool = False
    thinking: str | None = None


def choose_prompt(settings: ChooseSettings, as_object: bool) -> None:
    """Print the templates with their figures, the best first."""
    report = with_lessons(lambda: prompt_report(settings))
    if as_object:
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        print_report(report)


def prompt_report(settings: ChooseSettings) -> dict[str, Any]:
    """Ask for every option's chance under every template, and compare the templates. Raises InputError."""
    stage = chances_stage(settings)
    store = Store(Path(settings.store).expanduser().resolve())
    store.prepare()
    source, columns = table_source(store, TableSettings(path=settings.source, limit=settings.limit), ROWS_PER_PART)
    stage.check_columns(columns)
    check_columns(settings.source, filter(None, [settings.label_column]), columns.names)
    chosen = (settings.engine_option, settings.auto_drop, settings.thinking)
    engine = resolve(chosen_engine(settings.engine, settings.concurrency, *chosen), store)
    record = new_run("choose-prompt", {"source": settings.source, "chances": stage.model_dump(mode="json")})
    with step_maker(store, record, 0, None) as maker:
        rows = maker.read(source)
        artifact = maker.make(Planned(stage, {stage.role: engine}, rows.key))
    check_something_left(store, artifact.stage, artifact)
    frame = pl.DataFrame(read_artifact(store, artifact, ("id", CHANCES, FAULTS)))
    comparable = frame.filter(pl.col(CHANCES).list.eval(pl.element().list.len() > 0).list.all())
    if not comparable.height:
        raise InputError(f"no row has chances under every template; the first fault: {first_fault(frame)}")
    labels = None
    if settings.label_column:
        answers = pl.DataFrame(read_artifact(store, rows, ("id", settings.label_column)))
        labels = places_of(comparable.join(answers, on="id", how="left")[settings.label_column], settings.options)
    chances = np.array(comparable[CHANCES].to_list(), np.float64).transpose(1, 0, 2)
    figures = prompt_figures(chances, labels)
    return report_of(settings, list(stage.templates), figures, comparable.height, artifact.dropped, frame.height)


def chances_stage(settings: ChooseSettings) -> OptionChances:
    names = [path.stem for path in settings.templates]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two templates are called {doubled[0]}; rename one of the files")
    fields = {"templates": {path.stem: str(path) for path in settings.templates}, "options": settings.options}
    return read_settings(OptionChances, None, {**fields, "sampling": one_token(settings.seed).model_dump()})


def first_fault(frame: pl.DataFrame) -> str:
    return next((fault for faults in frame[FAULTS].to_list() for fault in faults if fault), "none")


def places_of(labels: pl.Series, options: Sequence[str]) -> Array:
    """The place of each row's right option, -1 for none of them."""
    place = {option: number for number, option in enumerate(options)}
    return np.array([place.get(str(label).strip(), -1) for label in labels], np.int64)


def report_of(
    settings: ChooseSettings, names: Sequence[str], figures: PromptFigures, rows: int, dropped: Any, made: int
) -> dict[str, Any]:
    """The figures of every template, the best first; of equal ones, in the order of the command."""
    templates = [
        {"template": name} | {measure: none_for_nan(values[place]) for measure, values in figures._asdict().items()}
        for place, name in enumerate(names)
    ]
    order = np.argsort(-np.round(getattr(figures, settings.by), 12), kind="stable")
    return {
        "chosen": names[order[0]],
        "by": settings.by,
        "rows": rows,
        "left_out": made - rows,
        "dropped": dict(dropped),
        "options": list(settings.options),
        "templates": [templates[place] for place in order],
    }


def none_for_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def print_report(report: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    from synthmill.flows.terminal.tables import table

    heads = tuple(name.replace("_", " ") for name in PromptFigures._fields)
    lines = table("template", *heads)
    for row in report["templates"]:
        cells = ("" if row[name] is None else f"{row[name]:.4f}" for name in PromptFigures._fields)
        lines.add_row(Text(row["template"]), *cells)
    Console(emoji=False).print(lines)
    left_out = sum(report["dropped"].values()) + report["left_out"]
    note = f"; {left_out:,} rows without chances under every template were left out" if left_out else ""
    most = f"{report['templates'][0][report['by']]:.3f} nats of at most {np.log(len(report['options'])):.3f}"
    print(f"{report['chosen']}: {most}, on {report['rows']:,} rows{note}", file=sys.stderr)
