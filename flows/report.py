"""The report of a run: one page that holds everything it needs, for people. docs/publishing.md."""

import base64
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from flows.charts import colour, histogram
from flows.multifaceted_report import value_table, value_tree
from flows.pages import FOLDER, Made, funnel, render
from flows.report_rows import samples
from flows.retpo_report import figures as retrieval_figures
from flows.sunburst import sunburst
from schemas.artifacts import Manifest
from schemas.errors import SynthmillError
from storage.artifacts import Store, read_dropped
from storage.dataset_folder import Dataset, as_message, is_finished, read_dataset
from storage.files import write_text
from storage.provenance import public_engine
from storage.publish import compared, read_frame
from storage.runs import RunRecord, manifests_of

ROWS = 60
EXAMPLES = 8
PAGE = "report.html"
DUPLICATE = re.compile(r"of (.*) \((\w+), ([\d.]+)\)")


def write_report(store: Store, run: RunRecord, rows: int = ROWS) -> Path:
    """Draw a run's page beside its dataset, or, where it has none, beside its record; returns where."""
    folder = store.root / "datasets" / Path(run.dataset).name if run.dataset else None
    dataset = None
    if folder and is_finished(folder):
        with suppress(SynthmillError):  # a damaged one: what is left is shown
            dataset = read_dataset(folder)
    path = folder / PAGE if folder and dataset else store.runs / f"{run.id}.html"
    write_text(path, report_page(store, run, dataset, rows))
    return path


def report_page(store: Store, run: RunRecord, dataset: Dataset | None, rows: int = ROWS) -> str:
    """The page. What rows say is escaped; nothing may load or run in it but the script that is named by its hash."""
    made = manifests_of(store, run)
    script = (FOLDER / "report.js").read_text()
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    stages = [stage_of(run, number) for number in range(len(run.stages))]
    return render(
        "report.html",
        run=run,
        title=dataset.title if dataset else run.flow,
        intro=dataset.intro if dataset else "",
        counters=counters(run, made, dataset),
        tables=[(name, split, frame.height) for name, t in dataset.tables.items() for split, frame in t.splits.items()]
        if dataset
        else [],
        funnel=drawn_funnel(made),
        rewards=list(reward_charts(store, made, dataset)),
        lengths=list(length_charts(dataset)) if dataset else [],
        picture=Markup(value_picture(store, made)),
        retrieval=retrieval(dataset),
        compared=compared(store, made),
        duplicates=list(duplicates(store, made)),
        stages=stages,
        slowest=max((stage["seconds"] for stage in stages), default=0.0),
        spent=spent_table(made),
        samples=[] if dataset is None else samples(dataset, rows),
        style=Markup((FOLDER / "report.css").read_text()),
        script=Markup(script),
        digest=digest,
    )


def counters(run: RunRecord, made: Made, dataset: Dataset | None) -> list[tuple[str, str]]:
    """The numbers on top."""
    spent = [numbers for manifest in made.values() for numbers in manifest.spent.values()]
    total = {what: sum(one.get(what, 0) for one in spent) for what in ("sent", "prompt_tokens", "completion_tokens")}
    found = [("rows", dataset.rows if dataset else 0), ("requests", total["sent"])]
    found += [("tokens in", total["prompt_tokens"]), ("tokens out", total["completion_tokens"])]
    dropped = sum(sum(manifest.dropped.values()) for manifest in made.values())
    seconds = sum(stage.seconds for stage in run.stages)
    return [(f"{number:,}", name) for name, number in [*found, ("dropped", dropped)]] + [
        (duration(seconds), "spent in stages")
    ]


