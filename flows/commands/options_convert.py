"""`synthmill convert`: a file of chats, from one tool's form into another's."""

from pathlib import Path
from typing import Any

import click

from synthmill.schemas.formats import PARTS, USES


@click.command()
@click.argument("source", metavar="IN")
@click.option("--to", required=True, metavar="FORMAT|TRAINER", help="As `synthmill export` has them.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="OUT.jsonl, OUT.jsonl.gz, OUT.json or OUT.parquet; for a trainer, a folder.",
)
@click.option(
    "--from",
    "form",
    default="",
    metavar="FORM",
    help="The form of IN: openai, sharegpt, alpaca, trl, prompts, nemo, ms-swift, atif; default: by its columns.",
)
@click.option(
    "--as", "use", type=click.Choice(USES), help="For a trainer: what to train; default: what rows are made for."
)
@click.option(
    "--as-text",
    multiple=True,
    type=click.Choice(PARTS),
    help="For a trainer: write these into texts where it cannot hold them.",
)
@click.option(
    "--thinking",
    type=click.Choice(["field", "text", "drop"]),
    default=None,
    help="What models thought before answers: reasoning_content of a message, <think> in its text, or nothing; "
    "default: where the readers look.",
)
@click.option("--limit", type=click.IntRange(1, 1_000_000_000), help="The first rows only.")
@click.option("--json", "as_object", is_flag=True, help="Print what was written, left out and lost as one JSON object.")
@click.option("--force", is_flag=True, help="Write over OUT.")
def convert(source: str, form: str, thinking: str | None, **options: Any) -> None:
    """Convert a file of chats, preferences or ranked answers for other readers.

    IN is JSONL, JSON, CSV, TSV (also .gz) or Parquet in OpenAI's, ShareGPT's, Alpaca's, TRL's, NeMo-RL's or ms-swift's
    form, or trajectories of agents (ATIF); a folder of such files; or hf://datasets/OWNER/NAME. What a row loses is
    counted and named, and so are rows that cannot be written, with the place of the first.
    """
    from synthmill.flows.commands.convert import convert_file

    convert_file(source, form=form, thinking=thinking or "", **options)
