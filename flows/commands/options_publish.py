"""`synthmill export`, `report` and `diff`: what a run made, for trainers and for people."""

from pathlib import Path
from typing import Any

import click

from synthmill.flows.commands.options_files import store_option
from synthmill.schemas.errors import InputError
from synthmill.schemas.formats import FORMATS, PARTS, USES
from synthmill.storage.published.known_trainers import trainer_names

UNITS = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


def size_in_bytes(text: str) -> int:
    """The bytes of 256MB and the like; raises InputError."""
    number, unit = text.strip().upper()[:-2], text.strip().upper()[-2:]
    if unit not in UNITS or not number.strip().isdigit() or not int(number):
        raise InputError(f"{text!r} is no size; expected for instance 256MB")
    return int(number) * UNITS[unit]


@click.command()
@click.argument("run")
@click.option("--to", required=True, metavar="DIR|hf://datasets/OWNER/NAME", help="Where the dataset goes.")
@store_option
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(FORMATS),
    default=("as-made",),
    show_default=True,
    help="One or more; each configuration that can take a format is written in it. Not with --for.",
)
@click.option(
    "--for", "trainer", type=click.Choice(trainer_names()), default=None, help="Write what this trainer reads."
)
@click.option(
    "--as",
    "uses",
    multiple=True,
    type=click.Choice(USES),
    help="With --for: what to train, one or more; default: what each configuration is made for.",
)
@click.option(
    "--as-text",
    multiple=True,
    type=click.Choice(PARTS),
    help="With --for: write these into texts where the trainer cannot hold them.",
)
@click.option(
    "--chat-template",
    default="",
    metavar="PATH",
    help="With --for: a tokenizer's folder or a Jinja file; rows that it refuses stop the export.",
)
@click.option(
    "--thinking",
    type=click.Choice(["field", "text", "drop"]),
    default=None,
    help="What models thought before answers: reasoning_content of a message, <think> in its text, or nothing; "
    "default: where its trainers look.",
)
@click.option(
    "--test", type=click.FloatRange(0, 1, max_open=True), default=0.0, help="Share of prompts kept for a split test."
)
@click.option("--shard-size", default="256MB", show_default=True, help="The largest file, before compression.")
@click.option(
    "--license", default="", help="The dataset's, as the Hub names it; default: the most restrictive source's."
)
@click.option("--private", is_flag=True, help="Hub: a new dataset is private.")
@click.option("--revision", default="", help="Hub: a branch other than main, made if need be.")
@click.option("--tag", default="", help="Hub: the tag of this version; default: the run's id.")
@click.option(
    "--force",
    is_flag=True,
    help="Write over what this flow did not make; export rows that are for one purpose only.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be written or sent, and send nothing.")
def export(shard_size: str, dry_run: bool, thinking: str | None, trainer: str | None, **options: Any) -> None:
    """Write a RUN's dataset, with its card, for trainers.

    --for TRAINER writes the files that this trainer's reader takes, its configuration beside them, and how to load them
    into the card. Rows that it cannot hold, or would learn nothing from, stop the export and are counted. --format
    writes forms that several read (docs/publishing.md):

    RUN is an id or its beginning, `latest`, or a flow's name (its latest finished run).

    \b
    as-made    the flow's own configurations, conversational, as TRL reads them
    sft        messages                        kto      prompt, completion, label
    dpo        prompt, chosen, rejected        reward   chosen, rejected: whole conversations
    dpo-plain  the same as texts               prompts  prompts only, each once
    triplets   anchor, positive, negative, for sentence-transformers
    sharegpt, alpaca, openai (fine-tuning JSONL)

    To the Hub: one commit and one tag a run; the token is HF_TOKEN or that of `hf auth login`. Run it again after a
    failure: what was uploaded is not sent again.
    """
    from pydantic import ValidationError

    from synthmill.flows.commands.export import export as export_run
    from synthmill.schemas.export_settings import ExportSettings
    from synthmill.schemas.settings_files import explain

    try:
        fields = {
            "shard_bytes": size_in_bytes(shard_size),
            "thinking": thinking or "",
            "trainer": trainer or "",
            **options,
        }
        settings = ExportSettings.model_validate(fields)
    except ValidationError as error:
        raise InputError(explain(error)) from error
    export_run(settings, dry_run)


@click.command()
@click.argument("run", default="latest")
@store_option
@click.option("--rows", type=click.IntRange(0), default=60, show_default=True, help="Rows to read on the page.")
@click.option(
    "--open/--no-open", "open_it", default=None, help="Open it in the browser; on a desktop's terminal it asks."
)
def report(run: str, store: str, rows: int, open_it: bool | None) -> None:
    """Draw a RUN's report: one page with everything in it, no network.

    RUN is an id or its beginning, `latest`, or a flow's name.
    """
    from synthmill.flows.commands.existing_store import existing_store
    from synthmill.flows.pages.report import write_report
    from synthmill.flows.terminal.opening import open_page
    from synthmill.storage.runs import find_run

    place = existing_store(Path(store))
    path = write_report(place, find_run(place, run), rows)
    print(path, flush=True)
    open_page(path, open_it)


@click.command()
@click.argument("run_a", metavar="RUN_A")
@click.argument("run_b", metavar="RUN_B", default="latest")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(run_a: str, run_b: str, store: str, as_json: bool) -> None:
    """Show what changed from RUN_A to RUN_B: settings, prompts, models, counts, rewards, lengths, rows."""
    from synthmill.flows.commands.diff import show_difference

    show_difference(Path(store), run_a, run_b, as_json)
