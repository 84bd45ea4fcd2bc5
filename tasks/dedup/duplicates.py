"""Duplicates: exact, near in words, near in meaning. A cut adds `kept`, `duplicate_of`, `similarity` and `layer`; it
deletes nothing, the exporter drops what is not kept.

Source: docs/papers.md#dedup.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.dedup_settings import Layer
from synthmill.schemas.errors import InputError
from synthmill.schemas.recall import Recall
from synthmill.schemas.rows import Dropped
from synthmill.schemas.texts import normalised
from synthmill.storage.artifacts import Store, read_manifest
from synthmill.storage.files import scratch_folder
from synthmill.storage.plain_files.rows import KNOWN_PROMPTS
from synthmill.storage.published.row_streams import RowStream, detached
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.cores import Array
from synthmill.tasks.dedup import contamination
from synthmill.tasks.dedup.greedy import FindLinks, Verdicts, greedy, recall_of_duplicates
from synthmill.tasks.dedup.word_grams import WordLinks
from synthmill.tasks.frames import ArtifactKey, Artifacts, FrameStage, MarkingStage, StageContext, even_parts
from synthmill.tasks.vectors.buckets import lay_out
from synthmill.tasks.vectors.embeddings import SAVED_AT_ONCE, embed_whole, text_keys
from synthmill.tasks.vectors.links import ANY, Links, Matrix, Search, SpreadContext, links_in, map_blocks
from synthmill.tasks.vectors.stage import Vectors, texts_of, vectors_in

SEED = 0
TEXTS, EARLIER = "texts", "earlier\t"
"""Rows of another file, as `synthmill dedup` reads it; they never count as this file's rows, whatever their ids."""
SAME_ROW = ("id", "first", "second")  # the id alone is not enough: another file may use it, too
ADDED = ("kept", "duplicate_of", "similarity", "layer")
NO_SCORE = pl.lit(None, pl.Float64)
NOT_KEPT = ~pl.col("kept")


