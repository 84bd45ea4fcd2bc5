"""The commands that ask whether a judge is right: trust, judge-audit."""

from pathlib import Path
from typing import Any

import click

from synthmill.flows.commands.option_values import split_set
from synthmill.flows.commands.options_files import OUT_FILE, columns_options, score, score_settings


@click.command()
@click.argument("source", metavar="SCORES")
@click.option("--labels", default="", metavar="FILE", help="What people say of these answers; without it, biases only.")
@click.option("--score-column", "scores", multiple=True, help="A score; may be repeated. Default: rewards or reward.")
@click.option("--label-column", default="label", show_default=True, help="Of labels: a number for an answer.")
@click.option("--own", multiple=True, metavar="NAME", help="A part of the names of models that are the judge's family.")
@click.option("--model-column", default="", help="Who wrote an answer; default: models, policies, model, policy, ...")
@columns_options
@click.option("--page", type=OUT_FILE, help="Write a page with the picture: PAGE.html.")
@click.option("--draws", type=click.IntRange(100, 100_000), default=1000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_object", is_flag=True, help="Print the figures as one JSON object.")
def trust(prompt_id_column: str, prompt_column: str, answer_column: str, as_object: bool, **options: Any) -> None:
    """Measure how far scores agree with people.

    SCORES is what `score` writes. Labels are rows of two answers, as `pairs` writes them (prompt_id, chosen_index and
    rejected_index, or chosen and rejected; `tie: true` where neither is better), or of one (prompt_id, answer_index or
    answer, label: a number); optional: annotator.

    Prints accuracy, Cohen's kappa, Krippendorff's alpha and Spearman's correlation with 95 % intervals, by length,
    position, family and language; and how often a score prefers the earlier, the longer and the own family's answer.
    """
    from synthmill.flows.commands.trust import TrustSettings, trust_file
    from synthmill.storage.plain_files.pools import ColumnNames

    columns = ColumnNames(prompt_id_column, prompt_column, answer_column)
    trust_file(TrustSettings(columns=columns, **options), as_object)


@click.command("win-rate")
@click.argument("source", metavar="SCORES")
@click.option("--baseline", required=True, help="The model that the others are compared with.")
@click.option("--score-column", "score", default="", help="Default: rewards or reward.")
@click.option("--chances", is_flag=True, help="The score is the chance to beat the baseline, 0 to 1.")
@click.option(
    "--gamed", type=OUT_FILE, help="AlpacaEval's df_gamed.csv: prompts' difficulties, and the baseline's games."
)
@click.option("--model-column", default="", help="Who wrote an answer; default: models, policies, model, policy, ...")
@columns_options
@click.option("--json", "as_object", is_flag=True, help="Print the rates as JSON.")
def win_rate(prompt_id_column: str, prompt_column: str, answer_column: str, as_object: bool, **options: Any) -> None:
    """Say how often models beat a baseline, and how often they would if their answers were as long.

    SCORES has answers of several models to the same prompts, the baseline's among them. Without --chances, the higher
    score wins. Lengths are controlled by AlpacaEval's regression; each prompt's difficulty is estimated from all models
    together, unless --gamed has it.
    """
    from synthmill.flows.commands.win_rate import WinRateSettings, win_rate_file
    from synthmill.storage.plain_files.pools import ColumnNames

    columns = ColumnNames(prompt_id_column, prompt_column, answer_column)
    win_rate_file(WinRateSettings(columns=columns, **options), as_object)


AUDITED = [parameter for parameter in score.params if parameter.name not in ("out", "name")]


@click.command("judge-audit", params=AUDITED)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Prompts to plant answers under.")
@click.option(
    "--member",
    multiple=True,
    metavar="SCORER",
    help="A scorer whose score the audited one reads, as of a panel: r3, or {spec: judge, evaluations: 1}; repeatable.",
)
@click.option("--json", "as_object", is_flag=True, help="Print the figures as JSON.")
def judge_audit(limit: int, member: tuple[str, ...], as_object: bool, **options: Any) -> None:
    """Plant bad answers, and say which of them a scorer prefers, by how much.

    IN is as for `score`. Under each prompt stand, besides its own answers, one that is the same everywhere, an empty
    one, the prompt's copy, and one of its own with a word to the judge, with padding, and cut in half.
    """
    from synthmill.flows.commands.judge_audit import audit_file
    from synthmill.schemas.settings_files import read_settings
    from synthmill.tasks.scorers.scoring import ScorerSettings

    specs = (split_set(f"spec={text}", "--member", "spec=r3")[1] for text in member)
    members = [
        read_settings(ScorerSettings, None, spec if isinstance(spec, dict) else {"spec": spec}) for spec in specs
    ]
    audit_file(score_settings(**options, name="", out=Path()), limit, as_object, members)
