"""Duplicates: exact, near in words, near in meaning. A cut adds `kept`, `duplicate_of`, `similarity`, `layer` and
deletes nothing; the exporter honours it.

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

from schemas.dedup_settings import Layer
from schemas.recall import Recall
from schemas.rows import Dropped
from schemas.texts import normalised
from storage.artifacts import Store, read_manifest
from storage.files import scratch_folder
from storage.plain_files.rows import KNOWN_PROMPTS
from storage.published.rows import stream_of
from tasks.cores import Array
from tasks.dedup import contamination
from tasks.dedup.greedy import Layer as Search
from tasks.dedup.greedy import Verdicts, duplicates_found, greedy
from tasks.dedup.word_grams import WordLinks
from tasks.frames import Around, FrameStage, even_parts, here
from tasks.vectors.buckets import lay_out
from tasks.vectors.embeddings import embed_whole, text_keys
from tasks.vectors.links import ANY, Helpers, Links, Matrix, by_blocks, links_in
from tasks.vectors.links import Search as VectorSearch
from tasks.vectors.stage import texts_of, vectors_in

SEED = 0
TEXTS, EARLIER = "texts", "earlier\t"
"""Rows of another file, as `synthmill dedup` reads it; they are never the same as this one's, whatever their ids."""
SAME_ROW = ("id", "first", "second")  # an id alone may be somebody else's
ADDED = ("kept", "duplicate_of", "similarity", "layer")


