"""The multifaceted splits: one row per set, pairs across system messages, and what the bench may use.

Source: docs/papers.md#multifaceted, "splits".
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.endings import ending_of
from synthmill.schemas.hashing import child_id, digest
from synthmill.schemas.multifaceted import AlignedPair, Variant, WithSystems
from synthmill.schemas.rows import Dropped, row_columns
from synthmill.schemas.texts import normalised
from synthmill.storage.published.rows import thinks
from synthmill.tasks.frames import FrameStage, even_parts, frame_schema
from synthmill.tasks.vectors.embeddings import EmbeddingStage, embed
from synthmill.tasks.vectors.layouts import BLOCK

Preferences = Mapping[str, Mapping[str, str]]


def pick_sets(seed: int, prompt: str, count: int) -> tuple[int, list[int]]:
    """(i, the order in which the other sets are tried as j): uniform over seeds, independent of other rows."""
    draw = int.from_bytes(digest(["pick", seed, normalised(prompt)]), "big")
    draw, chosen = divmod(draw, count)
    remaining = [n for n in range(count) if n != chosen]
    order = []
    while remaining:
        draw, place = divmod(draw, len(remaining))
        order.append(remaining.pop(place))
    return chosen, order


def responses_think(frame: pl.DataFrame) -> bool:
    """Whether instructions have responses with thinking."""
    return "responses" in frame.columns and thinks(frame.schema["responses"])


class Variants(FrameStage):
    """Instructions with their sets -> a row per set: its system message and, where there is one, its response.

    One variant of each instruction is `picked`, at random by seed: `small` and the aligned pair are made from it.
    """

    name: ClassVar = "variants"
    version: ClassVar = "1"
    needs: ClassVar = row_columns(WithSystems)
    adds: ClassVar = row_columns(Variant)

    seed: int = Field(0, ge=0)
    sets: int = Field(3, ge=1, exclude=True, description="of a row, for plans")

    def rows_per_row(self) -> int:
        return self.sets

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        variants = []
        for row in frame.iter_rows(named=True):
            picked, _ = pick_sets(self.seed, row["prompt"], len(row["sets"]))
            for n, (values, system) in enumerate(zip(row["sets"], row["systems"], strict=True)):
                response = row["responses"][n] if "responses" in row else {"text": "", "finish_reason": ""}
                variants.append(
                    {
                        **{name: row[name] for name in ("prompt", "source", "note", "split")},
                        "id": child_id(row["id"], n),
                        "parent_id": row["id"],
                        "system": system,
                        "set_index": n,
                        "picked": n == picked,
                        "preference_set": values,
                        "output": response["text"],
                        "finish_reason": response["finish_reason"],
                        "reasoning": response.get("reasoning"),
                    }
                )
        return pl.DataFrame(variants, schema=frame_schema(Variant, responses_think(frame))), []


class AlignedPairs(FrameStage):
    """Instructions with responses -> the picked set's response over another set's, under the picked system message.

    The rejected response is drawn from the others, without equal texts and those that a content filter broke off.
    Drops: same_response, one_set, content_filter (it broke off the picked response, or all others), cut_short
    (max_tokens cut the picked response).
    Source: docs/papers.md#multifaceted, "splits".
    """

    name: ClassVar = "aligned_pairs"
    version: ClassVar = "2"
    needs: ClassVar = ("id", "prompt", "source", "note", "split", "systems", "responses")
    adds: ClassVar = row_columns(AlignedPair)

    seed: int = Field(0, ge=0)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        pairs, dropped = [], []
        for row in frame.iter_rows(named=True):
            texts = [response["text"] for response in row["responses"]]
            chosen, candidates = pick_sets(self.seed, row["prompt"], len(texts))
            different = [n for n in candidates if normalised(texts[n]) != normalised(texts[chosen])]
            is_filtered = [ending_of(response["finish_reason"]) == "content_filter" for response in row["responses"]]
            if is_filtered[chosen] or (different and all(is_filtered[n] for n in different)):
                dropped.append(Dropped(id=row["id"], reason="content_filter"))
                continue
            if ending_of(row["responses"][chosen]["finish_reason"]) == "length":
                dropped.append(Dropped(id=row["id"], reason="cut_short"))
                continue
            different = [n for n in different if not is_filtered[n]]
            if not different:
                dropped.append(Dropped(id=row["id"], reason="same_response" if candidates else "one_set"))
                continue
            pairs.append(
                {
                    **{name: row[name] for name in ("prompt", "source", "note", "split")},
                    "id": child_id(row["id"], self.name),
                    "parent_id": row["id"],
                    "system": row["systems"][chosen],
                    "chosen": texts[chosen],
                    "rejected": texts[different[0]],
                    "chosen_index": chosen,
                    "rejected_index": different[0],
                    "chosen_reasoning": row["responses"][chosen].get("reasoning"),
                    "rejected_reasoning": row["responses"][different[0]].get("reasoning"),
                }
            )
        return pl.DataFrame(pairs, schema=frame_schema(AlignedPair, responses_think(frame))), dropped


class BenchVariants(EmbeddingStage):
    """Variants kept for the bench -> the same without those that have a preference of training, or one near-equal to
    it.

    Adds nearest_value, nearest_similarity: the training value that is nearest to any of the row's. Drops: in_training
    (the variant is a training row), seen_value. Source: docs/papers.md#multifaceted, "bench".
    """

    name: ClassVar = "bench_variants"
    version: ClassVar = "1"
    whole: ClassVar = True
    embeds: ClassVar = False  # in the driver, where no engine is
    needs: ClassVar = ("id", "split", "preference_set")
    adds: ClassVar = ("nearest_value", "nearest_similarity")

    threshold: float = Field(0.9, ge=0, le=1, description="cosine from which two preferences are one")
    rows_per_part: int = Field(256, ge=1)

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        train_rows = frame.filter(pl.col("split") == "train")
        bench_rows = frame.filter(pl.col("split") == "bench")
        nearest = self.nearest_values(
            preferences_of(train_rows["preference_set"].to_list()),
            preferences_of(bench_rows["preference_set"].to_list()),
            store,
        )
        values: list[str | None] = []
        similarity: list[float] = []
        dropped = [Dropped(id=row_id, reason="in_training") for row_id in train_rows["id"]]
        for row_id, preferences in bench_rows.select("id", "preference_set").iter_rows():
            matches = [
                nearest.get((value["dimension"], normalised(value["preference"])), (None, 0.0)) for value in preferences
            ]
            preference, cosine = max(matches, key=itemgetter(1))
            values.append(preference)
            similarity.append(cosine)
            if cosine >= self.threshold:
                dropped.append(Dropped(id=row_id, reason="seen_value", detail=f"{preference} ({cosine:.3f})"))
        marked = bench_rows.with_columns(
            nearest_value=pl.Series(values, dtype=pl.String), nearest_similarity=pl.Series(similarity, dtype=pl.Float64)
        )
        return marked.filter(pl.col("nearest_similarity") < self.threshold), dropped

    def nearest_values(
        self, train_preferences: Preferences, bench_preferences: Preferences, store: Path
    ) -> dict[tuple[str, str], tuple[str, float]]:
        """By (dimension, normalised preference): the training preference that is nearest to it, and their cosine."""
        nearest: dict[tuple[str, str], tuple[str, float]] = {}
        for dimension, texts_of_key in bench_preferences.items():
            if not (known_values := list(train_preferences.get(dimension, {}).values())):
                continue
            vectors, keys = embed(self.embedder, known_values, store), list(texts_of_key)
            for start in range(0, len(keys), BLOCK):
                block = keys[start : start + BLOCK]
                cosines = embed(self.embedder, [texts_of_key[key] for key in block], store) @ vectors.T
                for key, row in zip(block, cosines, strict=True):
                    best = int(row.argmax())
                    same = train_preferences[dimension].get(key)
                    nearest[dimension, key] = (same, 1.0) if same else (known_values[best], float(row[best]))
        return nearest


def preferences_of(sets: Sequence[Sequence[Mapping[str, Any]]]) -> Preferences:
    """Per dimension, the distinct preferences of many sets: normalised -> as written."""
    preferences: dict[str, dict[str, str]] = {}
    for values in sets:
        for value in values:
            preferences.setdefault(value["dimension"], {}).setdefault(
                normalised(value["preference"]), value["preference"]
            )
    return preferences