def duration(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s" if minutes else f"{seconds:.1f} s"


def drawn_funnel(made: Made) -> list[dict[str, Any]]:
    """Stages with the lengths of their bars, as percentages of the longest."""
    rows = funnel(made)
    longest = max((max(row["rows_in"], row["rows"]) for row in rows), default=1) or 1
    for row in rows:
        row["width"] = 100 * row["rows"] / longest
        gone = sum(made[row["stage"]].dropped.values()) - made[row["stage"]].dropped.get("in_training", 0)
        row["gone"] = 100 * min(gone, longest) / longest
    return rows


def reward_charts(store: Store, made: Made, dataset: Dataset | None) -> Iterator[dict[str, Any]]:
    """Rewards of all answers, with those that were chosen and rejected; then the margins."""
    everything = all_rewards(store, made)
    for name, table in dataset.tables.items() if dataset else ():
        frame = table.rows
        if not frame.height or not {"chosen_reward", "rejected_reward"} <= set(frame.columns):
            continue
        series = {"all answers": everything} if everything else {}
        series |= {side: frame[f"{side}_reward"].drop_nulls().to_list() for side in ("rejected", "chosen")}
        margin = (frame["chosen_reward"] - frame["rejected_reward"]).drop_nulls().to_list()
        yield chart(name, "rewards", series)
        yield chart(name, "margins", {"chosen - rejected": margin})


def all_rewards(store: Store, made: Made) -> list[float]:
    """The reward of every answer, where a stage wrote them down as one list a pool."""
    scored = [m for m in made.values() if "list" in m.columns.get("rewards", "") and "retriever" not in m.columns]
    stage = scored[-1] if scored else None
    if stage is None:
        return []
    return read_frame(store, stage, ["rewards"])["rewards"].explode(empty_as_null=False).drop_nulls().to_list()


def length_charts(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """How long answers are, and how many turns dialogues have."""
    for name, table in dataset.tables.items():
        rows = table.rows
        if not rows.height:
            continue
        if table.kind == "preferences":
            series = {
                side: [sum(map(letters, said)) for said in rows[side].to_list()] for side in ("rejected", "chosen")
            }
            yield chart(name, "characters", series)
        elif table.kind in ("conversations", "completions"):
            column = "messages" if table.kind == "conversations" else "completion"
            answers = [
                [one for one in map(as_message, said) if one["role"] == "assistant"] for said in rows[column].to_list()
            ]
            yield chart(name, "characters of an answer", {"answers": [letters(a) for some in answers for a in some]})
            if max(map(len, answers)) > 1:
                yield chart(name, "answers in a dialogue", {"answers": [len(some) for some in answers]})


def letters(message: Any) -> int:
    return len(message["content"] or "")


def chart(name: str, what: str, series: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """A histogram with its caption."""
    legend = [(colour(label), label) for label in series]
    return {"name": name, "what": what, "legend": legend, "svg": Markup(histogram(series, f"{what}, {name}"))}


def value_picture(store: Store, made: Made) -> str:
    """The values of the dataset as a sunburst, where it has any."""
    stage = made.get("variants")
    if stage is None or "preference_set" not in stage.columns:
        return ""
    values = value_table(read_frame(store, stage, ["split", "preference_set"]))
    return (
        sunburst(value_tree(values), "The values in this dataset", (f"{values.height:,}", "values"))
        if values.height
        else ""
    )


def retrieval(dataset: Dataset | None) -> dict[str, Any] | None:
    """How each form of query does, and where the retrievers disagree."""
    queries = dataset.tables.get("queries") if dataset else None
    return retrieval_figures(queries.rows) if queries and queries.height else None


def duplicates(store: Store, made: Made) -> Iterator[dict[str, Any]]:
    """Examples of what counts as the same, the least alike of each layer first."""
    for stage, manifest in made.items():
        if "by_layer" not in manifest.notes:
            continue
        found = links_of(store, manifest)
        if not found:
            continue
        texts = texts_behind(store, manifest, made)
        shown: Counter[str] = Counter()
        examples = []
        for row, other, layer, similarity in sorted(found, key=lambda one: (one[3], one[0])):
            shown[layer] += 1
            if shown[layer] <= EXAMPLES // 2:
                pair = (texts.get(row, row), texts.get(other, other))
                examples.append({"layer": layer, "similarity": similarity, "one": pair[0], "other": pair[1]})
        yield {"stage": stage, "layers": manifest.notes["by_layer"], "examples": examples[:EXAMPLES]}


def links_of(store: Store, manifest: Manifest) -> list[tuple[str, str, str, float]]:
    """(row, of, layer, similarity) of the duplicates that a stage marked or dropped."""
    if "duplicate_of" in manifest.columns:
        rows = read_frame(store, manifest, ["id", "duplicate_of", "layer", "similarity"])
        return rows.filter(pl.col("duplicate_of").is_not_null()).rows()
    dropped = (row for seal in manifest.parts for row in read_dropped(store, seal) if row.reason == "duplicate")
    told = ((row.id, DUPLICATE.fullmatch(row.detail)) for row in dropped)
    return [(row, found[1], found[2], float(found[3])) for row, found in told if found]


def texts_behind(store: Store, manifest: Manifest, made: Made) -> dict[str, str]:
    """The texts that a stage compared, by row."""
    columns = manifest.identity.get("settings", {}).get("columns") or ["prompt"]
    source = next(
        (one for one in made.values() if one.key in manifest.sources and set(columns) <= set(one.columns)), None
    )
    if source is None:
        return {}
    frame = read_frame(store, source, ["id", *columns])
    return {row[0]: "\n".join(map(as_text, row[1:])) for row in frame.rows()}


def as_text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(str(one["content"]) if isinstance(one, dict) else str(one) for one in value)
    return str(value)


def stage_of(run: RunRecord, number: int) -> dict[str, Any]:
    """One stage of this run, for the table of where time and tokens went."""
    stage = run.stages[number]
    numbers = {what: stage.total(what) for what in ("sent", "reused", "prompt_tokens", "completion_tokens")}
    return {"name": stage.step_id, "artifact": stage.artifact, "seconds": stage.seconds, **numbers}


def spent_table(made: Made) -> list[dict[str, Any]]:
    """What making these artifacts took, whenever that was, by stage and role."""
    return [
        {"stage": stage, "role": role, "engine": engine_of(manifest, role), **numbers}
        for stage, manifest in made.items()
        for role, numbers in manifest.spent.items()
    ]


def engine_of(manifest: Manifest, role: str) -> str:
    return public_engine(manifest.identity.get("engines", {}).get(role, ""))
