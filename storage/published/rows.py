"""Artifacts' rows as the datasets that flows publish, and what is said of duplicates in them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import polars as pl

from schemas.applications import Application
from schemas.artifacts import Manifest
from schemas.dialogues import SignedDialogue
from schemas.endings import Ending, ending_of
from schemas.errors import StoreError
from schemas.recall import Recall
from storage.artifacts import Store, is_whole, read_artifact, read_part
from storage.published.folder import Dataset, Table
from storage.published.row_streams import Columns, RowStream, parquet_batches, parquet_schema


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


def message(role: str, content: str) -> pl.Expr:
    """A column of texts as messages of one role."""
    return pl.struct(pl.lit(role).alias("role"), pl.col(content).alias("content"))


KEPT = pl.col("kept")


def preference_rows(pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs in TRL's conversational format: prompt, chosen and rejected are lists of messages."""
    user = pl.concat_list(message("user", "prompt"))
    with_system = pl.concat_list(message("system", "system"), message("user", "prompt"))
    return pairs.select(
        "id",
        "parent_id",
        "source",
        prompt=pl.when(pl.col("system").is_null()).then(user).otherwise(with_system),
        chosen=pl.concat_list(message("assistant", "chosen")),
        rejected=pl.concat_list(message("assistant", "rejected")),
        chosen_reward="chosen_reward",
        rejected_reward="rejected_reward",
    )


def plain_messages(column: str) -> pl.Expr:
    """Turns as lists of {role, content}, where none of them calls a tool."""
    return pl.col(column).list.eval(pl.struct(pl.element().struct.field("role"), pl.element().struct.field("content")))


def training_rows(rows: RowStream, kind: str) -> RowStream:
    """One kind of training row in TRL's conversational format; where an application has tools, messages are JSON."""
    chosen = rows.filter(pl.col("kind") == kind)
    without_tools = all((batch["tools"] == "").all() for batch in chosen.batches(["tools"]))

    def chats(batch: pl.DataFrame) -> pl.DataFrame:
        batch = batch.drop("kind", "calls", strict=False)
        if without_tools:
            return batch.with_columns(plain_messages("messages")).drop("tools")
        messages = [[bare(message) for message in chat] for chat in batch["messages"].to_list()]
        tools = pl.when(pl.col("tools") != "").then("tools")
        return batch.with_columns(pl.Series("messages", messages, pl.List(pl.String)), tools=tools)

    return chosen.map(chats)


def bare(message: Mapping[str, Any]) -> str:
    """A message as JSON, without the fields that it does not use."""
    return orjson.dumps({k: v for k, v in message.items() if v or k in ("role", "content")}).decode()


def dialogue_rows(dialogues: RowStream) -> RowStream:
    """Every dialogue, kept or cut, in the paper's columns, then what is known of it and the signs of its quality."""
    applications: dict[str, Application] = {}
    for batch in dialogues.batches(["application"]):
        for row in batch["application"].unique(maintain_order=True):
            if row["id"] not in applications:
                applications[row["id"]] = Application.model_validate(row)
    number = {row_id: place for place, row_id in enumerate(applications)}
    owner = pl.col("application").struct.field("id")
    papers = ("pseudo_input", "teacher_output_single", "student_output_single", "reason")
    first = (*papers, "id", "parent_id", "application", "turns")
    rest = [name for name in SignedDialogue.model_fields if name not in first]
    plain = not any(application.tools for application in applications.values())
    columns: list[str | pl.Expr] = [
        "id",
        "parent_id",
        owner.replace_strict(number, return_dtype=pl.Int64).alias("context_id"),
        owner.replace_strict({i: a.context for i, a in applications.items()}, return_dtype=pl.String).alias("context"),
        *papers,
        (plain_messages("turns") if plain else pl.col("turns")).alias("teacher_output_conv"),
        *rest,
    ]
    return dialogues.map(lambda batch: batch.select(*columns))


