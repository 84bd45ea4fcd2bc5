"""What a flow made, shown on the terminal: a few rows, side by side, with the whole way there in a preview."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from flows.making.plan import Plan
from flows.multifaceted_report import each_value, value_counts
from flows.pages.templates import two_places
from flows.preference_showing import show_preferences
from flows.retpo_report import CHECKED, all_queries, check_found, figures, note_own, note_ties
from flows.retpo_settings import RetpoSettings
from flows.terminal.tables import shortened
from schemas.artifacts import Manifest
from schemas.dialogue_settings import DialogueSettings
from storage.plain_files.rows import INSTRUCTIONS
from storage.published.rows import compared, read_frame, stream_of
from tasks.generators.dialogues.signs import called
from tasks.generators.multifaceted.bench import bench_results
from tasks.generators.multifaceted.coverage import coverage
from tasks.generators.multifaceted.preference_sets import PreferenceSets
from tasks.retrieval.indexes import own_passages
from tasks.retrieval.metrics import decimals, form_name
from tasks.retrieval.ranks import Ranks
from tasks.running.stages import APPLICATIONS, noted_rows

Made = Mapping[str, Manifest]


def notes(planned: Plan, made: Made) -> Iterator[str]:
    """What a reader should know before the table."""
    if INSTRUCTIONS.stage in made and (noted := noted_rows(planned.store, made[INSTRUCTIONS.stage])):
        yield f"{noted} rows have other turns or messages: the first user turn was used"
    yield from compared(planned.store, made)
    settings = planned.settings
    if isinstance(settings, RetpoSettings) and any(isinstance(one, CHECKED) for one in settings.retrievers):
        ranked = made[last_ranks(planned)]
        yield from check_found(settings.retrievers, all_queries(planned.store, ranked, settings.depth), settings.depth)
    if isinstance(settings, RetpoSettings):
        ids = read_frame(planned.store, made["gold_places"], ("id",))["id"]
        own = own_passages(planned.store.root, made["passages"].key, ids)
        if note := note_own(own, bool(settings.ignore_identical_ids)):
            yield note
        yield from note_ties(settings.retrievers)
    if isinstance(settings, DialogueSettings):
        named = dict(read_frame(planned.store, made[APPLICATIONS], ("id", "name")).rows())
        drafted = dict(read_frame(planned.store, made["drafts"], ("id", "parent_id")).rows())
        inputs = Counter(read_frame(planned.store, made["pseudo_inputs"], ("parent_id",))["parent_id"])
        for name, count in sorted((named[drafted[owner]], count) for owner, count in inputs.items()):
            if count < settings.inputs.count:
                yield (
                    f"{name}: {count} of {settings.inputs.count} inputs wanted; raise inputs.overgenerate "
                    f"({settings.inputs.overgenerate:g}), or add demos"
                )
        rows = read_frame(planned.store, made["training_rows"], ["kind", "longest_target_tokens"])
        long = rows.filter(pl.col("longest_target_tokens") > settings.target_max_len)
        for kind, count in sorted(Counter(long["kind"]).items()):
            counted = "" if settings.tokenizer else "about "
            most = max(long.filter(pl.col("kind") == kind)["longest_target_tokens"])
            yield (
                f"{count} {kind} rows have a turn of over {settings.target_max_len} tokens ({counted}{most} at most): "
                f"a trainer with target_max_len {settings.target_max_len}, the paper's, would cut them"
            )


def first_rows(planned: Plan, manifest: Manifest) -> list[dict[str, Any]]:
    """Rows of an artifact's first part."""
    file = pq.ParquetFile(planned.store.root / manifest.parts[0].file)
    batch = next(file.iter_batches(planned.settings.rows_per_part), None)
    return batch.to_pylist() if batch else []


def show_pairs(console: Any, planned: Plan, made: Made, most: int, whole: bool) -> None:
    """The first pairs. Parts follow each other through the stages: theirs come from the first part of every one."""
    rows = {stage: {row["id"]: row for row in first_rows(planned, manifest)} for stage, manifest in made.items()}
    for pair in list(rows["pairs"].values())[:most]:
        traced, parent = {"pair": pair}, pair["parent_id"]
        for stage in ("rewards", "variants"):
            traced[stage] = rows[stage][parent]
            parent = traced[stage]["parent_id"]
        show_row(console, traced, whole)


