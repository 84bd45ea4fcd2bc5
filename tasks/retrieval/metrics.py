"""How well queries find their gold passages: the measures of trec_eval, from the ranks of the gold passages alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from synthmill.tasks.cores import Array

MEASURES = ("MRR", "MRR@10", "nDCG@3", "nDCG@10", "R@5", "R@10", "R@20", "R@100", "MAP")
FORMS = ("question", "user_turns", "history", "human_rewrite", "rewrite", "plan", "expand", "ensemble", "fusion")
KEYS = ("group", "retriever", "form", "choice")
ANY = ""  # the form that all of a turn's queries make; a file's names are never empty
DEPTHS = ((1, "turn 1"), (3, "turns 2-3"), (6, "turns 4-6"), (1 << 30, "turns 7 and later"))


def measures(ranks: Sequence[Sequence[int]], relevance: Sequence[Sequence[int]], depth: int) -> dict[str, Array]:
    """One number per query for each of `MEASURES`; ranks: of every gold passage, from 1, over `depth` for a miss;
    relevance: theirs, at least 1.

    The gain of nDCG is the relevance (trec_eval's), every other measure takes a gold passage as relevant. A miss counts
    as 0. A measure that looks deeper than `depth` is nan.
    """
    widest = max(map(len, ranks), default=1)
    at = np.full((len(ranks), widest), np.inf)
    gain = np.zeros((len(ranks), widest))
    for row, (gold_ranks, grades) in enumerate(zip(ranks, relevance, strict=True)):
        at[row, : len(gold_ranks)] = gold_ranks
        gain[row, : len(grades)] = grades
    at[at > depth] = np.inf
    gold = np.maximum(1, np.array([len(gold_ranks) for gold_ranks in ranks], float))
    first = 1 / at.min(1, initial=np.inf)
    in_order = np.sort(at, 1)
    ideal = -np.sort(-gain, 1)
    discount = np.log2(2 + np.arange(widest))

    def ndcg(cut: int) -> Array:
        best = (ideal / discount)[:, :cut].sum(1)
        gains: Array = (gain / np.log2(1 + at) * (at <= cut)).sum(1)
        return np.asarray(gains / np.maximum(best, 1e-9))

    values_by_measure = {
        "MRR": first,
        "MRR@10": np.where(first >= 0.1, first, 0),
        "nDCG@3": ndcg(3),
        "nDCG@10": ndcg(10),
        **{f"R@{cut}": (at <= cut).sum(1) / gold for cut in (5, 10, 20, 100)},
        "MAP": ((1 + np.arange(widest)) / in_order).sum(1) / gold,
    }
    unknown = np.full(len(at), np.nan)
    return {
        name: values if int(name.partition("@")[2] or 0) <= depth else unknown
        for name, values in values_by_measure.items()
    }


def scored_queries(turns: pl.DataFrame, depth: int) -> pl.DataFrame:
    """A row per turn, retriever and candidate, in order: id, turn, turn_type, retriever, query, methods, number, place,
    ranks (of each gold passage), rank (the best), reward, and every measure.

    turns: rows with rankings.
    """
    columns = ["id", "conversation", "turn", "turn_type", "topic", "gold", "candidates", "rankings"]
    candidates = turns.select(columns).explode("rankings").unnest("rankings")
    candidates = candidates.with_columns(
        place=pl.int_ranges(pl.col("candidates").list.len()),
        relevance=pl.col("gold").list.eval(pl.element().struct.field("relevance")),
    )
    candidates = candidates.explode("candidates", "ranks", "rewards", "place").unnest("candidates")
    values_by_measure = measures(candidates["ranks"].to_list(), candidates["relevance"].to_list(), depth)
    return candidates.select(
        *columns[:5],
        *("retriever", "query", "methods", "number", "place", "ranks"),
        pl.col("ranks").list.min().alias("rank"),
        pl.col("rewards").alias("reward"),
        *(pl.Series(name, values).fill_nan(None) for name, values in values_by_measure.items()),
    )


def turn_types(queries: pl.DataFrame) -> pl.DataFrame:
    """The queries with `turn_type` filled in where the data has topics: first, topic switch or no switch."""
    turns = queries.select("id", "conversation", "turn", "topic").unique("id").sort("conversation", "turn")
    before = pl.col("topic").shift(1).over("conversation")
    follows = pl.col("turn") == pl.col("turn").shift(1).over("conversation") + 1
    kind = (
        pl.when(pl.col("turn") == 1)
        .then(pl.lit("first"))
        .when((pl.col("topic") == "") | before.is_null() | (before == "") | ~follows)
        .then(pl.lit(""))
        .when(pl.col("topic") == before)
        .then(pl.lit("no switch"))
        .otherwise(pl.lit("topic switch"))
    )
    by_topic = turns.select("id", kind.alias("by_topic"))
    labelled = pl.col("turn_type") != ""
    return queries.join(by_topic, on="id", maintain_order="left").with_columns(
        turn_type=pl.when(labelled).then("turn_type").otherwise("by_topic")
    )


def forms(queries: pl.DataFrame) -> pl.DataFrame:
    """Per turn, retriever and form (a method or a name), the first and the best of its queries; and those of all.

    Columns `form`, `choice` (first, best), `several` (whether it had more than one) and the measures.
    """
    by_form = pl.concat(
        [
            queries.explode("methods").rename({"methods": "form"}),
            queries.drop("methods").with_columns(form=pl.lit(ANY)),
        ],
        how="diagonal",
    )
    keys = ["retriever", "form", "id"]
    by_form = by_form.with_columns(several=pl.len().over(keys) > 1)
    first = by_form.sort("place", maintain_order=True).unique(keys, keep="first", maintain_order=True)
    best = by_form.sort("rank", "place", maintain_order=True).unique(keys, keep="first", maintain_order=True)
    return pl.concat([first.with_columns(choice=pl.lit("first")), best.with_columns(choice=pl.lit("best"))])


def totals(queries: pl.DataFrame) -> pl.DataFrame:
    """Sums of the measures by group (all turns, a turn type, a depth), retriever, form and choice."""
    by_form = forms(turn_types(queries))
    depth = pl.lit(DEPTHS[-1][1])
    for limit, name in reversed(DEPTHS[:-1]):
        depth = pl.when(pl.col("turn") <= limit).then(pl.lit(name)).otherwise(depth)
    grouped = pl.concat(
        [
            by_form.with_columns(group=pl.lit("")),
            by_form.filter(pl.col("turn_type") != "").with_columns(group=pl.col("turn_type")),
            by_form.filter(pl.col("turn") > 0).with_columns(group=depth),
        ]
    )
    sums = (pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name) for name in MEASURES)
    return grouped.group_by(KEYS, maintain_order=True).agg(pl.len().alias("queries"), pl.col("several").any(), *sums)


def evaluation(sums: Sequence[pl.DataFrame]) -> list[dict[str, Any]]:
    """Means by retriever, form and choice, of every group; sums: `totals`. A form that no turn has twice has one,
    `only`. Rows: retriever, form, choice, group, queries, and the measures (None where the depth does not tell).
    """
    all_sums = pl.concat(sums)
    added = (pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name) for name in MEASURES)
    means = all_sums.group_by(KEYS, maintain_order=True).agg(pl.col("queries").sum(), pl.col("several").any(), *added)
    means = means.with_columns(pl.col("several").any().over("retriever", "form"), pl.col(MEASURES) / pl.col("queries"))
    means = means.filter(pl.col("several") | (pl.col("choice") == "first"))
    rows = (
        means.with_columns(choice=pl.when("several").then("choice").otherwise(pl.lit("only")))
        .drop("several")
        .to_dicts()
    )
    form_order = list(dict.fromkeys([*FORMS, *(row["form"] for row in rows if row["form"] != ANY), ANY]))
    retrievers, order = list(dict.fromkeys(means["retriever"])), list(dict.fromkeys(means["group"]))
    return sorted(
        rows,
        key=lambda row: (order.index(row["group"]), retrievers.index(row["retriever"]), form_order.index(row["form"])),
    )


def disagreement(queries: pl.DataFrame) -> list[dict[str, Any]]:
    """Per two retrievers: of the pairs of a turn's queries that both rank differently, the share they order the other
    way round; and of the turns, the share whose best query differs (ties to the first).
    """
    names = queries["retriever"].unique(maintain_order=True).to_list()
    by_turn = {
        (row["id"], row["retriever"]): row["rank"]
        for row in queries.group_by("id", "retriever", maintain_order=True).agg("rank").iter_rows(named=True)
    }
    turns = queries["id"].unique(maintain_order=True).to_list()
    rows = []
    for n, retriever in enumerate(names):
        for other_retriever in names[n + 1 :]:
            compared = against = differ = 0
            for turn in turns:
                a, b = np.array(by_turn[turn, retriever]), np.array(by_turn[turn, other_retriever])
                signs = np.triu(np.sign(a[:, None] - a) * np.sign(b[:, None] - b), 1)
                compared += int((signs != 0).sum())
                against += int((signs < 0).sum())
                differ += int(a.argmin() != b.argmin())
            rows.append(
                {
                    "one": retriever,
                    "other": other_retriever,
                    "pairs": compared,
                    "against": against / compared if compared else None,
                    "best_differs": differ / len(turns) if turns else None,
                }
            )
    return rows


def as_json(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The measures of one retriever: of its only form, or of the first of all queries; and of every form and group."""
    overall = [row for row in rows if not row["group"]]
    names = {row["form"] for row in overall} - {ANY}
    chosen = next(row for row in overall if row["form"] == (min(names) if len(names) == 1 else ANY))
    summary = {name: chosen[name] for name in ("queries", *MEASURES)}
    if len(names) > 1:
        summary["forms"] = {form_name(row): {name: row[name] for name in ("queries", *MEASURES)} for row in overall}
    groups = dict.fromkeys(row["group"] for row in rows if row["group"])
    if len(groups) > 1:
        summary["groups"] = {
            group: {
                form_name(row): {name: row[name] for name in ("queries", *MEASURES)}
                for row in rows
                if row["group"] == group
            }
            for group in groups
        }
    return summary


def decimals(value: float | None) -> str:
    """A measure for people; a dash for one that is not known."""
    return "–" if value is None else f"{value:.3f}"


def form_name(row: Mapping[str, Any]) -> str:
    """A form for people: `rewrite, best`."""
    return str(row["form"] or "all") + ("" if row["choice"] == "only" else f", {row['choice']}")
