"""What `preferences` and `self-rip` publish: pairs, prompts, pools, a report, and the limits for another run."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from synthmill.flows.methods.preferences.rows import pair_rows, prompt_rows
from synthmill.flows.methods.preferences.settings import PoolSettings
from synthmill.flows.pages.templates import Manifests, render, two_places
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.endings import ending_of
from synthmill.schemas.rip_limits import LIMITS, Thresholds
from synthmill.storage.artifacts import Store
from synthmill.storage.published.configurations import Dataset, Figure, Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import PAIR, stream_of
from synthmill.storage.published.wide_pools import pool_rows
from synthmill.tasks.cuts.agreement import Agreement
from synthmill.tasks.cuts.cut import cut
from synthmill.tasks.cuts.guards import count_flags
from synthmill.tasks.cuts.pair_limits import fixed_limits, limits_met
from synthmill.tasks.cuts.pool_pairs import PoolPairs
from synthmill.tasks.cuts.report import CutReport, report_lines
from synthmill.tasks.cuts.rules.band import Band
from synthmill.tasks.cuts.rules.rip import Rip
from synthmill.tasks.running.job import Planned
from synthmill.tasks.scorers.figures import figures_of_steps, notes_of_steps
from synthmill.tasks.scorers.judgements import notes_on_judgements

PROMPT = "a prompt whose pair was kept; `synthmill run self-rip` starts from these"
AGREEMENT = ("scorer", "and", "Spearman", "error", "pools")
METRICS = dict(zip(LIMITS, (*LIMITS[:2], "margin"), strict=True))  # limit -> column


def preferences_dataset(
    store: Store,
    manifests: Manifests,
    settings: PoolSettings,
    scored: str,
    cutting: PoolPairs,
    stages: Sequence[Planned],
) -> Dataset:
    """dpo and prompts per rule, the pools, the limits and the report. scored: the key of the pools that were cut."""
    pairs = stream_of(store, manifests["preferences"])
    tables: dict[str, Table] = {}
    files: dict[str, bytes] = {}
    for rule in settings.cuts:
        of_rule = pairs.filter(pl.col("cut") == rule.label)
        tables[f"dpo_{rule.label}"] = Table.of(pair_rows(of_rule), "preferences", PAIR)
        if isinstance(rule, Rip | Band):
            tables[f"prompts_{rule.label}"] = Table.of(prompt_rows(of_rule), "prompts", PROMPT)
        if isinstance(rule, Rip) and of_rule.height:
            limits = limits_of(of_rule.frame(numbers_in(of_rule)), rule, settings.chosen_reward)
            files[f"thresholds-{rule.label}.json"] = orjson.dumps(limits.model_dump(), option=orjson.OPT_INDENT_2)
    pools = next(manifest for manifest in manifests.values() if manifest.key == scored)
    again = f"`synthmill pairs FILE --reward-column {settings.chosen_reward}`"
    about = f"a prompt with all its answers and scores; cut it again with {again}"
    tables["pools"] = Table.of(pool_rows(stream_of(store, pools)), "other", about)
    report = summarize(store, pools, pairs.frame(numbers_in(pairs)), settings, cutting)
    report["unread"] = notes_on_judgements(store, manifests)
    files["report.json"] = orjson.dumps(report, option=orjson.OPT_INDENT_2)
    reports = ["\n".join(report_lines(rule, complete=n == 0)) for n, rule in enumerate(report["cuts"])]
    rules = len(settings.cuts)
    return Dataset(
        "Preference pairs from pools",
        f"Prompts with many answers each, their scores, and the pairs that {rules} {'rule' if rules == 1 else 'rules'} "
        f"made of them. The reward is `{settings.chosen_reward}`"
        f"{', without what length earns within a pool' if settings.length_control else ''}.",
        tables,
        render("preferences.md", Path(__file__).parent, told=report, settings=settings, reports=reports),
        files,
        notes=notes_of_steps(store, manifests, stages),
        figures=[*figures_of(report), *figures_of_steps(store, manifests, stages)],
    )


def figures_of(report: Mapping[str, Any]) -> list[Figure]:
    """What each rule did, how scorers agree, what is missing and flagged."""
    figures = [
        Figure.lines(f"What {cut['rule']} did", report_lines(cut, complete=n == 0))
        for n, cut in enumerate(report["cuts"])
    ]
    if report["agreement"]:
        rows = [
            (row["one"], row["other"], two_places(row["spearman"]), two_places(row["error"]), f"{row['pools']:,}")
            for row in report["agreement"]
        ]
        figures.append(Figure("How the scorers agree", AGREEMENT, tuple(rows), text_columns=2))
    counts = [
        f"{name} is missing for {row['missing']:,} of {row['answers']:,} answers"
        for name, row in report["missing"].items()
        if row["missing"]
    ]
    counts += [f"{count:,} answers are flagged {flag}" for flag, count in report["flags"].items()]
    return [*figures, Figure.lines("Missing scores and flags", counts)] if counts else figures


@dataclass
class PoolCounts:
    """What is counted over pools: agreement of scorers, answers by flag, scores that are missing, rewards by policy.

    parts: scores that others are made of, and that are not compared or counted.
    """

    parts: frozenset[str] = frozenset()
    agreement: Agreement = field(default_factory=Agreement)
    flags: Counter[str] = field(default_factory=Counter)
    scores: dict[str, list[int]] = field(default_factory=dict)  # by scorer: answers, and how many have no score
    rewards: dict[str, tuple[int, float]] = field(default_factory=dict)  # by policy: answers, and their rewards' sum
    cut_short: int = 0

    def add(self, pools: pl.DataFrame, rewards: Sequence[Sequence[float | None]]) -> None:
        """Count some pools; rewards: of each pool's answers."""
        for answers, rewards_of, scores in zip(
            pools["answers"].to_list(), rewards, pools["scores"].to_list(), strict=True
        ):
            whole = [score for score in scores if score["scorer"] not in self.parts]
            self.agreement.add(whole)
            for score in whole:
                counts = self.scores.setdefault(score["scorer"], [0, 0])
                counts[0] += len(score["values"])
                counts[1] += score["values"].count(None)
            for answer, reward in zip(answers, rewards_of, strict=True):
                self.cut_short += ending_of(answer["finish_reason"]) == "length"
                if reward is not None and math.isfinite(reward):
                    answer_count, total = self.rewards.get(answer["policy"], (0, 0.0))
                    self.rewards[answer["policy"]] = answer_count + 1, total + reward

    def policies(self, pairs: pl.DataFrame) -> list[dict[str, Any]]:
        """Per policy its answers, their mean reward, and how often it is in these pairs."""
        return [
            {
                "policy": policy,
                "answers": answer_count,
                "mean_reward": total / answer_count,
                "chosen": int((pairs["chosen_policy"] == policy).sum()),
                "rejected": int((pairs["rejected_policy"] == policy).sum()),
            }
            for policy, (answer_count, total) in self.rewards.items()
        ]


