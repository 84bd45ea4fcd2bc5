"""The commands that look at a store, keep it in order, or say what there is."""

from pathlib import Path

import click

from synthmill.flows.commands.options_files import store_option

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.argument("name", required=False)
@json_option
def stages(name: str | None, as_json: bool) -> None:
    """List every stage that a pipeline may have, or show one.

    A pipeline (`synthmill run FILE.yaml`) names stages in its steps.
    """
    from synthmill.flows.commands.stages import show_stages

    show_stages(name, as_json)


@click.command()
@store_option
@json_option
def ls(store: str, as_json: bool) -> None:
    """List runs and artifacts, the newest last."""
    from synthmill.flows.commands.ls import show_list

    show_list(Path(store), as_json)


@click.command()
@click.argument("name", metavar="ARTIFACT|ROW_ID")
@store_option
@click.option("--rows", type=click.IntRange(0), default=3, show_default=True, help="Rows of an artifact to show.")
@json_option
def show(name: str, store: str, rows: int, as_json: bool) -> None:
    """Show an artifact, or the way of a row.

    An ARTIFACT (a stage, stage_1a2b3c4d, or a key): how it was made, rows kept and dropped, first rows. A ROW_ID, from
    an artifact or an exported dataset: its way from the input through every stage, with prompts, calls, scores and
    verdicts.
    """
    from synthmill.flows.commands.show import show_name

    show_name(Path(store), name, rows, as_json)


@click.command()
@click.argument("query")
@store_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of a table.")
@json_option
def sql(query: str, store: str, as_csv: bool, as_json: bool) -> None:
    """Query the catalog: a view per stage and artifact; tables runs, artifacts, lineage, drops, calls, spend."""
    from synthmill.flows.commands.sql import show_query

    show_query(Path(store), query, as_csv, as_json)


@click.command()
@store_option
@click.option(
    "--record", type=click.Path(path_type=Path, dir_okay=False), help="Write every call to one file that replay: reads."
)
@json_option
def calls(store: str, record: Path | None, as_json: bool) -> None:
    """Show what was asked and spent, by stage, role and engine; or record it for replay."""
    from synthmill.flows.commands.calls import show_calls

    show_calls(Path(store), record, as_json)


@click.command()
@store_option
@json_option
def verify(store: str, as_json: bool) -> None:
    """Read a store whole: checksums, counts, lineage, every stored answer. Exits 1 where something is amiss."""
    from synthmill.flows.commands.verify import verify_store

    verify_store(Path(store), as_json)


@click.command()
@store_option
@click.option("--older-than", "days", type=click.FloatRange(0), default=7.0, show_default=True, help="Days.")
@click.option("--delete", is_flag=True, help="Delete it; without this, only say what could go.")
@json_option
def gc(store: str, days: float, delete: bool, as_json: bool) -> None:
    """Find what no run or dataset refers to, and what killed processes left. Stored answers are never touched."""
    from synthmill.flows.commands.gc import collect_garbage

    collect_garbage(Path(store), days, delete, as_json)


@click.command()
@store_option
def migrate(store: str) -> None:
    """Bring a store of an older synthmill to this one's format. Interrupted, run it again."""
    from synthmill.flows.commands.migrate import migrate_store

    migrate_store(Path(store))


@click.command()
@store_option
@json_option
def doctor(store: str, as_json: bool) -> None:
    """Say what is installed, which engines work, what is missing and how to get it."""
    from synthmill.flows.commands.doctor import examine

    examine(Path(store), as_json)