class Duplicates(MarkingStage):
    """Rows -> the same with a verdict: kept, or `duplicate_of` (the id of a kept row), the `layer` that found it, and
    their `similarity` (1, a Jaccard similarity, or a cosine).

    Rows are ranked: published ones first, then by `score`, by how many of their columns are filled, by id. A row is a
    duplicate if a kept row of better rank is similar to it, so the order of the input changes nothing. Only rows that
    are equal in the columns `within` are compared. Rows that an earlier cut dropped (`kept` is false) take no part.

    against: (stage, key) of artifacts whose rows rank before all others: earlier verdicts (their kept rows) or known
    prompts. vectors: the key of the rows' vectors, which the layer `meaning` needs.
    """

    version: ClassVar = "2"
    needs: ClassVar = ("id",)
    adds: ClassVar[tuple[str, ...]] = ADDED

    columns: tuple[str, ...] = ("prompt",)
    within: tuple[str, ...] = ()
    score: str = ""
    provenance: str = Field("", description="a column that says how much is known of a row; default: it is counted")
    layers: tuple[Layer, ...] = ("exact", "words")
    threshold: float = 0.9
    jaccard: float = 0.7
    recall: float = 0.995
    sample: int = 2000
    vectors: ArtifactKey = ""
    against: Artifacts = ()
    embedder: str = "minilm"

    def check_columns(self, columns: pa.Schema) -> None:
        wanted = (*self.columns, *self.within, *filter(None, (self.score, self.provenance)))
        if absent := [name for name in wanted if name not in columns.names]:
            raise InputError(f"{self.name} compares {', '.join(absent)}; the rows have {', '.join(columns.names)}")

    def prerequisites(self) -> Mapping[str, FrameStage]:
        wants_vectors = "meaning" in self.layers and not self.vectors
        return {"vectors": Vectors(columns=self.columns)} if wants_vectors else {}

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        """As FrameStage.identity; the embedder is part of the vectors' key already."""
        identity = super().identity(engines)
        if "meaning" not in self.layers:
            identity["settings"] = {k: v for k, v in identity["settings"].items() if k not in ("embedder", "vectors")}
        return identity

    def narrow(self, rows: RowStream) -> pl.DataFrame:
        """Per row: id, text, score, known (how much is known of it), the columns `within`, takes_part."""
        return pl.concat([detached(self.narrow_batch(batch)) for batch in rows.batches()])

    def narrow_batch(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(
            "id",
            pl.Series("text", texts_of(rows, self.columns), dtype=pl.String),
            (pl.col(self.score).cast(pl.Float64).fill_nan(None) if self.score else NO_SCORE).alias("score"),
            (pl.col(self.provenance) if self.provenance else filled_columns(rows)).alias("known"),
            *(pl.col(name).cast(pl.String).alias(f"within_{name}") for name in self.within),
            takes_part="kept" if "kept" in rows.columns else pl.lit(True),
        )

    def mark(self, narrow: pl.DataFrame, context: StageContext) -> tuple[pl.DataFrame, list[Dropped]]:
        published_rows = self.read_published(Store(context.store)) if self.against else None
        table = self.rank_rows(narrow, published_rows)
        ids = narrow.select("id", place=pl.int_range(pl.len(), dtype=pl.Int64))
        del narrow
        distinct = table.filter(pl.col("stands_for") == pl.col("rank"))
        groups = distinct["group"].to_numpy().astype(np.int32)
        fixed_count = int(distinct["fixed"].sum())
        searches: dict[str, FindLinks] = {}
        if "words" in self.layers:
            searches["words"] = WordLinks(distinct["text"], groups, self.jaccard, SEED)
        table, distinct = table.drop("text"), distinct.drop("text")
        with ExitStack() as open_until_done:
            if "meaning" in self.layers and len(groups):
                folder = open_until_done.enter_context(scratch_folder(context.store, "search"))
                searches["meaning"] = self.link_vectors(published_rows, distinct, groups, context, folder)
            verdicts = greedy(len(groups), fixed_count, list(searches.values()))
            verdict_rows = self.verdicts_by_place(table, distinct, verdicts, list(searches))
            context.notes.update(self.notes_on(ids.height, verdict_rows, verdicts, searches))
        every = ids.join(verdict_rows, on="place", how="left", maintain_order="left")
        return self.finish(every.with_columns(pl.col("kept").fill_null(False)))

    def marked(self, rows: pl.DataFrame, marks: pl.DataFrame) -> pl.DataFrame:
        return super().marked(rows.drop(ADDED, strict=False), marks)

    def finish(self, verdicts: pl.DataFrame) -> tuple[pl.DataFrame, list[Dropped]]:
        """(marks, drops) of all rows' verdicts, by `place` and `id`; all rows stay here."""
        return verdicts.drop("id"), []

    def rank_rows(self, narrow: pl.DataFrame, published_rows: pl.DataFrame | None) -> pl.DataFrame:
        """Rows that take part, in order of rank: id, text, place (in `narrow`, then in published_rows), group, fixed,
        rank, and stands_for: the rank of the first row whose normalised text is equal, or its own.
        """
        rows = narrow.with_columns(place=pl.int_range(pl.len(), dtype=pl.Int64)).filter(narrow["takes_part"])
        rows = with_keys(rows.drop("takes_part")).with_columns(fixed=pl.lit(False), of_any=pl.lit(False))
        if published_rows is not None:
            rows = with_published(rows, with_keys(published_rows).with_row_index("place", narrow.height))
        values = pl.struct([f"within_{name}" for name in self.within]).rank("dense") if self.within else pl.lit(0)
        table = (
            rows.with_columns(group=pl.when("of_any").then(ANY).otherwise(values.cast(pl.Int64)))
            .sort(
                "fixed", "score", "known", "id", "place", descending=[True, True, True, False, False], nulls_last=True
            )
            .with_columns(rank=pl.int_range(pl.len(), dtype=pl.Int64))
        )
        same_group = pl.col("rank").min().over("first", "second", "group")
        any_group = pl.col("rank").filter(pl.col("group") == ANY).min().over("first", "second")
        itself = pl.col("fixed") | ("exact" not in self.layers)
        return table.with_columns(
            stands_for=pl.when(itself).then(pl.col("rank")).otherwise(pl.min_horizontal(same_group, any_group))
        )

    def link_vectors(
        self,
        published_rows: pl.DataFrame | None,
        distinct: pl.DataFrame,
        groups: Array,
        around: StageContext,
        folder: Path,
    ) -> "VectorLinks":
        store = Store(around.store)
        vectors = vectors_in(store, self.vectors)
        if published_rows is not None and published_rows.height:
            vectors = with_vectors_of(published_rows["text"], vectors, self.embedder, around.store, folder / "both.npy")
        matrix = Matrix(vectors, distinct["place"].to_numpy(), groups)
        return VectorLinks(self, matrix, int(distinct["fixed"].sum()), SpreadContext(around.map_unordered, folder))

    def read_published(self, store: Store) -> pl.DataFrame:
        """Rows published before: id, text, the columns `within`, and of_any (whether the row is in every group)."""
        frames = [rows for stage, key in self.against for rows in self.published_batches(store, stage, key)]
        return pl.concat(frames, how="diagonal").unique(["id", "text"], keep="first", maintain_order=True)

    def published_batches(self, store: Store, stage: str, key: str) -> Iterator[pl.DataFrame]:
        """One artifact's rows in the form of `read_published`, batch by batch; reads only the columns compared."""
        rows = stream_of(store, read_manifest(store.manifest_path(stage, key)))
        if stage == KNOWN_PROMPTS.stage:
            for batch in rows.batches(["name", "turns"]):
                yield batch.select(id="name", text=pl.col("turns").list.first(), of_any=pl.lit(True))
            return
        if stage == TEXTS:
            for batch in rows.batches(["id", "text"]):
                yield batch.select(id=pl.lit(EARLIER) + pl.col("id"), text="text", of_any=pl.lit(True))
            return
        kept = rows.filter(pl.col("kept")) if "kept" in rows.columns else rows
        for batch in kept.batches(list(dict.fromkeys(["id", *self.columns, *self.within]))):
            yield batch.select(
                "id",
                pl.Series("text", texts_of(batch, self.columns), dtype=pl.String),
                *(pl.col(name).cast(pl.String).alias(f"within_{name}") for name in self.within),
                of_any=pl.lit(False),
            )

    def verdicts_by_place(
        self, table: pl.DataFrame, distinct: pl.DataFrame, verdicts: Verdicts, names: Sequence[str]
    ) -> pl.DataFrame:
        """Verdicts by `place` in all rows, then in the published ones."""
        position = np.searchsorted(distinct["rank"].to_numpy(), table["stands_for"].to_numpy())
        representative, is_duplicate = verdicts.duplicate_of[position], verdicts.duplicate_of[position] >= 0
        kept = pl.Series((table["stands_for"] == table["rank"]).to_numpy() & ~is_duplicate)
        ids, layers = distinct["id"].to_numpy(), np.array(["exact", *names])
        return pl.DataFrame(
            {
                "place": table["place"],
                "kept": kept,
                "duplicate_of": pl.Series(np.where(is_duplicate, ids[representative], ids[position])).set(kept, None),
                "similarity": pl.Series(np.where(is_duplicate, verdicts.similarity[position], 1.0)).set(kept, None),
                "layer": pl.Series(layers[np.where(is_duplicate, verdicts.layer[position] + 1, 0)]).set(kept, None),
            },
            schema_overrides={"duplicate_of": pl.String, "layer": pl.String, "similarity": pl.Float64},
        )

    def notes_on(
        self, rows: int, verdict_rows: pl.DataFrame, verdicts: Verdicts, searches: Mapping[str, FindLinks]
    ) -> dict[str, Any]:
        """Counts of rows compared and kept, duplicates by layer, and the recall of the search."""
        own = verdict_rows.filter(pl.col("place") < rows)
        by_layer = dict(own.filter(~pl.col("kept")).group_by("layer").len().iter_rows())
        notes: dict[str, Any] = {"rows": own.height, "kept": int(own["kept"].sum())}
        notes["known"] = verdict_rows.height - own.height
        notes["by_layer"] = {layer: by_layer.get(layer, 0) for layer in self.layers}
        if isinstance(search := searches.get("meaning"), VectorLinks):
            plan = search.plan
            notes |= {
                "threshold": self.threshold,
                "requested_recall": self.recall,
                "recall": plan.recall._asdict(),
                "duplicates_found": search.recall_of(verdicts)._asdict(),
                "visits_per_row": round(plan.visits, 3),
                "unreadable": search.unreadable,
            }
        return notes


def with_published(rows: pl.DataFrame, published_rows: pl.DataFrame) -> pl.DataFrame:
    """Rows and published ones, with `fixed`: published rows, and those of `rows` that are the same row, are fixed."""
    published_rows = published_rows.cast({"place": pl.Int64})
    same = published_rows.select(*SAME_ROW, published=pl.lit(True)).unique()
    rows = rows.join(same, on=SAME_ROW, how="left", maintain_order="left")
    rows = rows.with_columns(fixed=pl.col("published").fill_null(False)).drop("published")
    absent = published_rows.join(rows, on=SAME_ROW, how="anti").filter(~pl.col("of_any"))
    fixed = pl.concat([published_rows.filter("of_any"), absent]).with_columns(fixed=pl.lit(True))
    return pl.concat([fixed, rows], how="diagonal")


def with_keys(frame: pl.DataFrame) -> pl.DataFrame:
    """Adds a hash of each normalised text, in two halves."""
    keys = text_keys(normalised(text) for text in frame["text"])
    halves = (pl.Series(name, keys[:, n], dtype=pl.UInt64) for n, name in enumerate(SAME_ROW[1:]))
    return frame.with_columns(*halves)


def with_vectors_of(texts: pl.Series, vectors: Array, embedder: str, store: Path, file: Path) -> Array:
    """`vectors`, then those of `texts`, in a file that is mapped: only a batch of texts is in memory at once."""
    joined: Any = None
    for start in range(0, len(texts), SAVED_AT_ONCE):
        block = embed_whole(embedder, texts[start : start + SAVED_AT_ONCE].to_list(), store)
        if joined is None:
            shape = (len(vectors) + len(texts), block.shape[1])
            joined = np.lib.format.open_memmap(file, "w+", vectors.dtype, shape)  # type: ignore[no-untyped-call]
            joined[: len(vectors)] = vectors
        joined[len(vectors) + start :][: len(block)] = block
    joined.flush()
    mapped: Array = joined
    return mapped


class VectorLinks:
    """Links between vectors, searched exactly or in buckets; texts that the model could not read take no part."""

    def __init__(self, stage: Duplicates, matrix: Matrix, fixed_count: int, workers: SpreadContext) -> None:
        [ranks] = map_blocks(matrix, readable, workers=workers)
        self.ranks = np.sort(ranks)
        self.unreadable = matrix.rows - len(self.ranks)
        self.fixed_count = int(np.searchsorted(self.ranks, fixed_count))
        self.matrix = Matrix(matrix.vectors, matrix.order[self.ranks], matrix.groups[self.ranks])
        self.threshold, self.workers = stage.threshold, workers
        self.plan = lay_out(
            self.matrix, stage.threshold, stage.recall, stage.sample, SEED, workers=workers, fixed=self.fixed_count
        )

    def __call__(self, queries: Array, alive: Array) -> Links:
        if not len(self.ranks):
            return Links.none()
        masks = queries[self.ranks], alive[self.ranks]
        search = Search(self.matrix, self.plan.layout, self.threshold, *masks, self.plan.near)
        links = links_in(search, self.workers)
        return Links(self.ranks[links.row], self.ranks[links.neighbour], links.similarity, self.ranks[links.more])

    def recall_of(self, verdicts: Verdicts) -> Recall:
        own = Verdicts(*(part[self.ranks] for part in verdicts))
        return recall_of_duplicates(self.plan.pairs, self.plan.sample, own, self.fixed_count)


def readable(matrix: Matrix, block: Array) -> tuple[Array]:
    """The ranks of the rows that have a vector."""
    return (block[matrix.take(block).any(axis=1)],)


def filled_columns(frame: pl.DataFrame) -> pl.Expr:
    """How many of a row's columns are neither null nor empty."""
    counts = [pl.lit(0)]
    for name, dtype in frame.schema.items():
        if name in (*ADDED, *contamination.ADDED, "id", "calls"):
            continue
        is_filled = pl.col(name).is_not_null()
        if dtype == pl.String:
            is_filled &= pl.col(name) != ""
        elif isinstance(dtype, pl.List):
            is_filled &= pl.col(name).list.len() > 0
        counts.append(is_filled.cast(pl.Int32))
    return pl.sum_horizontal(counts)


class UniquePairs(Duplicates):
    """Preference pairs -> the same, each marked as kept or with the pair that it duplicates."""

    name: ClassVar = "unique_pairs"


class UniqueRows(Duplicates):
    """Rows of a file -> the same, each marked as kept or with the row that it duplicates."""

    name: ClassVar = "unique_rows"


class DroppedDuplicates(Duplicates):
    """As Duplicates, but before any model call: rows that are not kept are dropped, as `duplicate`; adds no column."""

    adds: ClassVar[tuple[str, ...]] = ()

    rows_per_part: int = Field(256, ge=1)

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, self.rows_per_part)

    def finish(self, verdicts: pl.DataFrame, gone: pl.Expr = NOT_KEPT) -> tuple[pl.DataFrame, list[Dropped]]:
        """As Duplicates.finish; gone: which rows are dropped."""
        evidence = verdicts.filter(gone).select("id", "duplicate_of", "similarity", "layer")
        drops = [
            Dropped(id=row, reason="duplicate", detail=f"of {kept_id} ({layer}, {similarity:.3f})")
            for row, kept_id, similarity, layer in evidence.iter_rows()
        ]
        return verdicts.filter(~gone).select("place"), drops


class UniqueInstructions(DroppedDuplicates):
    """Instructions -> those that duplicate no other."""

    name: ClassVar = "unique_instructions"


class UniqueTurns(DroppedDuplicates):
    """Turns of conversations -> those that duplicate no other."""

    name: ClassVar = "unique_turns"
