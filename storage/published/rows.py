"""Artifacts' rows as the datasets that flows publish, and what is said of duplicates in them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.endings import Ending, ending_of
from synthmill.schemas.errors import StoreError
from synthmill.schemas.recall import EXACT, Recall
from synthmill.storage.artifacts import Store, is_whole, read_artifact, read_part
from synthmill.storage.published.row_streams import Columns, RowStream, parquet_batches, parquet_schema


def stream_of(store: Store, manifest: Manifest) -> RowStream:
    """An artifact's kept rows, batch by batch. Reading raises StoreError for a part that is not as it was sealed."""

    def read(columns: Columns) -> Iterator[pl.DataFrame]:
        for seal in manifest.parts:
            path = store.root / seal.file
            if not is_whole(store, seal):
                raise StoreError(f"{path} does not match its checksum; run the same command again, it is made anew")
            yield from (pl.DataFrame(table) for table in parquet_batches(path, columns))

    return RowStream(read, lambda: manifest.rows, lambda: parquet_schema(store.root / manifest.parts[0].file))


def read_frame(store: Store, manifest: Manifest, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """An artifact's kept rows in memory; all its columns, or some."""
    return pl.DataFrame(read_artifact(store, manifest, columns))


REASONING = "reasoning_content"
"""The field of a message where trainers' chat templates look for what a model thought before its answer."""
NO_THOUGHTS = pl.lit(None, pl.String)


def message(role: str, content: str, thoughts: pl.Expr | None = None) -> pl.Expr:
    """A column of texts as messages of one role; thoughts: a column of what was thought before them."""
    thinking = [] if thoughts is None else [thoughts.alias(REASONING)]
    return pl.struct(pl.lit(role).alias("role"), pl.col(content).alias("content"), *thinking)


def answer_message(content: str, thoughts: str, columns: Sequence[str]) -> pl.Expr:
    """A column of texts as answers, with those that another column says were thought before, if it is there."""
    return message("assistant", content, pl.col(thoughts) if thoughts in columns else None)


def thinks(answers: pl.DataType) -> bool:
    """Whether a column of answers, or of turns, has a field of what was thought before them."""
    inner = answers.inner if isinstance(answers, pl.List) else None
    return isinstance(inner, pl.Struct) and "reasoning" in inner.to_schema()


KEPT = pl.col("kept")
SIDES = ("chosen", "rejected")


def preference_rows(pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs in TRL's conversational format: prompt, chosen and rejected are lists of messages."""
    user = pl.concat_list(message("user", "prompt"))
    with_system = pl.concat_list(message("system", "system"), message("user", "prompt"))
    return pairs.select(
        "id",
        "parent_id",
        "source",
        prompt=pl.when(pl.col("system").is_null()).then(user).otherwise(with_system),
        **{side: pl.concat_list(answer_message(side, f"{side}_reasoning", pairs.columns)) for side in SIDES},
        chosen_reward="chosen_reward",
        rejected_reward="rejected_reward",
    )


def compared(store: Store, manifests: Mapping[str, Manifest]) -> list[str]:
    """What was found to be there twice, or in a benchmark, one line each; manifests: by stage."""
    lines = []
    for stage, manifest in manifests.items():
        notes = manifest.notes
        if stage.startswith("clean_"):
            columns = ", ".join(manifest.identity["settings"]["columns"])
        if stage.startswith("clean_") and "contaminated" in manifest.columns:
            marked = stream_of(store, manifest).filter(pl.col("benchmark").is_not_null()).frame(["benchmark"])
            rows = marked.group_by("benchmark").len().sort("benchmark")
            counts = ", ".join(f"{count:,} of {name}" for name, count in rows.iter_rows()) or "none"
            lines.append(f"{stage}: benchmark prompts among {manifest.rows:,} rows: {counts} (in {columns})")
        elif stage.startswith("clean_"):
            left_out = manifest.dropped.get("contaminated", 0)
            lines.append(f"{stage}: benchmark prompts left out: {left_out:,} (in {columns})")
        if "by_layer" in notes:
            counts = ", ".join(f"{count:,} {layer}" for layer, count in notes["by_layer"].items()) or "not looked for"
            earlier = f", and {notes['known']:,} from before" if notes["known"] else ""
            lines.append(f"{stage}: duplicates among {notes['rows']:,} rows{earlier}: {counts}; {notes['kept']:,} kept")
            if notes["by_layer"]:
                lines.append(f"{stage}: {repetition_of(notes)}")
        if "recall" in notes:
            lines.append(f"{stage}: search by meaning at cosine {notes['threshold']}: {recall_of(notes)}")
    return lines


def repetition_of(notes: Mapping[str, Any]) -> str:
    """How much of the rows repeated others before the duplicates went, by layer, and how much still does: by the search
    by meaning's recall, since the other layers find all. Source: docs/papers.md#repetition.
    """
    rows, by_layer = max(1, notes["rows"]), notes["by_layer"]
    layers = ", ".join(f"{count / rows:.2%} {layer}" for layer, count in by_layer.items())
    recall = Recall(**notes["recall"]) if "recall" in notes else EXACT
    missed = by_layer.get("meaning", 0) * (1 / recall.share - 1) if recall.pairs else 0.0
    after = f"about {missed / max(1, notes['kept']):.2%}" if missed else "none that these layers find"
    return f"repetition: {sum(by_layer.values()) / rows:.2%} of the rows before ({layers}), {after} after"


def recall_of(notes: Mapping[str, Any]) -> str:
    """How well was searched, in words."""
    recall, duplicates = Recall(**notes["recall"]), Recall(**notes["duplicates_found"])
    parts = [f"recall of pairs {recall}"] + ([f"of duplicates {duplicates}"] if recall.rows else [])
    if recall.pairs and recall.share < notes["requested_recall"]:
        parts.append(f"below the {notes['requested_recall']} asked for; a recall of 1 searches exactly")
    if notes["unreadable"]:
        parts.append(f"{notes['unreadable']:,} texts that the embedder cannot read were not compared")
    return "; ".join(parts)


PAIR = "a preference pair: `prompt`, `chosen`, `rejected` as lists of messages, with their rewards"


def endings_in(store: Store, pools: Manifest) -> Counter[Ending]:
    """How the answers of an artifact of pools ended."""
    endings: Counter[Ending] = Counter()
    for seal in pools.parts:
        if seal.rows:
            reasons = (
                pl.DataFrame(read_part(store, seal, ("answers",)))["answers"].explode().struct.field("finish_reason")
            )
            for reason, count in reasons.value_counts().iter_rows():
                endings[ending_of(reason)] += count
    return endings