class Duplicates(FrameStage):
    """Rows -> the same with a verdict: kept, or the duplicate of one that is (`duplicate_of`, by its id), by which
    `layer`, and how like it is (`similarity`: 1, a Jaccard similarity, or a cosine).

    Rows are ranked: those published before, then by `score`, by how much is known of them (columns that are not
    empty), by id; a row goes if one that stays is alike. The order of the input changes nothing. Only rows that are
    equal in the columns `within` are compared; rows that an earlier cut left out (`kept` is false) are not.

    against: (stage, key) of artifacts whose rows stand before all others: earlier verdicts (their kept rows) or known
    prompts. vectors: the key of the rows' vectors, which the layer `meaning` needs.
    """

    version: ClassVar = "2"
    whole: ClassVar = True
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
    vectors: str = ""
    against: tuple[tuple[str, str], ...] = ()
    embedder: str = "minilm"

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        """The embedder is in the vectors' key."""
        found = super().identity(engines)
        if "meaning" not in self.layers:
            found["settings"] = {k: v for k, v in found["settings"].items() if k not in ("embedder", "vectors")}
        return found

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        return self.apply_around(frame, Around(store, here, {}))

    def apply_around(self, frame: pl.DataFrame, around: Around) -> tuple[pl.DataFrame, list[Dropped]]:
        known = self.known(Store(around.store)) if self.against else None
        table = self.ranked(frame, known)
        distinct = table.filter(pl.col("stands_for") == pl.col("rank"))
        groups = distinct["group"].to_numpy().astype(np.int32)
        fixed = int(distinct["fixed"].sum())
        searches: dict[str, Search] = {}
        if "words" in self.layers:
            searches["words"] = WordLinks(distinct["text"].to_list(), groups, self.jaccard, SEED)
        with ExitStack() as open_until_done:
            if "meaning" in self.layers and len(groups):
                folder = open_until_done.enter_context(scratch_folder(around.store, "search"))
                searches["meaning"] = self.by_meaning(frame.height, known, distinct, groups, around, folder)
            verdicts = greedy(len(groups), fixed, list(searches.values()))
            found = self.found(table, distinct, verdicts, list(searches))
            around.notes.update(self.told(frame.height, found, verdicts, searches))
        plain = frame.drop(*ADDED, strict=False).with_columns(_place=pl.int_range(pl.len(), dtype=pl.Int64))
        marked = plain.join(found, on="_place", how="left", maintain_order="left").drop("_place")
        return self.finished(marked.with_columns(pl.col("kept").fill_null(False)))

    def finished(self, marked: pl.DataFrame) -> tuple[pl.DataFrame, list[Dropped]]:
        """What becomes of rows with their verdicts: all stay."""
        return marked, []

    def ranked(self, frame: pl.DataFrame, known: pl.DataFrame | None) -> pl.DataFrame:
        """Rows that take part, in the order of rank: id, text, place (in the frame, then in `known`), group, fixed,
        rank, and stands_for: the rank of the first row that is equal after normalising, or its own.
        """
        taking = frame["kept"] if "kept" in frame.columns else pl.repeat(True, frame.height, eager=True)
        score = pl.col(self.score).cast(pl.Float64).fill_nan(None) if self.score else pl.lit(None, pl.Float64)
        mine = frame.select(
            "id",
            pl.Series("text", texts_of(frame, self.columns), dtype=pl.String),
            score.alias("score"),
            (pl.col(self.provenance) if self.provenance else filled(frame)).alias("known"),
            *(pl.col(name).cast(pl.String).alias(f"within_{name}") for name in self.within),
            place=pl.int_range(pl.len(), dtype=pl.Int64),
        ).filter(taking)
        mine = with_keys(mine).with_columns(fixed=pl.lit(False), of_any=pl.lit(False))
        if known is not None:
            theirs = with_keys(known).with_row_index("place", frame.height).cast({"place": pl.Int64})
            again = theirs.select(*SAME_ROW, published=pl.lit(True)).unique()
            mine = mine.join(again, on=SAME_ROW, how="left", maintain_order="left")
            mine = mine.with_columns(fixed=pl.col("published").fill_null(False)).drop("published")
            there = pl.concat(
                [theirs.filter("of_any"), theirs.join(mine, on=SAME_ROW, how="anti").filter(~pl.col("of_any"))]
            )
            mine = pl.concat([there.with_columns(fixed=pl.lit(True)), mine], how="diagonal")
        values = pl.struct([f"within_{name}" for name in self.within]).rank("dense") if self.within else pl.lit(0)
        table = (
            mine.with_columns(group=pl.when("of_any").then(ANY).otherwise(values.cast(pl.Int64)))
            .sort(
                "fixed", "score", "known", "id", "place", descending=[True, True, True, False, False], nulls_last=True
            )
            .with_columns(rank=pl.int_range(pl.len(), dtype=pl.Int64))
        )
        same = pl.col("rank").min().over("first", "second", "group")
        wide = pl.col("rank").filter(pl.col("group") == ANY).min().over("first", "second")
        itself = pl.col("fixed") | ("exact" not in self.layers)
        return table.with_columns(
            stands_for=pl.when(itself).then(pl.col("rank")).otherwise(pl.min_horizontal(same, wide))
        )

    def by_meaning(
        self, rows: int, known: pl.DataFrame | None, distinct: pl.DataFrame, groups: Array, around: Around, folder: Path
    ) -> "ByMeaning":
        store = Store(around.store)
        vectors = vectors_in(store, self.vectors)
        if known is not None and known.height:
            theirs = embed_whole(self.embedder, known["text"].to_list(), around.store)
            both = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                folder / "both.npy", "w+", vectors.dtype, (rows + known.height, theirs.shape[1])
            )
            both[:rows], both[rows:] = vectors, theirs
            both.flush()
            vectors = both
        matrix = Matrix(vectors, distinct["place"].to_numpy(), groups)
        return ByMeaning(self, matrix, int(distinct["fixed"].sum()), Helpers(around.spread, folder))

    def known(self, store: Store) -> pl.DataFrame:
        """What was published before: id, text, the columns `within`, and of_any: whether it is of every group."""
        frames = [rows for stage, key in self.against for rows in self.known_rows(store, stage, key)]
        return pl.concat(frames, how="diagonal").unique(["id", "text"], keep="first", maintain_order=True)

    def known_rows(self, store: Store, stage: str, key: str) -> Iterator[pl.DataFrame]:
        """One artifact's rows as `known` has them, batch by batch; only the columns that are compared are read."""
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

    def found(
        self, table: pl.DataFrame, distinct: pl.DataFrame, verdicts: Verdicts, names: Sequence[str]
    ) -> pl.DataFrame:
        """Verdicts by `_place` in the frame, then in what was known."""
        at = np.searchsorted(distinct["rank"].to_numpy(), table["stands_for"].to_numpy())
        other, gone = verdicts.other[at], verdicts.other[at] >= 0
        kept = pl.Series((table["stands_for"] == table["rank"]).to_numpy() & ~gone)
        ids, layers = distinct["id"].to_numpy(), np.array(["exact", *names])
        return pl.DataFrame(
            {
                "_place": table["place"],
                "kept": kept,
                "duplicate_of": pl.Series(np.where(gone, ids[other], ids[at])).set(kept, None),
                "similarity": pl.Series(np.where(gone, verdicts.similarity[at], 1.0)).set(kept, None),
                "layer": pl.Series(layers[np.where(gone, verdicts.layer[at] + 1, 0)]).set(kept, None),
            },
            schema_overrides={"duplicate_of": pl.String, "layer": pl.String, "similarity": pl.Float64},
        )

    def told(
        self, rows: int, found: pl.DataFrame, verdicts: Verdicts, searches: Mapping[str, Search]
    ) -> dict[str, Any]:
        """What was compared, what came of it, and how well was searched."""
        mine = found.filter(pl.col("_place") < rows)
        by_layer = dict(mine.filter(~pl.col("kept")).group_by("layer").len().iter_rows())
        notes: dict[str, Any] = {"rows": mine.height, "kept": int(mine["kept"].sum())}
        notes["known"] = found.height - mine.height
        notes["by_layer"] = {layer: by_layer.get(layer, 0) for layer in self.layers}
        if isinstance(search := searches.get("meaning"), ByMeaning):
            plan = search.plan
            notes |= {
                "threshold": self.threshold,
                "requested_recall": self.recall,
                "recall": plan.recall._asdict(),
                "duplicates_found": search.duplicates_found(verdicts)._asdict(),
                "visits_per_row": round(plan.visits, 3),
                "unreadable": search.unreadable,
            }
        return notes


