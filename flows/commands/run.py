"""`synthmill run`: plan, check, run under Prefect, and say where things are."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from synthmill.flows.making.limiting import limits_of
from synthmill.flows.making.make import prepared, run_plan
from synthmill.flows.making.plan import Plan
from synthmill.flows.methods import method, method_and_file
from synthmill.flows.terminal.stopping import STOP, working
from synthmill.flows.terminal.tables import table
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.bill import count_text, money_text, wasted
from synthmill.schemas.errors import BatchPending, EngineError, InputError
from synthmill.schemas.settings import RunSettings
from synthmill.schemas.settings_files import read_settings, read_yaml
from synthmill.schemas.texts import one_line
from synthmill.storage.files import locked, write_text
from synthmill.storage.plain_files.rows import INSTRUCTIONS
from synthmill.storage.published.configurations import Dataset
from synthmill.storage.published.folder import read_dataset
from synthmill.storage.published.rows import compared
from synthmill.storage.runs import RunRecord, runs, summary
from synthmill.tasks.running.batching import asks_in_batches
from synthmill.tasks.running.parallel import start_ray_early
from synthmill.tasks.running.stages import LockWait, noted_rows

ROWS_SHOWN = 3


def method_settings(flow: str, config: Path | None) -> tuple[str, type[RunSettings], Path | None, dict[str, Any]]:
    """(flow, the model of its settings, their file, settings that follow from its name) of a FLOW or FILE.yaml."""
    name, file, own = method_and_file(flow)
    if file and config:
        raise InputError(f"{flow} holds the settings of its pipeline; leave --config out, or change it with --set")
    return name, method(name).settings, file or config, own


def read_run(
    flow: str, config: Path | None, overrides: Mapping[str, Any], preview: int | None = None
) -> tuple[str, RunSettings]:
    """A flow's name and settings, as `run FLOW|FILE.yaml` has them. Raises InputError."""
    flow, model, config, own = method_settings(flow, config)
    settings = {**own, **overrides}
    in_file = config is not None and isinstance(read_yaml(config).get("batch"), dict)
    if settings.get("batch") is True and (in_file or any(name.startswith("batch.") for name in settings)):
        del settings["batch"]  # it is said how, too
    if preview:
        settings[model.previewed] = preview
    return flow, read_settings(model, config, settings)


def run_flow(
    flow: str,
    settings: RunSettings,
    *,
    prefect: bool = True,
    dry_run: bool = False,
    preview: int | None = None,
    as_yaml: bool = False,
    picture: Path | None = None,
) -> None:
    """Run a flow, under Prefect or in this process alone. Starts neither Prefect, nor Ray, nor an engine where every
    artifact is made. picture: where a dry run draws the plan.
    """
    if picture:
        from synthmill.flows.commands.plan_picture import check_picture

        check_picture(picture, dry_run=dry_run)
    plan = method(flow).plan(settings)
    if as_yaml:
        from synthmill.flows.commands.as_yaml import show_as_yaml

        show_as_yaml(plan)
        return
    if dry_run:
        from synthmill.flows.commands.dry_run import show_plan

        show_plan(plan, picture)
        return
    if was_done := plan.is_done():
        print("nothing to do: every artifact is made, whole and up to date; nothing was asked", file=sys.stderr)
    else:
        from synthmill.flows.making.checks import check_engines

        limits_of(plan)
        check_engines(plan)
        if prefect:
            run_under_prefect(flow, plan)
        else:
            with working(), prepared(plan):
                run_plan(lambda: method(flow).plan(settings))
        plan = replace(plan, store=replace(plan.store, retry_lost=False))  # what was lost again is settled now
        if not plan.made():  # an engine has learned how to ask its server, and has another name
            plan = method(flow).plan(settings.model_copy(update={"retry_lost": False}))
    with locked(plan.store.lock_path("dataset", plan.dataset.name), LockWait("dataset", STOP)):
        print_report(plan, preview, was_done)  # another run that makes the same may write its files anew


