"""The report of a run: one page that holds everything it needs, for people. docs/publishing.md."""

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from synthmill.flows.pages.charts import colour, histogram
from synthmill.flows.pages.report_rows import samples
from synthmill.flows.pages.run_graph import run_graph
from synthmill.flows.pages.templates import FOLDER, Manifests, funnel, render
from synthmill.flows.terminal.progress import format_duration
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.bill import added_up, count_text, money_text, tokens_in, tokens_out, wasted
from synthmill.schemas.budget import BudgetSettings, usage_of
from synthmill.schemas.errors import SynthmillError
from synthmill.storage.artifacts import Store, read_dropped
from synthmill.storage.files import write_text
from synthmill.storage.published.chats import as_message
from synthmill.storage.published.configurations import Dataset, Figure
from synthmill.storage.published.folder import is_finished, read_dataset
from synthmill.storage.published.provenance import public_engine
from synthmill.storage.published.rows import compared, stream_of
from synthmill.storage.runs import RunRecord, manifests_of
from synthmill.storage.spending import prices_of

ROWS = 60
EXAMPLES = 8
PAGE = "report.html"
PAIR = ("rejected", "chosen")
SIDES = ("chosen_reward", "rejected_reward")
LINK = {"id": pl.String, "duplicate_of": pl.String, "layer": pl.String, "similarity": pl.Float64}
DUPLICATE = re.compile(r"of (.*) \((\w+), ([\d.]+)\)")


def write_report(store: Store, run: RunRecord, rows: int = ROWS) -> Path:
    """Draw a run's page beside its dataset, or, where it has none, beside its record: the page's path."""
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
    manifests = manifests_of(store, run)
    script = (FOLDER / "report.js").read_text()
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    stages = [stage_of(run, number) for number in range(len(run.stages))]
    spent = spent_table(manifests, prices_of(run))
    return render(
        "report.html",
        run=run,
        title=dataset.title if dataset else run.flow,
        intro=dataset.intro if dataset else "",
        counters=counters(run, manifests, dataset),
        tables=[(name, split, rows.height) for name, t in dataset.tables.items() for split, rows in t.splits.items()]
        if dataset
        else [],
        funnel=funnel_with_bars(manifests),
        graph=Markup(run_graph(manifests, f"the steps of {run.flow}")),
        rewards=list(reward_charts(store, manifests, dataset)),
        lengths=list(length_charts(dataset)) if dataset else [],
        notes=dataset.notes if dataset else (),
        figures=figures_of(dataset) if dataset else (),
        pictures=pictures_of(dataset) if dataset else {},
        compared=compared(store, manifests),
        duplicates=list(duplicates(store, manifests)),
        stages=stages,
        slowest=max((stage["seconds"] for stage in stages), default=0.0),
        spent=spent,
        has_money=any(row["money"] for row in spent),
        estimated=any(row["counters"].get("estimated") for row in spent),
        samples=[] if dataset is None else samples(dataset, rows),
        style=Markup((FOLDER / "report.css").read_text()),
        script=Markup(script),
        digest=digest,
    )


def counters(run: RunRecord, manifests: Manifests, dataset: Dataset | None) -> list[tuple[str, str]]:
    """The numbers on top."""
    spent = spent_table(manifests, prices_of(run))
    total = added_up(row["counters"] for row in spent)
    numbers = [(f"{dataset.rows if dataset else 0:,}", "rows"), (f"{int(total.get('sent', 0)):,}", "requests")]
    numbers += [
        (count_text(total, "prompt_tokens"), "tokens in"),
        (count_text(total, "completion_tokens"), "tokens out"),
    ]
    if money := sum(row["money"] for row in spent):
        numbers.append((money_text(money), "money"))
    dropped = sum(sum(manifest.dropped.values()) for manifest in manifests.values())
    seconds = sum(stage.seconds for stage in run.stages)
    return [*numbers, (f"{dropped:,}", "dropped"), (format_duration(seconds), "spent in stages")]