def show_row(console: Any, traced: dict[str, Any], whole: bool) -> None:
    """One instruction, its chosen answer beside the rejected one; the whole way there in a preview."""
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.text import Text

    pair = traced["pair"]
    console.print()
    console.print(Text(f"user: {shortened(pair['prompt'], 300)}", style="bold"))
    if whole:
        for value in traced["variants"]["preference_set"]:
            said = f"  {value['dimension']} / {value['subdimension']} / {value['preference']}: {value['description']}"
            console.print(Text(shortened(said, 300), style="dim"))
    console.print(Text(f"system: {shortened(pair['system'] or '', 300)}"))
    if whole:
        pool = traced["rewards"]
        for answer, reward in zip(pool["answers"], pool["rewards"], strict=True):
            said = (
                f"  answer {answer['answer_index']}, reward {reward:.3f}, {answer['finish_reason']}: {answer['text']}"
            )
            console.print(Text(shortened(said, 160), style="dim"))
    half = max(30, console.width // 2 - 2)
    both = [
        Panel(Text(shortened(pair[name], 400)), title=f"{name} ({pair[name + '_reward']:.3f})", width=half)
        for name in ("chosen", "rejected")
    ]
    console.print(Columns(both))


def show_dialogues(console: Any, planned: Plan, made: Made, most: int, whole: bool) -> None:
    """How the dialogues ended and what the cut did, then the first ones, turn by turn."""
    from rich.text import Text

    rows = stream_of(planned.store, made["dialogue_signs"])
    frame = rows.frame(["end_reason", "cut_by", "kept", "realism", "same_outcome"])
    ends = ", ".join(f"{count} {reason}" for reason, count in Counter(frame["end_reason"]).most_common())
    cuts = ", ".join(f"{count} {sign}" for sign, count in Counter(frame["cut_by"]).most_common() if sign)
    kept = f"kept: {frame['kept'].sum()} of {frame.height}" + (f"; cut by {cuts}" if cuts else "")
    console.print(f"\nends: {ends}\n{kept}", highlight=False)
    if isinstance(realism := frame["realism"].mean(), float):
        same = frame["same_outcome"].mean()
        agreed = f", the same outcome in {same:.0%}" if isinstance(same, float) else ""
        console.print(f"simulated against real replies: ROUGE-L {realism:.2f}{agreed}", highlight=False)
    width = 100_000 if whole else 400
    for row in rows.take(range(most)).iter_rows(named=True):
        application = row["application"]
        console.print()
        console.print(Text(f"{application['name']}: {shortened(row['pseudo_input'], width)}", style="bold"))
        console.print(Text(f"  without the prompt: {shortened(row['student_output_single'], 160)}", style="dim"))
        console.print(Text(f"  with the prompt: {shortened(row['teacher_output_single'], 160)}", style="dim"))
        if whole:
            console.print(Text(f"  reason: {shortened(row['reason'], width)}", style="dim"))
            console.print(Text(f"  facts: {shortened(row['facts'], width)}", style="dim"))
        for turn in row["turns"]:
            who, style = {"assistant": ("agent", "cyan"), "tool": ("tool", "green")}.get(
                turn["role"], ("environment", "green")
            )
            console.print(
                Text.assemble((f"  {who}: ", style), shortened(turn["content"] or called(turn["tool_calls"]), width))
            )
        verdict = "kept" if row["kept"] else f"cut by {row['cut_by']}"
        console.print(Text(f"  ended: {row['end_reason']}; {verdict}", style="dim"))


def show_variants(console: Any, planned: Plan, made: Made, most: int, whole: bool) -> None:
    """How even the values came out, then the first instructions, each with its variants and the pair made of them."""
    from rich.text import Text

    stream = stream_of(planned.store, made["variants"])
    width = 100_000 if whole else 300
    parents = stream.frame(["parent_id"])["parent_id"].unique(maintain_order=True).head(most)
    first = stream.filter(pl.col("parent_id").is_in(parents.implode())).frame()
    for variants in first.partition_by("parent_id", maintain_order=True):
        rows = variants.to_dicts()
        console.print()
        console.print(Text(f"user: {shortened(rows[0]['prompt'], width)}", style="bold"))
        for row in rows:
            values = "; ".join(value["preference"] for value in row["preference_set"])
            console.print(Text(f"  values: {values}" + ("  (picked)" if row["picked"] else ""), style="cyan"))
            if whole:
                for value in row["preference_set"]:
                    origin = value["origin"].replace("_", " ")
                    said = f"{value['dimension']} / {value['subdimension']} ({origin}): {value['description']}"
                    console.print(Text(f"    {said}", style="dim"))
            console.print(Text(f"    system: {shortened(row['system'], width)}", style="dim"))
            console.print(Text(f"    {shortened(row['output'], width)}"))
    drawn = next(step.stage for step in planned.stages if isinstance(step.stage, PreferenceSets))
    used = value_counts(stream)
    for split, side in drawn.sides.items():
        counts = used.filter(pl.col("split") == split)
        console.print(f"\n{split}: {int(counts['count'].sum()) // len(side.dimensions):,} sets", highlight=False)
        for found in coverage(side, each_value(counts)) if counts.height else ():
            console.print(
                f"  {found['dimension']}: {found['subdimensions']} subdimensions (evenness "
                f"{found['subdimension_evenness']:.3f}), {found['seeds_dealt']:.0%} of the seeds dealt "
                f"({found['dealt_evenness']:.3f}), {found['seeds_used']:.0%} used ({found['used_evenness']:.3f})",
                highlight=False,
            )


def show_scores(console: Any, planned: Plan, made: Made, most: int, whole: bool) -> None:
    """The first rows with what the judge said, then the scores."""
    from rich.text import Text

    judged = stream_of(planned.store, made["bench_scores"])
    for row in judged.take(range(most)).iter_rows(named=True):
        console.print()
        console.print(Text(f"user: {shortened(row['prompt'], 300)}", style="bold"))
        console.print(Text(f"  system: {shortened(row['system'], 300)}", style="dim"))
        console.print(Text(f"  answer: {shortened(row['answers'][0], 100_000 if whole else 300)}"))
        scored = zip(row["rubrics"], row["scores"][0], row["feedbacks"][0], strict=False)
        for rubric, score, feedback in scored:
            said = f"  {'–' if score is None else score}: {shortened(rubric['criteria'], 120)}"
            console.print(Text(said + (f" {shortened(feedback, 1000)}" if whole else ""), style="cyan"))
    from flows.terminal.tables import table

    results = bench_results(judged.frame(["preference_set", "scores", "run_scores"]))
    shown = table("", "score", "spread over runs", "missing")
    for result in results:
        shown.add_row(Text(result.name), two_places(result.score), two_places(result.spread), f"{result.missing:,}")
    console.print(shown)


def last_ranks(planned: Plan) -> str:
    """The step whose rows have every retriever's ranks."""
    return next(step.step for step in reversed(planned.stages) if isinstance(step.stage, Ranks))


def show_queries(console: Any, planned: Plan, made: Made, most: int, whole: bool) -> None:
    """The first turns with their best queries by each retriever's rank, then how each form does."""
    from rich.text import Text

    from flows.terminal.tables import table

    assert isinstance(planned.settings, RetpoSettings)
    queries = all_queries(planned.store, made[last_ranks(planned)], planned.settings.depth)
    names = queries["retriever"].unique(maintain_order=True).to_list()
    turns = stream_of(planned.store, made["gold_places"]).filter(pl.col("history").list.len() > 0)
    for turn in turns.take(range(most), ["id", "question", "history"]).iter_rows(named=True):
        said = turn["history"] if whole else turn["history"][-2:]
        console.print()
        for message in said:
            console.print(Text(f"{message['role']}: {shortened(message['content'], 300)}", style="dim"))
        console.print(Text(f"user: {shortened(turn['question'], 300)}", style="bold"))
        mine = queries.filter(pl.col("id") == turn["id"]).group_by("place", "query", "methods", maintain_order=True)
        best = mine.agg("rank").sort(pl.col("rank").list.min(), "place")
        for row in best.head(100 if whole else 5).iter_rows(named=True):
            ranks = ", ".join(f"{name} {rank}" for name, rank in zip(names, row["rank"], strict=True))
            console.print(Text(f"  {ranks} ({', '.join(row['methods'])}): {shortened(row['query'], 200)}"))
    columns = ("retriever", "form", "queries", "MRR", "nDCG@3", "R@10", "R@100")
    shown = table(*columns, numbers=columns[2:])
    told = figures(queries)
    for row in told["evaluation"]:
        if not row["group"]:
            form = form_name(row)
            numbers = (decimals(row[name]) for name in columns[3:])
            shown.add_row(Text(row["retriever"]), Text(form), f"{row['queries']:,}", *numbers)
    console.print(shown)
    for row in told["disagreement"]:
        if row["against"] is not None:
            console.print(
                f"{row['one']} and {row['other']} order {row['against']:.0%} of {row['pairs']:,} pairs of queries the "
                f"other way round; in {row['best_differs']:.0%} of the turns their best query differs",
                highlight=False,
            )


SHOWN: dict[str, Callable[[Any, Plan, Made, int, bool], None]] = {
    "synthesize": show_pairs,
    "dialogues": show_dialogues,
    "multifaceted": show_variants,
    "judge": show_scores,
    "retpo": show_queries,
    "preferences": show_preferences,
    "self-rip": show_preferences,
}