def compared(store: Store, made: Mapping[str, Manifest]) -> list[str]:
    """What was found to be there twice, or in a benchmark, one line each; made: manifests by stage."""
    lines = []
    for stage, manifest in made.items():
        notes = manifest.notes
        if stage.startswith("clean_"):
            columns = ", ".join(manifest.identity["settings"]["columns"])
        if stage.startswith("clean_") and "contaminated" in manifest.columns:
            marked = stream_of(store, manifest).filter(pl.col("benchmark").is_not_null()).frame(["benchmark"])
            rows = marked.group_by("benchmark").len().sort("benchmark")
            found = ", ".join(f"{count:,} of {name}" for name, count in rows.iter_rows()) or "none"
            lines.append(f"{stage}: benchmark prompts among {manifest.rows:,} rows: {found} (in {columns})")
        elif stage.startswith("clean_"):
            left_out = manifest.dropped.get("contaminated", 0)
            lines.append(f"{stage}: benchmark prompts left out: {left_out:,} (in {columns})")
        if "by_layer" in notes:
            found = ", ".join(f"{count:,} {layer}" for layer, count in notes["by_layer"].items()) or "not looked for"
            known = f", and {notes['known']:,} from before" if notes["known"] else ""
            lines.append(f"{stage}: duplicates among {notes['rows']:,} rows{known}: {found}; {notes['kept']:,} kept")
        if "recall" in notes:
            lines.append(f"{stage}: search by meaning at cosine {notes['threshold']}: {recall_of(notes)}")
    return lines


def recall_of(notes: Mapping[str, Any]) -> str:
    """How well was searched, in words."""
    recall, found = Recall(**notes["recall"]), Recall(**notes["duplicates_found"])
    said = [f"recall of pairs {recall}"] + ([f"of duplicates {found}"] if recall.rows else [])
    if recall.pairs and recall.share < notes["requested_recall"]:
        said.append(f"below the {notes['requested_recall']} asked for; a recall of 1 searches exactly")
    if notes["unreadable"]:
        said.append(f"{notes['unreadable']:,} texts that the embedder cannot read were not compared")
    return "; ".join(said)


def endings_in(store: Store, pools: Manifest) -> Counter[Ending]:
    """How the answers of an artifact of pools ended."""
    found: Counter[Ending] = Counter()
    for seal in pools.parts:
        if seal.rows:
            reasons = (
                pl.DataFrame(read_part(store, seal, ("answers",)))["answers"].explode().struct.field("finish_reason")
            )
            for reason, count in reasons.value_counts().iter_rows():
                found[ending_of(reason)] += count
    return found


def answers_in_words(ends: Mapping[Ending, int]) -> str:
    """The card's section on how answers ended."""
    return (
        f"## The answers\n\n{sum(ends.values()):,} answers; {ends['length']:,} were cut at max_tokens, and "
        f"{ends['content_filter']:,} were broken off by a content filter and are in no pair.\n"
    )


def preference_dataset(store: Store, made: Mapping[str, Manifest]) -> Dataset:
    """The kept pairs, all for training; made: manifests by stage."""
    rows = stream_of(store, made["unique_pairs"]).filter(KEPT).map(preference_rows)
    return Dataset(
        "Preference pairs",
        "Instructions under system messages that stand for a user's values, with a better answer over a worse one.",
        {"preference": Table.of(rows, "preferences", PAIR)},
        answers_in_words(endings_in(store, made["answers"])),
    )


def dialogue_dataset(store: Store, made: Mapping[str, Manifest]) -> Dataset:
    """sft, prompt_generation, preference and dialogues; made: manifests by stage."""
    rows = stream_of(store, made["training_rows"])
    pairs = stream_of(store, made["unique_pairs"]).filter(KEPT).map(preference_rows)
    dialogues = stream_of(store, made["dialogue_signs"])
    tables = {
        "sft": Table.of(
            training_rows(rows, "sft"),
            "conversations",
            "a dialogue without the prompt; train on the assistant's turns",
        ),
        "prompt_generation": Table.of(
            training_rows(rows, "prompt_generation"),
            "conversations",
            "input, bad and good output -> the prompt and the reason",
        ),
        "preference": Table.of(
            pairs, "preferences", "the teacher's first answer over the student's, with their rewards"
        ),
        "dialogues": Table.of(
            dialogue_rows(dialogues),
            "other",
            "every dialogue, kept or cut, with its context, outputs, reason and quality signs",
        ),
    }
    intro = "Rows that teach a model to behave as if an application's prompt were there."
    return Dataset("Role-swap dialogues", intro, tables, DIALOGUES)


PAIR = "a preference pair: `prompt`, `chosen`, `rejected` as lists of messages, with their rewards"

DIALOGUES = """## Weights and tools

`weight` is a training row's share in its input's joint loss: `joint_ratio` over an input's SFT rows, the rest on
prompt generation. Where an application has tools, `tools` holds their definitions as JSON and `messages` calls them in
OpenAI's form; whether the student is shown `tools` is your choice.
"""
