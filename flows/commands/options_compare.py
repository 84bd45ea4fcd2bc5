"""The commands that compare rows of plain files: dedup, decontaminate, neighbours."""

from pathlib import Path
from typing import Any

import click

from synthmill.flows.commands.options_files import OUT_FILE, ray_option, store_option

USUAL = "Default: the first of prompt, instruction, question, text, query, messages, turns that the file has."


def comparison_options(command: Any) -> Any:
    """The options that all three share."""
    for option in (
        click.option("--embedder", default="minilm", show_default=True, help="minilm, a Hub id or a folder."),
        click.option("--id-column", default="id", show_default=True, help="Optional in the file."),
        click.option("--text-column", default="", help=USUAL),
        click.option("--json", "as_object", is_flag=True, help="Print what was found as one JSON object."),
        store_option,
    ):
        command = option(command)
    return command


def marking_options(command: Any) -> Any:
    """The options of dedup and decontaminate, which mark rows."""
    for option in (
        ray_option,
        click.option(
            "--workers",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="Ray actors; 0 works in this process.",
        ),
        comparison_options,
        click.option("--limit", type=click.IntRange(1, 1_000_000_000), help="The first rows only."),
        click.option("--against-column", default="", help=f"Their texts. {USUAL}"),
        click.option("--out", required=True, type=OUT_FILE, help="OUT.jsonl, OUT.jsonl.gz or OUT.parquet."),
    ):
        command = option(command)
    return command


def file_settings(source: str, column: str, id_column: str, **options: Any) -> Any:
    """A file's settings. column: of its texts; empty: the first usual one that it has."""
    from synthmill.schemas.settings_files import read_settings
    from synthmill.storage.plain_files.text_rows import TextSettings, text_column

    settings = {"path": source, "text_column": text_column(source, column), "id_column": id_column, **options}
    return read_settings(TextSettings, None, settings)


@click.command()
@click.argument("source", metavar="IN")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    show_default=True,
    help="The cosine from which two texts count as one.",
)
@click.option(
    "--jaccard",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.7,
    show_default=True,
    help="The share of word 3-grams in common from which they do.",
)
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.995,
    show_default=True,
    help="The share of such pairs to find; 1 searches exactly.",
)
@click.option("--sample", type=click.IntRange(100), default=2000, show_default=True, help="Rows that tell the recall.")
@click.option("--layers", default="exact,words,meaning", show_default=True, help="Which likenesses count.")
@click.option("--score-column", default="", help="Of two that are alike, the one with the higher score stays.")
@click.option("--within", multiple=True, metavar="COLUMN", help="Compare only rows that are equal in this column.")
@click.option("--against", multiple=True, metavar="FILE", help="Rows that were published before: they stand first.")
@click.option("--float16", is_flag=True, help="Keep vectors at half the size.")
@marking_options
def dedup(
    source: str,
    out: Path,
    text_column: str,
    id_column: str,
    layers: str,
    score_column: str,
    within: tuple[str, ...],
    against: tuple[str, ...],
    against_column: str,
    limit: int | None,
    float16: bool,
    threshold: float,
    jaccard: float,
    recall: float,
    sample: int,
    **options: Any,
) -> None:
    """Mark duplicates in a plain file: exact, near in words, near in meaning.

    OUT has every row of IN, in its order, with `kept`, `duplicate_of` (the id or line of the row that stays),
    `similarity` and `layer`. Of rows that are alike one stays: the one with the higher score, then the one of which
    more columns hold something, then the lower id; a row goes only if one that stays is alike. Prints counts by layer,
    and the recall of the search by meaning, estimated from rows that were compared with all.

    IN is JSONL, JSON, CSV, TSV (also .gz) or Parquet, or hf://datasets/OWNER/NAME. Embeddings are kept in --store, so
    another threshold takes seconds; run again after an interruption, it continues.
    """
    from synthmill.flows.commands.dedup import dedup_file
    from synthmill.flows.commands.file_job import JobOptions, files_with_texts
    from synthmill.schemas.dedup_settings import DedupSettings
    from synthmill.schemas.settings_files import read_settings

    file = file_settings(source, text_column, id_column, score_column=score_column, within=within, limit=limit)
    rules = {
        "layers": split_list(layers),
        "threshold": threshold,
        "jaccard": jaccard,
        "recall": recall,
        "sample": sample,
        "precision": "float16" if float16 else "float32",
        "against": files_with_texts(against, against_column),
    }
    settings = read_settings(DedupSettings, None, rules)
    dedup_file(file, out, settings, JobOptions(**options))


@click.command()
@click.argument("source", metavar="IN")
@click.option(
    "--against", "against", multiple=True, required=True, metavar="FILE", help="A benchmark; may be repeated."
)
@click.option("--drop", is_flag=True, help="Leave contaminated rows out of OUT.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    show_default=True,
    help="The cosine from which a row counts as a benchmark's.",
)
@click.option("--layers", default="words,meaning", show_default=True, help="How to look.")
@marking_options
def decontaminate(
    source: str,
    against: tuple[str, ...],
    against_column: str,
    out: Path,
    drop: bool,
    threshold: float,
    layers: str,
    text_column: str,
    id_column: str,
    limit: int | None,
    **options: Any,
) -> None:
    """Mark rows of a plain file that hold a benchmark's prompts.

    OUT has every row of IN, in its order, with `contaminated`, `benchmark`, `matched_id` and `evidence`: 13 words in a
    row in common (8 where the benchmark's prompt is shorter than 13, all words where it is shorter than 8), or a cosine
    of at least --threshold. In prompts shorter than 13 words, operators must be the same, too. Files are read as by
    `dedup`; of chats, every message counts, whoever says it, but not what tools are called with.
    """
    from synthmill.flows.commands.decontaminate import decontaminate_file
    from synthmill.flows.commands.file_job import JobOptions, files_with_texts
    from synthmill.schemas.dedup_settings import DecontaminateSettings
    from synthmill.schemas.settings_files import read_settings

    file = file_settings(source, text_column, id_column, limit=limit)
    rules = {"layers": split_list(layers), "threshold": threshold, "found": "drop" if drop else "mark"}
    benchmarks = files_with_texts(against, against_column)
    settings = read_settings(DecontaminateSettings, None, {**rules, "benchmarks": benchmarks})
    decontaminate_file(file, out, settings, JobOptions(**options))


@click.command()
@click.argument("source", metavar="IN")
@click.argument("row", metavar="ID")
@click.option("-n", "count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
@comparison_options
def neighbours(source: str, row: str, count: int, text_column: str, id_column: str, **options: Any) -> None:
    """Show what the row ID of IN (or line-N) is close to: cosine, share of word 3-grams, text.

    Embeddings are those of `dedup`, kept in --store.
    """
    from synthmill.flows.commands.file_job import JobOptions
    from synthmill.flows.commands.neighbours import show_neighbours

    show_neighbours(file_settings(source, text_column, id_column), row, count, JobOptions(**options))


def split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
