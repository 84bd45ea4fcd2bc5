"""The commands that take plain files in and give a plain file out: sample, score, pairs, rank."""

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from synthmill.flows.commands.option_values import engine_choices, split_set
from synthmill.flows.commands.options_verified import verified_rules_options, verifier_options

store_option = click.option("--store", default="store", show_default=True, help="The folder that holds everything.")
ray_option = click.option("--ray-address", help="A running Ray cluster; default: a local Ray.")
retry_option = click.option(
    "--retry-lost", is_flag=True, help="Ask again for answers that a failing engine lost in two runs."
)


def engine_options(command: Any) -> Any:
    """--thinking, --engine-option and --auto-drop."""
    command = click.option(
        "--thinking",
        metavar="WHAT",
        help="keep (default), drop or off; an effort (minimal, low, medium, high); or how many tokens of it.",
    )(command)
    command = click.option(
        "--auto-drop", is_flag=True, help="Leave out fields that the server refuses; the engine's name says so."
    )(command)
    return click.option(
        "--engine-option",
        multiple=True,
        metavar="KEY=VALUE",
        help="A setting of the engine (structure=none, stream=true, headers.api-key=AZURE_KEY), or else "
        "a field of its requests (top_p=null leaves it out, top_k=20).",
    )(command)


class KindOption(click.Option):
    """Its help lists the kinds of a union of settings (MODULE:CLASS), which is imported when help is shown."""

    def __init__(self, *names: Any, union: str, **options: Any) -> None:
        super().__init__(*names, **options)
        self.union = union

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        module, _, name = self.union.partition(":")
        self.help = f"{getattr(import_module(module), name).spellings()}."
        return super().get_help_record(ctx)


@click.command()
@click.argument("source", metavar="IN")
@click.option(
    "--engine",
    required=True,
    help="e.g. openai:MODEL@http://127.0.0.1:8000/v1, anthropic:MODEL, vllm:HUB_ID, llamacpp:smollm2.",
)
@engine_options
@click.option("-n", "count", type=click.IntRange(1), default=1, show_default=True, help="Answers per prompt.")
@click.option("--concurrency", type=click.IntRange(1), default=64, show_default=True, help="Requests in flight.")
@store_option
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="OUT.jsonl, OUT.jsonl.gz or OUT.parquet.",
)
@click.option("--temperature", type=click.FloatRange(0), default=0.8, show_default=True)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.95, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), default=1024, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--limit", type=click.IntRange(1, 1_000_000_000), help="The first rows only.")
@click.option("--prompt-column", default="prompt", show_default=True)
@click.option("--id-column", default="id", show_default=True)
@click.option("--system-column", default="system", show_default=True)
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, help="Ray actors; 0 works in this process."
)
@ray_option
@retry_option
@click.option("--batch", is_flag=True, help="Ask the server in batches: cheaper, within a day.")
@click.option(
    "--batch-out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the missing requests to this file, for `synthmill batch read` to read their results.",
)
def sample(engine_option: tuple[str, ...], **options: Any) -> None:
    """Draw N answers per prompt from a plain file.

    IN is JSONL, JSONL.gz, CSV or Parquet with a column `prompt` (optional: `id`, `system`), or with `messages` or
    `turns`, of which the first user turn is used; or hf://datasets/OWNER/NAME. OUT has one row per answer. Run again
    it continues; on a longer file it asks only for what is new.
    """
    from synthmill.flows.commands.sample import SampleSettings, sample_file

    sample_file(SampleSettings(**options, engine_option=engine_choices(engine_option)))