def summarize(
    store: Store, pools: Manifest, pairs: pl.DataFrame, settings: PoolSettings, cutting: PoolPairs
) -> dict[str, Any]:
    """Per rule its report; how scorers agree; answers by flag; rewards by policy. pairs: their numbers."""
    parts = frozenset(part for scorer in settings.scorers for part in scorer.labels if part != scorer.label)
    reports, counts = [CutReport(rule) for rule in settings.cuts], PoolCounts(parts)
    for frame in stream_of(store, pools).batches():
        if not frame.height:
            continue
        table, usable, flags = cutting.prepare(frame, store.root)
        counts.flags.update(count_flags(flags))
        for report in reports:
            report.add(cut(table, report.settings, usable))
        counts.add(frame, table["rewards"].to_pylist())
    return {
        "reward": settings.chosen_reward,
        "cuts": [summarize_rule(report, pairs, settings.chosen_reward) for report in reports],
        "agreement": counts.agreement.summary(),
        "missing": {name: {"answers": every, "missing": missing} for name, (every, missing) in counts.scores.items()},
        "flags": dict(counts.flags),
        "cut_short": counts.cut_short,
        "content_filter": reports[0].broken_off,
        "policies": counts.policies(pairs.filter(pl.col("kept") & pl.col("within"))),
    }


def summarize_rule(report: CutReport, pairs: pl.DataFrame, reward: str) -> dict[str, Any]:
    """What one rule did: its report over all pools, with the pairs of it that were kept."""
    rule = report.settings
    of_rule = pairs.filter((pl.col("cut") == rule.label) & pl.col("kept"))
    report.keep(of_rule.filter(pl.col("within")).to_arrow())
    limits = limits_of(of_rule, rule, reward) if isinstance(rule, Rip) else None
    if limits:
        outside = limits_met({name: of_rule[at].to_numpy() for name, at in METRICS.items()}, limits)
        report.leaves_out = {name: int((~good).sum()) for name, good in outside.items()}
    return report.summary({}, of_rule.height, limits)


def limits_of(pairs: pl.DataFrame, settings: Rip, reward: str) -> Thresholds:
    """The limits that one rule's pairs were held to: stored ones as they are, or those fitted on these pairs."""
    fixed = fixed_limits(settings)
    if settings.stored_limits or not pairs.height:
        return fixed
    fitted_limits = {name: pairs[f"limit_{name}"].max() for name in LIMITS}
    quantiles = {name: at for name, at in settings.quantiles.items() if at is not None and getattr(fixed, name) is None}
    fitted = {"reward": reward, "quantiles": quantiles, "pairs": int(pairs["kept"].sum()), "fitted_on": "preferences"}
    return fixed.model_copy(update={**fitted_limits, **fitted})


def numbers_in(pairs: RowStream) -> list[str]:
    """The columns of pairs that are small: verdicts, numbers, and who wrote the answers."""
    small = ("cut", "chosen_policy", "rejected_policy")
    return [name for name, kind in pairs.schema.items() if name in small or kind.is_numeric() or kind == pl.Boolean]
