"""The commands that compare ways to choose: compare-cuts, choose-prompt."""

import re
from pathlib import Path
from typing import Any

import click

from synthmill.flows.commands.option_values import engine_choices
from synthmill.flows.commands.options_compare import split_list
from synthmill.flows.commands.options_files import OUT_FILE, columns_options, engine_options, store_option

BETWEEN_RULES = re.compile(r",(?![^\[{]*[\]}])")  # no comma of a list in a setting
TEMPLATE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command("choose-prompt")
@click.argument("source", metavar="ROWS")
@click.option(
    "--template", "templates", multiple=True, required=True, type=TEMPLATE, help="A .jinja file over ROWS' columns."
)
@click.option("--options", required=True, metavar="A,B,...", help="The answers that there may be.")
@click.option("--engine", required=True, help="Whom to ask, e.g. openai:MODEL@http://127.0.0.1:8000/v1, vllm:HUB_ID.")
@engine_options
@click.option("--label-column", default="", help="The right option, where rows have it; no choice depends on it.")
@click.option(
    "--by",
    type=click.Choice(["calibrated", "mutual_information"]),
    default="calibrated",
    show_default=True,
    help="What the best template has most of.",
)
@click.option("--limit", type=click.IntRange(1, 1_000_000_000), help="The first rows only.")
@click.option("--concurrency", type=click.IntRange(1), default=64, show_default=True, help="Requests in flight.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@store_option
@click.option("--json", "as_object", is_flag=True, help="Print the figures as one JSON object.")
def choose_prompt(options: str, engine_option: tuple[str, ...], as_object: bool, **others: Any) -> None:
    """Choose the template under which a model's answers depend most on the input, without labels.

    Every row is asked under every template for the chances of the options: mutual information between input and answer,
    of chances calibrated by their marginals. Options of one letter each are read from the first token's logprobs (the
    template must ask for the letter); others are scored as given answers, by engines that do so (vLLM). Run again
    after an interruption, it continues.
    """
    from synthmill.flows.commands import choose_prompt as command

    settings = command.ChooseSettings(
        options=split_list(options), engine_option=engine_choices(engine_option), **others
    )
    command.choose_prompt(settings, as_object)


@click.command("compare-cuts")
@click.argument("source", metavar="POOLS|ROWS")
@click.option(
    "--rules",
    required=True,
    metavar="A,B,...",
    help="Rules for pairs (rip, top-k:count=2), or stages on rows (top:share=0.1:score=quality).",
)
@click.option("--score", default="", help="The column of rewards or scores; default: rewards, reward or score.")
@click.option("--text-column", default="", help="ROWS: what is compared; default: the first usual one.")
@columns_options
@click.option("--against", multiple=True, metavar="FILE", help="A benchmark, to count contaminated rows.")
@click.option("--cost", type=click.FloatRange(0), help="What all of it cost together; default: a unit per answer.")
@click.option("--embedder", default="minilm", show_default=True, help="minilm, a Hub id, a folder, or none.")
@click.option("--limit", type=click.IntRange(1, 1_000_000_000), help="ROWS: the first rows only.")
@click.option("--page", type=OUT_FILE, help="Write a page with pictures: PAGE.html.")
@store_option
@click.option("--json", "as_object", is_flag=True, help="Print the figures as one JSON object.")
def compare_cuts(
    rules: str,
    prompt_id_column: str,
    prompt_column: str,
    answer_column: str,
    score: str,
    as_object: bool,
    **others: Any,
) -> None:
    """Compare what rules keep of the same pools or rows, side by side.

    Of each rule: the share that it keeps, its overlap with the others (Jaccard), mean score, length, diversity (Vendi
    score, different 3-grams, beside those of as many random ones), contamination, and cost per kept row. Pools are cut
    as by `pairs`; rows are chosen by stages, with their settings behind colons.
    """
    from synthmill.flows.commands import compare_cuts as command
    from synthmill.storage.plain_files.pools import ColumnNames

    columns = ColumnNames(prompt_id_column, prompt_column, answer_column, score)
    rule_names = [rule.strip() for rule in BETWEEN_RULES.split(rules) if rule.strip()]
    settings = command.CompareSettings(rules=rule_names, columns=columns, score=score, **others)
    command.compare_cuts(settings, as_object)