def funnel_with_bars(manifests: Manifests) -> list[dict[str, Any]]:
    """Stages with the lengths of their bars, as percentages of the longest."""
    rows = funnel(manifests)
    longest = max((max(row["rows_in"], row["rows"]) for row in rows), default=1) or 1
    for row in rows:
        row["width"] = 100 * row["rows"] / longest
        gone = sum(manifests[row["stage"]].dropped.values()) - manifests[row["stage"]].dropped.get("in_training", 0)
        row["gone"] = 100 * min(gone, longest) / longest
    return rows


def reward_charts(store: Store, manifests: Manifests, dataset: Dataset | None) -> Iterator[dict[str, Any]]:
    """Rewards of all answers, with those that were chosen and rejected; then the margins."""
    answers = all_rewards(store, manifests)
    for name, table in dataset.tables.items() if dataset else ():
        if not table.height or not set(SIDES) <= set(table.rows.columns):
            continue
        rewards = table.rows.frame(SIDES)
        series = {"all answers": answers.to_numpy()} if len(answers) else {}
        series |= {side: rewards[f"{side}_reward"].drop_nulls().to_numpy() for side in ("rejected", "chosen")}
        margin = (rewards["chosen_reward"] - rewards["rejected_reward"]).drop_nulls()
        yield chart(name, "rewards", series)
        yield chart(name, "margins", {"chosen - rejected": margin.to_numpy()})


def all_rewards(store: Store, manifests: Manifests) -> pl.Series:
    """The reward of every answer, where a stage wrote them down as one list a pool."""
    pools = [m for m in manifests.values() if "list" in m.columns.get("rewards", "") and "retriever" not in m.columns]
    if not pools:
        return pl.Series([], dtype=pl.Float64)
    batches = stream_of(store, pools[-1]).batches(["rewards"])
    return pl.concat([batch["rewards"].explode(empty_as_null=False).drop_nulls() for batch in batches])