@click.command()
@click.option("--queries", required=True, help="JSONL, CSV, ...: id and query, or id and a map `candidates`; or turns.")
@click.option("--corpus", required=True, help="JSONL, CSV, TSV, Parquet: _id, text, optional title.")
@click.option(
    "--qrels", default="", help="Relevant passages: TSV with a header, or TREC; default: the rows' own `gold`."
)
@click.option(
    "--retriever",
    default="bm25",
    show_default=True,
    cls=KindOption,
    union="synthmill.tasks.retrieval.retrievers:RetrieverSettings",
)
@click.option("--k1", type=click.FloatRange(0), help="BM25; default 1.2.")
@click.option("--b", type=click.FloatRange(0, 1), help="BM25; default 0.75.")
@click.option("--stemmer", help="BM25: a Snowball stemmer, or none; default english.")
@click.option("--stopwords", help="BM25: a language's list, or none; default en.")
@click.option("--model", help="dense: minilm (embedded, the default), a Hub id or a folder of sentence-transformers.")
@click.option(
    "--ties",
    type=click.Choice(["rank", "trec_eval"]),
    help="run: equal scores by its rank column (default), or as trec_eval orders them.",
)
@click.option(
    "--ignore-identical-ids/--keep-identical-ids",
    default=None,
    help="Leave a passage with the query's own id out, as BEIR's evaluation does; default: on for BEIR files.",
)
@click.option(
    "--depth", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Ranks are exact to here."
)
@click.option("--limit", type=click.IntRange(1, 1_000_000_000), help="The first queries only.")
@click.option("--json", "as_object", is_flag=True, help="Print the measures as one JSON object.")
@click.option("--by-group", is_flag=True, help="Also by turn_type (or topic) and by turn, where the rows have these.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A row per query and candidate: OUT.jsonl, OUT.jsonl.gz or OUT.parquet.",
)
@store_option
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, help="Ray actors; 0 works in this process."
)
@ray_option
def rank(retriever: str, **options: Any) -> None:
    """Rank the gold passages of queries with one retriever; print MRR, nDCG, recall and MAP.

    OUT has id, candidate (its name), query, rank (of the best gold passage), ranks (of each, in the order of the
    judgements) and reward (1 / (rank + 1 - margin), see docs/retpo.md).

    A rank counts from 1; what is not among the first --depth passages has depth + 1. The index is made once per corpus
    and settings and kept in --store; run again after an interruption, it continues.
    """
    from synthmill.flows.commands.rank import RankSettings, rank_file
    from synthmill.schemas.settings_files import read_settings
    from synthmill.tasks.retrieval.retrievers import RetrieverSettings

    chosen = {name: value for name in RETRIEVER_OPTIONS if (value := options.pop(name)) is not None}
    rank_file(RankSettings(**options), read_settings(RetrieverSettings, None, {"spec": retriever, **chosen}))


RETRIEVER_OPTIONS = ("k1", "b", "stemmer", "stopwords", "model", "ties")


def columns_options(command: Any) -> Any:
    """How a file of answers calls its columns."""
    for name, default in (
        ("prompt-id", "prompt_id or id, else the prompt itself"),
        ("prompt", "prompt"),
        ("answer", "answers (lists, a row per prompt) or answer (a row per answer)"),
    ):
        command = click.option(f"--{name}-column", default="", help=f"Default: {default}.")(command)
    return command


class Limit(click.ParamType[float | None]):
    """A number, or none."""

    name = "X|none"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return value if isinstance(value, float) else None if value.lower() == "none" else float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor none", param, ctx)


