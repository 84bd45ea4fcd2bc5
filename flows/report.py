"""What `multifaceted` and `judge` leave beside their rows: a card with the numbers, and a page with the picture."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flows.sunburst import sunburst
from schemas.artifacts import Manifest
from schemas.hashing import child_id
from schemas.texts import one_line, printable
from storage.artifacts import Store
from storage.files import write_text
from storage.publish import Splits, comparisons, read_frame, write_configs
from storage.publish_multifaceted import CARD, aligned_rows, bench_rows, reward_rows, sft_rows
from tasks.coverage import coverage
from tasks.diversity import spread
from tasks.embeddings import embed
from tasks.judging import BenchResult, bench_results
from tasks.preference_sets import PreferenceSets
from tasks.retrieval_metrics import decimals, form_name

Made = Mapping[str, Manifest]
FOLDER = Path(__file__).parent
ROWS_TO_READ = 3
SYSTEMS_COMPARED = 20_000
DATASET = ("variants", "aligned_pairs", "rubrics")
STAGES = (
    "instructions",
    "filtered",
    "preference_sets",
    "system_messages",
    "responses",
    "aligned_pairs",
    "bench_variants",
    "rubrics",
)


def write_multifaceted(store: Store, made: Made, folder: Path, drawn: PreferenceSets, embedder: str) -> int:
    """Write the splits, the report and its picture, then the card; returns all rows."""
    variants = read_frame(store, made["variants"])
    pairs = read_frame(store, made["aligned_pairs"])
    bench, unseen = pl.DataFrame(), pl.Series([], dtype=pl.String)
    if "rubrics" in made:
        bench, unseen = bench_rows(read_frame(store, made["rubrics"])), read_frame(store, made["bench_variants"])["id"]
    aligned_to = [child_id(*one) for one in pairs.select("parent_id", "chosen_index").iter_rows()]
    tests = pairs.filter(pl.Series(aligned_to, dtype=pl.String).is_in(unseen.implode()))
    rm = {"train": reward_rows(pairs.filter(pl.col("split") == "train")), "test": reward_rows(tests)}
    configs: dict[str, Splits] = {
        "sft": sft_rows(variants),
        "small": sft_rows(variants, picked=True),
        "preference": aligned_rows(pairs),
        "rm": rm,
        "bench": {"test": bench},
    }
    told = figures(store, made, drawn, embedder)
    values = value_table(variants)
    picture = sunburst(value_tree(values), "The values in this dataset", (f"{values.height:,}", "values"))
    rows = variants.head(ROWS_TO_READ * drawn.count).partition_by("parent_id", maintain_order=True)
    page = render("report.html", **told, picture=picture, instructions=[one.to_dicts() for one in rows])
    write_text(folder / "values.svg", picture)
    write_text(folder / "report.html", page)
    card = CARD.format(
        sets=drawn.count,
        artifacts=", ".join(f"`{made[stage].reference}`" for stage in DATASET if stage in made),
        rm_train=rm["train"].height,
        rm_test=rm["test"].height,
        bench=bench.height,
        report=render("report.md", **told, picture="values.svg"),
        **{name: frame.height for name, frame in configs.items() if isinstance(frame, pl.DataFrame)},
    )
    return write_configs(folder, configs, card + comparisons(store, made))


def figures(store: Store, made: Made, drawn: PreferenceSets, embedder: str) -> dict[str, Any]:
    """What survived each step, how even the values came out, how different the variants are."""
    values = value_table(read_frame(store, made["variants"], ("split", "preference_set")))
    return {
        "funnel": funnel(made, STAGES),
        "coverage": [
            row | {"split": split}
            for split, side in drawn.sides.items()
            if (mine := values.filter(pl.col("split") == split)).height
            for row in coverage(side, mine.iter_rows(named=True))
        ],
        "diversity": diversity_of(store, made, drawn, embedder),
    }


def render(template: str, **told: Any) -> str:
    """A page from its template; what rows say is escaped in HTML, and in markdown by the filter `cell`."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["cell"] = lambda text: escape(one_line(text), quote=False).replace("|", "\\|")
    environment.filters.update(form_name=form_name, decimals=decimals, figure=two_places)
    return environment.get_template(f"{template}.jinja").render(**told)


def value_table(variants: pl.DataFrame) -> pl.DataFrame:
    """One row per value that a variant has, with its split."""
    return variants.select("split", "preference_set").explode("preference_set").unnest("preference_set")


def value_tree(values: pl.DataFrame) -> dict[str, dict[str, dict[str, int]]]:
    """dimension -> subdimension -> value -> how often; dimensions in the taxonomy's order."""
    tree: dict[str, dict[str, dict[str, int]]] = {}
    names = ["dimension", "subdimension", "preference"]
    for dimension, subdimension, preference, count in values.group_by(names, maintain_order=True).len().iter_rows():
        tree.setdefault(dimension, {}).setdefault(subdimension, {})[preference] = count
    return tree


def funnel(made: Made, stages: Sequence[str]) -> list[dict[str, Any]]:
    """Per stage: rows in and out, and what was dropped."""
    return [
        {
            "stage": stage,
            "rows_in": made[stage].rows_in - made[stage].dropped.get("in_training", 0),
            "rows": made[stage].rows,
            "dropped": ", ".join(f"{n} {why}" for why, n in made[stage].dropped.items() if why != "in_training"),
        }
        for stage in stages
        if stage in made
    ]


def diversity_of(store: Store, made: Made, drawn: PreferenceSets, embedder: str) -> dict[str, Any]:
    """Means over instructions of what the stage `diversity` measured, and the spread of all system messages."""
    columns = ("description_rouge_l", "most_alike", "alike", "system_spread", "response_rouge_l", "systems")
    frame = read_frame(store, made["diversity"], columns)
    systems = frame["systems"].explode(empty_as_null=False).head(SYSTEMS_COMPARED).to_list()
    by_dimension = {
        dimension.name: frame["description_rouge_l"].list.get(place).mean()
        for place, dimension in enumerate(drawn.taxonomy.dimensions)
    }
    return {
        "description_rouge_l": by_dimension,
        "alike": frame["alike"].mean(),
        "system_spread": frame["system_spread"].mean(),
        "system_spread_overall": spread(embed(embedder, systems, store.root)),
        "response_rouge_l": frame["response_rouge_l"].mean(),
    }


def write_scores(store: Store, made: Made, folder: Path) -> int:
    """Write the judged rows, and a card with the model's scores; returns the rows."""
    rows = read_frame(store, made["bench_scores"])
    results = [shown(result) for result in bench_results(rows)]
    return write_configs(folder, {"default": rows}, render("scores.md", rows=rows.height, results=results))


def shown(result: BenchResult) -> dict[str, str]:
    return {
        "name": result.name,
        "score": two_places(result.score),
        "spread": two_places(result.spread),
        "runs": ", ".join(map(two_places, result.runs)),
        "missing": f"{result.missing:,}",
    }


def two_places(value: float | None) -> str:
    """A number as text, and a dash for none."""
    return "–" if value is None else f"{value:.2f}"