def run_under_prefect(flow: str, plan: Plan) -> None:
    from synthmill.flows.serving.server import prefect_server, without_credentials

    settings = plan.settings
    print("starting Prefect" + ("" if settings.workers == 0 else " and Ray") + " ...", file=sys.stderr, flush=True)
    with working(), prefect_server(start_ray_early if needs_ray(plan) else lambda: None):
        from httpx import HTTPStatusError, TransportError
        from prefect import tags
        from prefect.settings import PREFECT_API_URL

        from synthmill.flows.making.prefect_flow import SUBMITTED, prefect_flow

        with tags("command-line"), prepared(plan):
            try:
                if pending := prefect_flow(method(flow))(settings).get(SUBMITTED):
                    raise BatchPending(pending)
            except (TransportError, HTTPStatusError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
                    raise
                detail = (
                    "" if isinstance(error, RuntimeError) else f" ({without_credentials(one_line(str(error))[:200])})"
                )
                where = without_credentials(str(PREFECT_API_URL.value()))
                raise EngineError(
                    f"Prefect's server at {where} does not answer as one does{detail}; what is made is kept: mend the "
                    "server or PREFECT_API_URL, then run the same command again to continue"
                ) from error


def needs_ray(plan: Plan) -> bool:
    """Whether a stage that is not made yet asks models from workers of a Ray of our own."""
    unmade = [step for step in plan.stages if not plan.store.manifest_path(step.stage.name, step.key).exists()]
    asks = any(step.roles and not asks_in_batches(step.roles) for step in unmade)
    return asks and plan.settings.workers != 0 and plan.settings.ray_address is None


def print_report(plan: Plan, preview: int | None, was_done: bool) -> None:
    """What the run made: the steps, a few rows (in a preview: through every step), and where everything is."""
    from rich.console import Console

    from synthmill.flows.pages.report import PAGE

    console = Console(emoji=False)
    manifests = plan.made()
    dataset = read_dataset(plan.dataset, check=False) if manifests else None
    for note in notes(plan, manifests, dataset) if manifests and dataset else ():
        console.print(note, highlight=False, markup=False)
    run = next((run for run in reversed(list(runs(plan.store))) if run.dataset == str(plan.dataset)), None)
    if run:
        console.print(f"\nmade by run {run.id}" + (", earlier" if was_done else ""), highlight=False)
        console.print(stages_table(run))
        for stage in run.stages:
            for reason, count in stage.dropped.items():
                console.print(f"{stage.step_id}: {count} dropped, {reason}", highlight=False, markup=False)
        write_text(plan.dataset / "SUMMARY.md", summary(run))
    if dataset:
        show_dataset(console, plan, dataset, preview)
    console.print()
    for name, place in (
        ("dataset", plan.dataset),
        ("catalog", plan.store.catalog),
        ("summary", plan.dataset / "SUMMARY.md"),
        ("report ", plan.dataset / PAGE),
    ):
        console.print(f"{name}  {place}", soft_wrap=True, highlight=False, markup=False)


def notes(plan: Plan, manifests: Mapping[str, Manifest], dataset: Dataset) -> Iterator[str]:
    """What a reader should know before the table."""
    instructions = manifests.get(INSTRUCTIONS.stage)
    if instructions and (count := noted_rows(plan.store, instructions)):
        yield f"{count} rows have other turns or messages: the first user turn was used"
    yield from compared(plan.store, manifests)
    yield from dataset.notes


def show_dataset(console: Any, plan: Plan, dataset: Dataset, preview: int | None) -> None:
    """The first rows, as their kind is shown; in a preview each with its lineage. Then the tables and figures."""
    from synthmill.flows.commands.show import show_lineage
    from synthmill.flows.pages.on_terminal import first_rows, show_figure, show_row, show_tables

    kind, rows = first_rows(dataset, preview or ROWS_SHOWN)
    for row in rows:
        if preview:
            with suppress(InputError):  # a method's rows may have ids that no step made
                show_lineage(plan.store, row["id"])
        show_row(console, kind, row)
    show_tables(console, dataset)
    for figure in dataset.figures:
        show_figure(console, figure)


def stages_table(run: RunRecord) -> Any:
    has_waste = any(wasted(stage.counters) for stage in run.stages)
    has_money = any(stage.money for stage in run.stages)
    further = [*(["wasted"] if has_waste else []), *(["money"] if has_money else [])]
    lines = table("step", "in", "out", "dropped", "calls", "reused", "tokens", *further, "seconds")
    for stage in run.stages:
        cells = [f"{number:,}" for number in (stage.rows_in, stage.rows, sum(stage.dropped.values()))]
        cells += [f"{stage.total(what):,}" for what in ("sent", "reused")]
        cells += [count_text(stage.counters, "completion_tokens"), *([wasted(stage.counters)] if has_waste else [])]
        cells += [money_text(stage.money)] if has_money else []
        lines.add_row(stage.step_id, *cells, f"{stage.seconds:.1f}")
    return lines