class PairsCommand(click.Command):
    """Its help lists the rules."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from synthmill.tasks.cuts.rules import rules

        with formatter.section("Rules"):
            formatter.write_dl(list(rules().items()))
        super().format_options(ctx, formatter)


POINTS = click.Choice(["min", "mu-2s", "mu-s", "mu", "mu+s", "mu+2s", "max"])
OUT_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(cls=PairsCommand)
@click.argument("source", metavar="IN")
@click.option("--rule", required=True, help="One of the rules above: which answer is chosen over which.")
@click.option(
    "--out", required=True, type=OUT_FILE, help="A row per kept pair: OUT.jsonl, OUT.jsonl.gz or OUT.parquet."
)
@click.option("--chosen", type=POINTS, help="sweet-spot; default max.")
@click.option("--rejected", type=POINTS, help="sweet-spot; default mu-2s.")
@click.option("--ddof", type=click.IntRange(0, 1), help="sweet-spot; default 0: squares are divided by n, not n - 1.")
@click.option("--rejected-reward-quantile", type=Limit(), help="rip; default 0.5.")
@click.option("--rejected-length-quantile", type=Limit(), help="rip; default 0.5.")
@click.option("--gap-quantile", type=Limit(), help="rip; default 0.5.")
@click.option("--rejected-reward", type=float, help="rip: at least this, instead of a quantile.")
@click.option("--rejected-length", type=float, help="rip: at least this, instead of a quantile.")
@click.option("--gap", type=float, help="rip: at most this, instead of a quantile.")
@click.option("--preset", help="rip: the paper's limits: wildchat-armorm, wildchat-judge, helpsteer2, self-rip-armorm.")
@click.option("--save-thresholds", type=OUT_FILE, help="rip: write the limits to a file.")
@click.option("--thresholds", type=OUT_FILE, help="rip: take the limits of such a file, whatever these pairs are like.")
@click.option("--length", type=click.Choice(["characters", "tokens"]), help="rip; default characters.")
@click.option("--tokenizer", help="rip: whose tokens, a folder or a Hub id; default: words and punctuation.")
@click.option(
    "--draw", type=click.IntRange(2, 4096), help="scalable: rejected is the lowest of so many drawn; default 5."
)
@click.option("--bottom-percent", type=click.FloatRange(0, 100), help="best-bottom: how far up; default 25.")
@click.option("--count", type=click.IntRange(1, 4096), help="Pairs of a prompt, of rules that make several; default 1.")
@verified_rules_options
@click.option("--seed", type=click.IntRange(0), help="Of what is drawn; default 0.")
@click.option(
    "--leave-out",
    multiple=True,
    type=click.Choice(["constant", "near_constant", "addresses_judge", "copies_prompt"]),
    help="Answers in no pair: the same under many prompts, nearly so, talking to the judge, repeating the prompt.",
)
@click.option(
    "--cut-answers",
    type=click.Choice(["leave_out", "take"]),
    help="What becomes of answers that max_tokens cut (finish_reason length); default leave_out.",
)
@click.option(
    "--length-control", is_flag=True, help="Take from the rewards what length earns within a prompt's answers."
)
@columns_options
@click.option("--reward-column", default="", help="Default: rewards or reward.")
@click.option("--explain", is_flag=True, help="Print what the rule did: limits, points, histogram.")
@click.option("--json", "as_object", is_flag=True, help="Print the same as one JSON object.")
def pairs(
    source: str,
    out: Path,
    save_thresholds: Path | None,
    leave_out: tuple[str, ...],
    length_control: bool,
    explain: bool,
    as_object: bool,
    prompt_id_column: str,
    prompt_column: str,
    answer_column: str,
    reward_column: str,
    **rules: Any,
) -> None:
    """Cut preference pairs from answers with rewards.

    IN is JSONL, JSONL.gz, CSV or Parquet, with a row per answer (prompt_id, prompt, answer, reward) or per prompt
    (prompt_id, prompt, answers, rewards: lists). Indices in OUT are places in the prompt's own list.

    The lowest place wins a tie. Prompts without a pair are counted by reason: n<2, nan_reward, equal_reward, same_text.
    docs/pools.md says more of the rules.
    """
    from click.core import ParameterSource

    from synthmill.flows.commands.pairs import pair_file
    from synthmill.schemas.settings_files import read_settings
    from synthmill.storage.plain_files.pools import ColumnNames
    from synthmill.tasks.cuts.cut import CutSettings

    source_of = click.get_current_context().get_parameter_source
    chosen = {name: value for name, value in rules.items() if source_of(name) == ParameterSource.COMMANDLINE}
    if "thresholds" in chosen:
        chosen["thresholds"] = str(chosen["thresholds"])
    settings = read_settings(CutSettings, None, chosen)
    names = ColumnNames(prompt_id_column, prompt_column, answer_column, reward_column)
    pair_file(source, out, settings, names, leave_out, length_control, save_thresholds, explain, as_object)


SCORER_OPTIONS = (
    "name",
    "evaluations",
    "opponents",
    "form",
    "backend",
    "revision",
    "trust_remote_code",
    "api_key_env",
    "run_code",
)


@click.command()
@click.argument("source", metavar="IN")
@click.option("--scorer", required=True, cls=KindOption, union="synthmill.tasks.scorers.scoring:ScorerSettings")
@click.option("--out", required=True, type=OUT_FILE, help="OUT.jsonl, OUT.jsonl.gz or OUT.parquet.")
@click.option("--name", help="What the score's column is called; default: the scorer's kind.")
@click.option("--engine", help="Who judges, e.g. openai:MODEL@http://127.0.0.1:8000/v1, vllm:HUB_ID, llamacpp:smollm2.")
@engine_options
@click.option("--concurrency", type=click.IntRange(1), default=64, show_default=True, help="Requests in flight.")
@click.option("--evaluations", type=click.IntRange(1), help="judge, rubric: judgements per answer; default 10.")
@click.option(
    "--opponents", type=click.IntRange(0), help="pairwise: answers each is compared with; default: all others."
)
@click.option("--form", type=click.Choice(["auto", "open-ended", "constrained"]), help="r3; default auto.")
@click.option("--backend", type=click.Choice(["transformers", "vllm"]), help="rm; default transformers.")
@click.option("--revision", help="rm: the Hub revision.")
@click.option("--trust-remote-code", is_flag=True, help="rm: run the model's own code, as ArmoRM needs.")
@click.option(
    "--weight", "weight", multiple=True, metavar="NAME=W", help="helpsteer2, rm: weights of columns, or outputs."
)
@click.option("--rubric", type=OUT_FILE, help="rubric, pairwise, tournament: a JSON or YAML file of one rubric.")
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="Any other setting of the scorer, as YAML.")
@verifier_options
@click.option("--api-key-env", help="http: the environment variable that holds the endpoint's key.")
@click.option("--embedder", default="minilm", show_default=True, help="r3: minilm, a Hub id or a folder.")
@columns_options
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@store_option
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, help="Ray actors; 0 works in this process."
)
@ray_option
@retry_option
def score(**options: Any) -> None:
    """Score every answer of a plain file.

    IN is as for `pairs`, without rewards: a row per answer (prompt_id, prompt, answer) or per prompt (answers: a
    list); optional: system, reference. OUT is IN with one column more, called as the scorer, and one for each score
    that it is made of; where IN has no rewards, it is the reward, too. Several scores live side by side: score OUT
    again, and choose with `pairs --reward-column NAME`. Run again after an interruption, it continues.
    """
    from synthmill.flows.commands.score import score_file

    score_file(score_settings(**options))


def score_settings(
    engine_option: tuple[str, ...],
    scorer: str,
    weight: tuple[str, ...],
    rubric: Path | None,
    sets: tuple[str, ...],
    argument: tuple[str, ...],
    prompt_id_column: str,
    prompt_column: str,
    answer_column: str,
    **options: Any,
) -> Any:
    """The settings that the options of `score` stand for. Raises InputError."""
    from synthmill.flows.commands.score import ScoreSettings
    from synthmill.schemas.settings_files import read_settings, read_yaml
    from synthmill.storage.plain_files.pools import ColumnNames
    from synthmill.tasks.scorers.scoring import ScorerSettings

    own = {name: value for name in SCORER_OPTIONS if (value := options.pop(name)) not in (None, False)}
    if weight:
        own["weights"] = dict(split_set(text, "--weight", "helpfulness=0.65") for text in weight)
    if argument:
        own["arguments"] = dict(split_set(text, "--argument", "decimals=3") for text in argument)
    if rubric:
        own["rubric"] = read_yaml(rubric)
    own |= dict(split_set(text, "--set", "calls=each") for text in sets)
    return ScoreSettings(
        scorer=read_settings(ScorerSettings, None, {"spec": scorer, **own}),
        columns=ColumnNames(prompt_id_column, prompt_column, answer_column),
        engine_option=engine_choices(engine_option),
        **options,
    )
