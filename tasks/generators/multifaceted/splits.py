"""The multifaceted splits: one row per set, pairs across system messages, and what the bench may use.

Source: docs/papers.md#multifaceted, "splits".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa
from pydantic import Field

from schemas.endings import ending_of
from schemas.hashing import child_id, digest
from schemas.multifaceted import AlignedPair, Variant, WithSystems
from schemas.rows import Dropped, arrow_schema
from schemas.texts import normalised
from tasks.frames import FrameStage, even_parts
from tasks.vectors.embeddings import embed, embedder_name
from tasks.vectors.links import BLOCK

VARIANT_SCHEMA = pl.DataFrame(arrow_schema(Variant).empty_table()).schema
Preferences = Mapping[str, Mapping[str, str]]
PAIR_SCHEMA = pl.DataFrame(arrow_schema(AlignedPair).empty_table()).schema


def picks(seed: int, prompt: str, count: int) -> tuple[int, list[int]]:
    """(i, the order in which the others are tried as j): uniform over seeds, whatever else is in the data."""
    draw = int.from_bytes(digest(["pick", seed, normalised(prompt)]), "big")
    draw, chosen = divmod(draw, count)
    left = [n for n in range(count) if n != chosen]
    order = []
    while left:
        draw, place = divmod(draw, len(left))
        order.append(left.pop(place))
    return chosen, order


class Variants(FrameStage):
    """Instructions with their sets -> a row per set: its system message and, where there is one, its response.

    One of each instruction's is `picked`, at random by seed: it makes `small`, and it is what its pair is aligned to.
    """

    name: ClassVar = "variants"
    version: ClassVar = "1"
    needs: ClassVar = tuple(WithSystems.model_fields)
    adds: ClassVar = tuple(Variant.model_fields)

    seed: int = Field(0, ge=0)
    sets: int = Field(3, ge=1, exclude=True, description="of a row, for plans")

    def rows_per_row(self) -> int:
        return self.sets

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        made = []
        for row in frame.iter_rows(named=True):
            picked, _ = picks(self.seed, row["prompt"], len(row["sets"]))
            for n, (values, system) in enumerate(zip(row["sets"], row["systems"], strict=True)):
                response = row["responses"][n] if "responses" in row else {"text": "", "finish_reason": ""}
                made.append(
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
                    }
                )
        return pl.DataFrame(made, schema=VARIANT_SCHEMA), []


class AlignedPairs(FrameStage):
    """Instructions with responses -> the picked set's response over another set's, under the picked system message.

    The rejected one is drawn from the others; one that is the same text, or that a content filter broke off, is passed
    over. Drops: same_response, one_set, content_filter (the picked one, or all the others, were broken off).
    Source: docs/papers.md#multifaceted, "splits".
    """

    name: ClassVar = "aligned_pairs"
    version: ClassVar = "2"
    needs: ClassVar = ("id", "prompt", "source", "note", "split", "systems", "responses")
    adds: ClassVar = tuple(AlignedPair.model_fields)

    seed: int = Field(0, ge=0)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        made, dropped = [], []
        for row in frame.iter_rows(named=True):
            texts = [response["text"] for response in row["responses"]]
            chosen, others = picks(self.seed, row["prompt"], len(texts))
            unlike = [n for n in others if normalised(texts[n]) != normalised(texts[chosen])]
            broken = [ending_of(response["finish_reason"]) == "content_filter" for response in row["responses"]]
            if broken[chosen] or (unlike and all(broken[n] for n in unlike)):
                dropped.append(Dropped(id=row["id"], reason="content_filter"))
                continue
            unlike = [n for n in unlike if not broken[n]]
            if not unlike:
                dropped.append(Dropped(id=row["id"], reason="same_response" if others else "one_set"))
                continue
            made.append(
                {
                    **{name: row[name] for name in ("prompt", "source", "note", "split")},
                    "id": child_id(row["id"], self.name),
                    "parent_id": row["id"],
                    "system": row["systems"][chosen],
                    "chosen": texts[chosen],
                    "rejected": texts[unlike[0]],
                    "chosen_index": chosen,
                    "rejected_index": unlike[0],
                }
            )
        return pl.DataFrame(made, schema=PAIR_SCHEMA), dropped


class BenchVariants(FrameStage):
    """The bench's variants, without those one of whose values is in training: the same preference, or a near-equal one.

    Adds nearest_value, nearest_similarity: the training value that is nearest to any of the row's. Drops: in_training
    (the variant is a training row), seen_value. Source: docs/papers.md#multifaceted, "bench".
    """

    name: ClassVar = "bench_variants"
    version: ClassVar = "1"
    whole: ClassVar = True
    needs: ClassVar = ("id", "split", "preference_set")
    adds: ClassVar = ("nearest_value", "nearest_similarity")

    threshold: float = Field(0.9, ge=0, le=1, description="cosine from which two preferences are one")
    embedder: str = "minilm"
    embedder_identity: str = ""
    rows_per_part: int = Field(256, ge=1)

    def parts_begin(self, made: pa.Table) -> list[int]:
        return even_parts(made, self.rows_per_part)

    @classmethod
    def with_embedder(cls, embedder: str, **fields: object) -> "BenchVariants":
        """The stage with its embedder's identity resolved; raises InputError when there is no such embedder."""
        return cls.model_validate({"embedder": embedder, "embedder_identity": embedder_name(embedder), **fields})

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        trained = frame.filter(pl.col("split") == "train")
        bench = frame.filter(pl.col("split") == "bench")
        nearest = self.nearest(
            preferences_of(trained["preference_set"].to_list()),
            preferences_of(bench["preference_set"].to_list()),
            store,
        )
        values: list[str | None] = []
        similarity: list[float] = []
        dropped = [Dropped(id=row_id, reason="in_training") for row_id in trained["id"]]
        for row_id, preferences in bench.select("id", "preference_set").iter_rows():
            found = [nearest.get((one["dimension"], normalised(one["preference"])), (None, 0.0)) for one in preferences]
            value, alike = max(found, key=lambda one: one[1])
            values.append(value)
            similarity.append(alike)
            if alike >= self.threshold:
                dropped.append(Dropped(id=row_id, reason="seen_value", detail=f"{value} ({alike:.3f})"))
        marked = bench.with_columns(
            nearest_value=pl.Series(values, dtype=pl.String), nearest_similarity=pl.Series(similarity, dtype=pl.Float64)
        )
        return marked.filter(pl.col("nearest_similarity") < self.threshold), dropped

    def nearest(self, seen: Preferences, asked: Preferences, store: Path) -> dict[tuple[str, str], tuple[str, float]]:
        """By (dimension, normalised preference): the training preference that is nearest to it, and their cosine."""
        found: dict[tuple[str, str], tuple[str, float]] = {}
        for dimension, wanted in asked.items():
            if not (known := list(seen.get(dimension, {}).values())):
                continue
            vectors, keys = embed(self.embedder, known, store), list(wanted)
            for start in range(0, len(keys), BLOCK):
                block = keys[start : start + BLOCK]
                alike = embed(self.embedder, [wanted[key] for key in block], store) @ vectors.T
                for key, row in zip(block, alike, strict=True):
                    at = int(row.argmax())
                    same = seen[dimension].get(key)
                    found[dimension, key] = (same, 1.0) if same else (known[at], float(row[at]))
        return found


def preferences_of(sets: Sequence[Sequence[Mapping[str, Any]]]) -> Preferences:
    """Per dimension, the different preferences of many sets: normalised -> as written."""
    found: dict[str, dict[str, str]] = {}
    for values in sets:
        for value in values:
            found.setdefault(value["dimension"], {}).setdefault(normalised(value["preference"]), value["preference"])
    return found