def length_charts(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """How long answers are, and how many turns dialogues have."""
    for name, table in dataset.tables.items():
        if not table.height:
            continue
        if table.kind == "preferences":
            sides = [batch.select(characters(side) for side in PAIR) for batch in table.rows.batches(PAIR)]
            lengths = pl.concat(sides)
            yield chart(name, "characters", {side: lengths[side].to_numpy() for side in PAIR})
        elif table.kind in ("conversations", "completions"):
            column = "messages" if table.kind == "conversations" else "completion"
            answers = pl.concat([answer_lengths(batch[column]) for batch in table.rows.batches([column])])
            yield chart(name, "characters of an answer", {"answers": answers.explode(empty_as_null=False).to_numpy()})
            counts = answers.list.len()
            if (counts > 1).any():
                yield chart(name, "answers in a dialogue", {"answers": counts.to_numpy()})


def characters(column: str) -> pl.Expr:
    """How much the messages of a column say, all together."""
    return pl.col(column).list.eval(pl.element().struct.field("content").str.len_chars()).list.sum()


def answer_lengths(chats: pl.Series) -> pl.Series:
    """Per chat the characters of each of its answers."""
    if chats.dtype == pl.List(pl.String):
        messages = [[as_message(message) for message in chat] for chat in chats.to_list()]
        lengths = [[len(m["content"] or "") for m in chat if m["role"] == "assistant"] for chat in messages]
        return pl.Series("length", lengths, pl.List(pl.UInt32))
    content, role = (pl.element().struct.field(field) for field in ("content", "role"))
    length = content.str.len_chars().fill_null(0).filter(role == "assistant")
    return chats.to_frame("chat").select(pl.col("chat").list.eval(length).alias("length"))["length"]


def chart(name: str, what: str, series: Mapping[str, Any]) -> dict[str, Any]:
    """A histogram with its caption."""
    legend = [(colour(label), label) for label in series]
    return {"name": name, "what": what, "legend": legend, "svg": Markup(histogram(series, f"{what}, {name}"))}


def pictures_of(dataset: Dataset) -> dict[str, Markup]:
    """The pictures that lie beside a dataset, by name."""
    pictures = {name: content for name, content in dataset.files.items() if name.endswith(".svg")}
    return {name: Markup(content.decode()) for name, content in pictures.items() if isinstance(content, bytes)}


def figures_of(dataset: Dataset) -> list[Figure]:
    """A dataset's figures, but for those whose picture is not there."""
    return [figure for figure in dataset.figures if not figure.picture or figure.picture in dataset.files]


def duplicates(store: Store, manifests: Manifests) -> Iterator[dict[str, Any]]:
    """Examples of what counts as the same, the least alike of each layer first."""
    for stage, manifest in manifests.items():
        if "by_layer" not in manifest.notes:
            continue
        links = links_of(store, manifest).sort("similarity", "id")
        if not links.height:
            continue
        chosen = links.filter(pl.int_range(pl.len()).over("layer") < EXAMPLES // 2).head(EXAMPLES)
        texts = texts_behind(store, manifest, manifests, {*chosen["id"], *chosen["duplicate_of"]})
        examples = [
            {"layer": layer, "similarity": similarity, "text": texts.get(row, row), "kept": texts.get(kept, kept)}
            for row, kept, layer, similarity in chosen.iter_rows()
        ]
        yield {"name": stage, "layers": manifest.notes["by_layer"], "examples": examples}


def links_of(store: Store, manifest: Manifest) -> pl.DataFrame:
    """The duplicates that a stage marked or dropped, each with the row it is like."""
    if "duplicate_of" in manifest.columns:
        return stream_of(store, manifest).filter(pl.col("duplicate_of").is_not_null()).frame(list(LINK))
    dropped = (row for seal in manifest.parts for row in read_dropped(store, seal) if row.reason == "duplicate")
    links = ((row.id, DUPLICATE.fullmatch(row.detail)) for row in dropped)
    rows = [(row, link[1], link[2], float(link[3])) for row, link in links if link]
    return pl.DataFrame(rows, schema=LINK, orient="row")


def texts_behind(store: Store, manifest: Manifest, manifests: Manifests, ids: set[str]) -> dict[str, str]:
    """The texts that a stage compared, of the rows with these ids."""
    columns = manifest.identity.get("settings", {}).get("columns") or ["prompt"]
    source = next((m for m in manifests.values() if m.key in manifest.sources and set(columns) <= set(m.columns)), None)
    if source is None:
        return {}
    rows = stream_of(store, source).filter(pl.col("id").is_in(sorted(ids))).frame(["id", *columns])
    return {row[0]: "\n".join(map(as_text, row[1:])) for row in rows.rows()}


def as_text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(str(turn["content"]) if isinstance(turn, dict) else str(turn) for turn in value)
    return str(value)


def stage_of(run: RunRecord, number: int) -> dict[str, Any]:
    """One stage of this run, for the table of where time and tokens went."""
    stage = run.stages[number]
    numbers = {what: stage.total(what) for what in ("sent", "reused", "prompt_tokens", "completion_tokens")}
    return {"name": stage.step_id, "artifact": stage.artifact, "seconds": stage.seconds, **numbers}


def spent_table(manifests: Manifests, prices: BudgetSettings) -> list[dict[str, Any]]:
    """What making these artifacts took, whenever that was, by stage and role."""
    return [
        {
            "stage": stage,
            "role": role,
            "engine": engine_of(manifest, role),
            "counters": counters,
            "tokens_in": tokens_in(counters),
            "tokens_out": tokens_out(counters),
            "wasted": wasted(counters),
            "money": usage_of(prices, manifest.identity.get("engines", {}).get(role, ""), 0, counters).money,
        }
        for stage, manifest in manifests.items()
        for role, counters in manifest.spent.items()
    ]


def engine_of(manifest: Manifest, role: str) -> str:
    return public_engine(manifest.identity.get("engines", {}).get(role, ""))
