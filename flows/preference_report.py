"""What `preferences` and `self-rip` leave beside their rows: a card, a report, and the limits for another run."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from flows.pairing import fixed_limits
from flows.report import funnel, render
from schemas.artifacts import Manifest
from schemas.cut_settings import LIMITS, CutSettings, Thresholds
from schemas.preference_settings import PoolSettings
from storage.artifacts import Store, read_part
from storage.files import write_json
from storage.publish import Splits, comparisons, read_frame, write_configs
from storage.publish_preferences import pair_rows, pool_rows, prompt_rows
from tasks.agreement import Agreement
from tasks.cut_report import CutReport, lines
from tasks.hacking import counted
from tasks.pairing import cut
from tasks.pool_pairs import PoolPairs, quantiles_of
from tasks.rip import within

Made = Mapping[str, Manifest]
METRICS = dict(zip(LIMITS, (*LIMITS[:2], "margin"), strict=True))  # limit -> column
STAGES = ("instructions", "questions", "pools", "new_prompts", "fresh_prompts", "answer_pool")


def write_preferences(
    store: Store, made: Made, folder: Path, settings: PoolSettings, scored: str, cutting: PoolPairs
) -> int:
    """Write dpo and prompts per rule, the pools, the limits, the report, then the card; returns all rows."""
    pairs = read_frame(store, made["preferences"])
    configs: dict[str, Splits] = {}
    for one in settings.cuts:
        mine = pairs.filter(pl.col("cut") == one.label)
        configs[f"dpo_{one.label}"] = pair_rows(mine)
        if one.rule == "rip":
            configs[f"prompts_{one.label}"] = prompt_rows(mine)
            if mine.height:
                write_json(
                    folder / f"thresholds-{one.label}.json", limits_of(mine, one, settings.chosen_reward).model_dump()
                )
    pools = made[scored]
    configs["pools"] = pool_rows(read_frame(store, pools))
    told = figures(store, pools, pairs, settings, cutting)
    write_json(folder / "report.json", told)
    counts = {name: frame.height for name, frame in configs.items() if isinstance(frame, pl.DataFrame)}
    stages = (*STAGES, *(step for step in made if step.endswith("_scores")), "pool_pairs", "unique_pairs")
    card = render(
        "preferences.md",
        told=told,
        counts=counts,
        filled=[name for name, rows in counts.items() if rows],
        settings=settings,
        funnel=funnel(made, stages),
        reports=["\n".join(lines(one, whole=n == 0)) for n, one in enumerate(told["cuts"])],
        models={role: engine.spec for role, engine in settings.engines.items()},
    )
    return write_configs(folder, configs, card + comparisons(store, made))


def figures(
    store: Store, pools: Manifest, pairs: pl.DataFrame, settings: PoolSettings, cutting: PoolPairs
) -> dict[str, Any]:
    """Per rule its report; how scorers agree; answers by flag; rewards by policy."""
    reports = [CutReport(one) for one in settings.cuts]
    agreement, flagged = Agreement(), Counter[str]()
    by_policy: dict[str, list[float]] = {}
    cut_short = 0
    scored: dict[str, list[int]] = {}
    for frame in parts_of(store, pools):
        table, usable, flags = cutting.prepared(frame, store.root)
        flagged.update(counted(flags))
        for report in reports:
            report.add(cut(table, report.settings, usable))
        for answers, rewards, scores in zip(
            frame["answers"].to_list(), table["rewards"].to_pylist(), frame["scores"].to_list(), strict=True
        ):
            agreement.add(scores)
            for score in scores:
                counts = scored.setdefault(score["scorer"], [0, 0])
                counts[0] += len(score["values"])
                counts[1] += score["values"].count(None)
            for answer, reward in zip(answers, rewards, strict=True):
                cut_short += answer["finish_reason"] == "length"
                if reward is not None and math.isfinite(reward):
                    by_policy.setdefault(answer["policy"], []).append(reward)
    told, staying = [], pairs.filter(pl.col("kept") & pl.col("within"))
    for report, one in zip(reports, settings.cuts, strict=True):
        mine = pairs.filter((pl.col("cut") == one.label) & pl.col("kept"))
        report.keep(mine.filter(pl.col("within")).to_arrow())
        limits = limits_of(mine, one, settings.chosen_reward) if one.rule == "rip" else None
        if limits:
            outside = within({name: mine[at].to_numpy() for name, at in METRICS.items()}, limits)
            report.leaves_out = {name: int((~good).sum()) for name, good in outside.items()}
        told.append(report.told({}, mine.height, limits))
    return {
        "reward": settings.chosen_reward,
        "cuts": told,
        "agreement": agreement.told(),
        "missing": {name: {"answers": answers, "missing": missing} for name, (answers, missing) in scored.items()},
        "flags": dict(flagged),
        "cut_short": cut_short,
        "policies": [
            {
                "policy": policy,
                "answers": len(rewards),
                "mean_reward": sum(rewards) / len(rewards),
                "chosen": int((staying["chosen_policy"] == policy).sum()),
                "rejected": int((staying["rejected_policy"] == policy).sum()),
            }
            for policy, rewards in by_policy.items()
        ],
    }


def limits_of(pairs: pl.DataFrame, settings: CutSettings, reward: str) -> Thresholds:
    """The limits that one rule's pairs were held to: stored ones as they are, or those fitted on these pairs."""
    fixed = fixed_limits(settings)
    if settings.preset or settings.thresholds or not pairs.height:
        return fixed
    found = {name: pairs[f"limit_{name}"].max() for name in LIMITS}
    quantiles = {
        name: at for name, at in quantiles_of(settings).items() if at is not None and getattr(fixed, name) is None
    }
    fitted = {"reward": reward, "quantiles": quantiles, "pairs": int(pairs["kept"].sum()), "fitted_on": "preferences"}
    return fixed.model_copy(update={**found, **fitted})


def parts_of(store: Store, manifest: Manifest) -> Iterator[pl.DataFrame]:
    """An artifact's rows, part by part."""
    for seal in manifest.parts:
        if seal.rows:
            yield pl.DataFrame(read_part(store, seal))
