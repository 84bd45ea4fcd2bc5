"""A dataset folder that `datasets.load_dataset` and trainers read: Parquet by configuration, one split, a README."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from schemas.applications import Application
from schemas.artifacts import Manifest
from schemas.dialogues import SignedDialogue
from schemas.recall import Recall
from storage.artifacts import Store, read_artifact
from storage.files import write_atomically, write_text

Splits = pl.DataFrame | Mapping[str, pl.DataFrame]
"""One configuration: its rows, all of them for training, or its rows by split."""


def read_frame(store: Store, manifest: Manifest, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """An artifact's kept rows; all its columns, or some."""
    return pl.DataFrame(read_artifact(store, manifest, columns))


def message(role: str, content: str) -> pl.Expr:
    """A column of texts as messages of one role."""
    return pl.struct(pl.lit(role).alias("role"), pl.col(content).alias("content"))


def preference_rows(pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs that the cuts kept, in TRL's conversational format: prompt, chosen and rejected are lists of messages."""
    user = pl.concat_list(message("user", "prompt"))
    with_system = pl.concat_list(message("system", "system"), message("user", "prompt"))
    return pairs.filter(pl.col("kept")).select(
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


def training_rows(rows: pl.DataFrame, kind: str) -> pl.DataFrame:
    """One kind of training row in TRL's conversational format; tool fields only where an application has tools."""
    chosen = rows.filter(pl.col("kind") == kind).drop("kind", "calls", strict=False)
    if (chosen["tools"] == "").all():
        chosen = chosen.with_columns(plain_messages("messages")).drop("tools")
    return chosen


def dialogue_rows(dialogues: pl.DataFrame) -> pl.DataFrame:
    """Every dialogue, kept or cut, in the paper's columns, then what is known of it and the signs of its quality."""
    applications = {
        row["id"]: Application.model_validate(row) for row in dialogues["application"].unique(maintain_order=True)
    }
    number = {row_id: place for place, row_id in enumerate(applications)}
    owner = pl.col("application").struct.field("id")
    papers = ("pseudo_input", "teacher_output_single", "student_output_single", "reason")
    first = (*papers, "id", "parent_id", "application", "turns")
    rest = [name for name in SignedDialogue.model_fields if name not in first]
    plain = not any(application.tools for application in applications.values())
    return dialogues.select(
        "id",
        "parent_id",
        owner.replace_strict(number, return_dtype=pl.Int64).alias("context_id"),
        owner.replace_strict({i: a.context for i, a in applications.items()}, return_dtype=pl.String).alias("context"),
        *papers,
        (plain_messages("turns") if plain else pl.col("turns")).alias("teacher_output_conv"),
        *rest,
    )


def write_configs(folder: Path, configs: Mapping[str, Splits], card: str) -> int:
    """Write each configuration and split that has rows, then the card, which makes the dataset exist; returns all rows.

    `datasets` cannot load a split without rows: such a split, or a configuration of such, is left out.
    """
    lines = ["---", "configs:"]
    by_split: dict[str, Mapping[str, pl.DataFrame]] = {
        name: {"train": given} if isinstance(given, pl.DataFrame) else given for name, given in configs.items()
    }
    filled = by_split
    if len(configs) > 1:
        filled = {name: {s: frame for s, frame in splits.items() if frame.height} for name, splits in by_split.items()}
    for place, (name, splits) in enumerate((name, splits) for name, splits in filled.items() if splits):
        where = "data" if len(configs) == 1 else f"data/{name}"
        lines += [f"- config_name: {name}", *(["  default: true"] if place == 0 and len(configs) > 1 else [])]
        lines += ["  data_files:"]
        for split, frame in splits.items():
            table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            file = folder / where / f"{split}-00000-of-00001.parquet"
            write_atomically(file, partial(pq.write_table, table, compression="zstd"))
            lines += [f"  - split: {split}", f"    path: {where}/{split}-*.parquet"]
    write_text(folder / "README.md", "\n".join(lines) + "\n---\n" + card)
    return sum(frame.height for splits in by_split.values() for frame in splits.values())


def compared(store: Store, made: Mapping[str, Manifest]) -> list[str]:
    """What was found to be there twice, or in a benchmark, one line each; made: manifests by stage."""
    lines = []
    for stage, manifest in made.items():
        notes = manifest.notes
        if stage.startswith("clean_") and "contaminated" in manifest.columns:
            rows = read_frame(store, manifest, ["benchmark"]).drop_nulls().group_by("benchmark").len().sort("benchmark")
            found = ", ".join(f"{count:,} of {name}" for name, count in rows.iter_rows()) or "none"
            lines.append(f"{stage}: benchmark prompts among {manifest.rows:,} rows: {found}")
        elif stage.startswith("clean_"):
            lines.append(f"{stage}: benchmark prompts left out: {manifest.dropped.get('contaminated', 0):,}")
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


def comparisons(store: Store, made: Mapping[str, Manifest]) -> str:
    """The same as a section of a card."""
    lines = [f"- {line}" for line in compared(store, made)]
    return "\n".join(["", "## Duplicates and contamination", "", *lines, ""]) if lines else ""


def write_preference_dataset(store: Store, made: Mapping[str, Manifest], folder: Path) -> int:
    """Write the kept pairs as one split, `train`; returns its rows."""
    pairs = made["unique_pairs"]
    rows = preference_rows(read_frame(store, pairs))
    card = CARD.format(rows=rows.height, artifact=pairs.reference) + comparisons(store, made)
    return write_configs(folder, {"default": rows}, card)


def write_dialogue_dataset(store: Store, made: Mapping[str, Manifest], folder: Path) -> int:
    """Write sft, prompt_generation, preference and dialogues; made: manifests by stage. Returns all rows."""
    rows = read_frame(store, made["training_rows"])
    configs = {
        "sft": training_rows(rows, "sft"),
        "prompt_generation": training_rows(rows, "prompt_generation"),
        "preference": preference_rows(read_frame(store, made["unique_pairs"])),
        "dialogues": dialogue_rows(read_frame(store, made["dialogue_signs"])),
    }
    counts = {name: frame.height for name, frame in configs.items()}
    references = ", ".join(
        f"`{made[stage].reference}`" for stage in ("training_rows", "unique_pairs", "dialogue_signs")
    )
    return write_configs(
        folder, configs, DIALOGUE_CARD.format(**counts, artifacts=references) + comparisons(store, made)
    )


CARD = """# Preference pairs

{rows} pairs (`prompt`, `chosen`, `rejected` as lists of messages, with their rewards), made by synthmill from the
artifact `{artifact}`. `parent_id` is the pool of answers a pair was cut from.

```python
from datasets import load_dataset
pairs = load_dataset("parquet", data_dir=".", split="train")
```
"""

DIALOGUE_CARD = """# Role-swap dialogues

Rows that teach a model to behave as if an application's prompt were there, made by synthmill from the artifacts
{artifacts}.

| configuration | rows | what a row is |
|---|---:|---|
| `sft` | {sft} | a dialogue without the prompt; train on the assistant's turns |
| `prompt_generation` | {prompt_generation} | input, bad and good output -> the prompt and the reason |
| `preference` | {preference} | the teacher's first answer over the student's, with their rewards |
| `dialogues` | {dialogues} | every dialogue, kept or cut, with its context, outputs, reason and quality signs |

`weight` is a training row's share in its input's joint loss: `joint_ratio` over an input's SFT rows, the rest on
prompt generation. Where an application has tools, `tools` holds their definitions as JSON and `messages` calls them in
OpenAI's form; whether the student is shown `tools` is your choice.

```python
from datasets import load_dataset
sft = load_dataset("parquet", data_files="data/sft/*.parquet", split="train")
```
"""