def with_keys(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame, and a hash of each normalised text in two halves."""
    keys = text_keys([normalised(text) for text in frame["text"]])
    halves = (pl.Series(name, keys[:, n], dtype=pl.UInt64) for n, name in enumerate(SAME_ROW[1:]))
    return frame.with_columns(*halves)


class ByMeaning:
    """Links between vectors, searched exactly or in buckets; texts that the model could not read take no part."""

    def __init__(self, stage: Duplicates, matrix: Matrix, fixed: int, helpers: Helpers) -> None:
        [readable] = by_blocks(matrix, something_in, helpers=helpers)
        self.ranks = np.flatnonzero(readable).astype(np.int32)
        self.unreadable = matrix.rows - len(self.ranks)
        self.fixed = int(readable[:fixed].sum())
        self.matrix = Matrix(matrix.vectors, matrix.order[self.ranks], matrix.groups[self.ranks])
        self.threshold, self.helpers = stage.threshold, helpers
        self.plan = lay_out(self.matrix, stage.threshold, stage.recall, stage.sample, SEED, helpers=helpers)

    def __call__(self, asked: Array, alive: Array) -> Links:
        if not len(self.ranks):
            return Links.none()
        mine = VectorSearch(self.matrix, self.plan.layout, self.threshold, asked[self.ranks], alive[self.ranks])
        found = links_in(mine, self.helpers)
        return Links(self.ranks[found.row], self.ranks[found.other], found.similarity, self.ranks[found.more])

    def duplicates_found(self, verdicts: Verdicts) -> Recall:
        mine = Verdicts(*(part[self.ranks] for part in verdicts))
        return duplicates_found(self.plan.pairs, self.plan.sample, mine, self.fixed)


def something_in(matrix: Matrix, block: Array) -> tuple[Array]:
    return (np.asarray(matrix.take(block).any(axis=1)),)


def filled(frame: pl.DataFrame) -> pl.Expr:
    """How many of a row's columns hold something."""
    counted = [pl.lit(0)]
    for name, kind in frame.schema.items():
        if name in (*ADDED, *contamination.ADDED, "id", "calls"):
            continue
        there = pl.col(name).is_not_null()
        if kind == pl.String:
            there &= pl.col(name) != ""
        elif isinstance(kind, pl.List):
            there &= pl.col(name).list.len() > 0
        counted.append(there.cast(pl.Int32))
    return pl.sum_horizontal(counted)


class UniquePairs(Duplicates):
    """Of preference pairs."""

    name: ClassVar = "unique_pairs"


class UniqueRows(Duplicates):
    """Of the rows of a file."""

    name: ClassVar = "unique_rows"


class DroppedDuplicates(Duplicates):
    """As Duplicates, before models are asked: what is not kept is dropped, as `duplicate`, and nothing is added."""

    adds: ClassVar[tuple[str, ...]] = ()

    rows_per_part: int = Field(256, ge=1)

    def parts_begin(self, made: pa.Table) -> list[int]:
        return even_parts(made, self.rows_per_part)

    def finished(self, marked: pl.DataFrame) -> tuple[pl.DataFrame, list[Dropped]]:
        gone = marked.filter(~pl.col("kept"))
        drops = [
            Dropped(id=row, reason="duplicate", detail=f"of {other} ({layer}, {similarity:.3f})")
            for row, other, similarity, layer in gone.select("id", "duplicate_of", "similarity", "layer").iter_rows()
        ]
        return marked.filter("kept").drop(ADDED), drops


class UniqueInstructions(DroppedDuplicates):
    """Of instructions."""

    name: ClassVar = "unique_instructions"


class UniqueTurns(DroppedDuplicates):
    """Of conversations' turns."""

    name: ClassVar = "unique_turns"
