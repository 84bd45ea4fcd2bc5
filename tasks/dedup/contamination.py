"""Benchmark prompts among training rows: by runs of words, and by meaning.

Source: docs/papers.md#contamination.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import polars as pl

from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import Store, read_artifact, read_manifest
from synthmill.storage.plain_files.rows import KNOWN_PROMPTS
from synthmill.tasks.cores import Array
from synthmill.tasks.dedup.word_grams import grams_of, operands_of
from synthmill.tasks.frames import NamedKeys, RunContext
from synthmill.tasks.texts.words import grams, words_of
from synthmill.tasks.vectors.embeddings import EmbeddingStage, embed_whole
from synthmill.tasks.vectors.layouts import BLOCK

LONG, SHORT = 13, 8  # words in a run; a benchmark prompt of fewer than 8 words must match as a whole
ADDED = ("contaminated", "benchmark", "matched_id", "evidence")


class Match(NamedTuple):
    """The benchmark turn that a text matches (its index among all turns), and the evidence."""

    turn: int
    evidence: str


class WordIndex:
    """Runs of words of benchmark turns: 13 words, 8 in turns shorter than 13, all words in turns shorter than 8.

    In turns shorter than 13 words, the operators must be the same, too: `2 + 2 = ?` does not match `2 - 2 = ?`.
    """

    def __init__(self, turns: Sequence[str]) -> None:
        self.turns = turns
        self.words = [words_of(turn) for turn in turns]
        self.tables = []
        for length, fewest, most in ((LONG, LONG, sys.maxsize), (SHORT, SHORT, LONG - 1), (SHORT, 0, SHORT - 1)):
            members = [n for n, words in enumerate(self.words) if fewest <= len(words) <= most]
            all_words = fewest == 0
            runs = grams_of([turns[n] for n in members], length, operands_of if all_words else words_of)
            owners = np.repeat(np.array(members, np.int64), np.diff(runs.starts))
            order = np.lexsort((owners, runs.hashes))
            self.tables.append((length, all_words, runs.hashes[order], owners[order]))

    def find(self, texts: Sequence[str]) -> dict[int, Match]:
        """By index in `texts`, the first turn that shares a run with the text; longer runs go first."""
        lengths = [len(words_of(text)) for text in texts]
        matches: dict[int, Match] = {}
        for length, all_words, hashes, owners in self.tables:
            if not len(hashes):
                continue
            places = [n for n, count in enumerate(lengths) if (count < length) == all_words and n not in matches]
            runs = grams_of([texts[n] for n in places], length, operands_of if all_words else words_of)
            first, end = (np.searchsorted(hashes, runs.hashes, side) for side in ("left", "right"))
            hits = np.flatnonzero(first < end)
            rows = np.searchsorted(runs.starts, hits, "right") - 1
            for hit, row in zip(hits.tolist(), rows.tolist(), strict=True):
                place = places[row]
                for turn in owners[first[hit] : end[hit]].tolist():
                    if place in matches and matches[place].turn <= turn:
                        break
                    if evidence := self.shared_run(texts[place], turn, length, all_words):
                        matches[place] = Match(turn, evidence)
        return matches

    def shared_run(self, text: str, turn: int, length: int, all_words: bool) -> str:
        """The shared run as text; empty where only the hashes are equal, or the words are but not the operators."""
        tokens = words_of if len(self.words[turn]) >= LONG else operands_of
        words, turn_words = tokens(text), tokens(self.turns[turn])
        if all_words:
            return f"the same words: {' '.join(words)}" if words == turn_words else ""
        runs = set(grams(turn_words, length))
        return next((f"{length} words: {' '.join(run)}" for run in grams(words, length) if run in runs), "")


class Benchmarks:
    """The turns of several benchmarks, indexed by words and by meaning."""

    def __init__(self, root: Path, turns: pl.DataFrame, layers: Sequence[str], embedder: str) -> None:
        """turns: benchmark, name (the prompt's id), turns (one text)."""
        self.turns = turns
        texts = self.turns["turns"].to_list()
        self.words = WordIndex(texts) if "words" in layers else None
        self.vectors = embed_whole(embedder, texts, root) if "meaning" in layers else None
        self.embedder, self.root = embedder, root

    def find(self, texts: Sequence[str], threshold: float) -> dict[int, Match]:
        matches = self.words.find(texts) if self.words else {}
        if self.vectors is not None and (unmatched := [n for n in range(len(texts)) if n not in matches]):
            vectors = embed_whole(self.embedder, [texts[n] for n in unmatched], self.root)
            for start in range(0, len(unmatched), BLOCK):
                turns, cosines = find_nearest(vectors[start : start + BLOCK], self.vectors)
                for n in np.flatnonzero(cosines >= threshold).tolist():
                    matches[unmatched[start + n]] = Match(int(turns[n]), f"cosine {cosines[n]:.3f}")
        return matches


def find_nearest(vectors: Array, candidates: Array) -> tuple[Array, Array]:
    """Per row, the index of the nearest candidate (the first of equal ones) and their cosine, rounded to six places."""
    product = np.round(vectors @ candidates.T, 6)
    nearest = product.argmax(axis=1)
    return nearest, np.take_along_axis(product, nearest[:, None], 1)[:, 0]


@lru_cache(maxsize=1)
def open_benchmarks(
    root: Path, benchmarks: tuple[tuple[str, str], ...], layers: tuple[str, ...], embedder: str
) -> Benchmarks:
    store = Store(root)
    frames = []
    for name, key in benchmarks:
        rows = pl.DataFrame(read_artifact(store, read_manifest(store.manifest_path(KNOWN_PROMPTS.stage, key))))
        frames.append(rows.select(pl.lit(name).alias("benchmark"), "name", "turns").explode("turns"))
    return Benchmarks(root, pl.concat(frames), layers, embedder)


class Contamination(EmbeddingStage):
    """Rows -> the same with `contaminated`, `benchmark` (its name), `matched_id` (the id of the benchmark's prompt) and
    `evidence` (the shared words, or the cosine). found: `drop` also sets `kept` to false for contaminated rows.

    columns: of texts, lists of texts, or lists of messages; each text and each message is compared by itself.
    benchmarks: (name, key of its artifact).
    """

    version: ClassVar = "2"
    needs: ClassVar = ("id",)
    adds: ClassVar[tuple[str, ...]] = (*ADDED, "kept")

    columns: tuple[str, ...] = ("prompt",)
    benchmarks: NamedKeys
    found: Literal["drop", "mark"] = "drop"
    layers: tuple[Literal["words", "meaning"], ...] = ("words", "meaning")
    threshold: float = 0.9

    def bound(self, context: RunContext) -> Self:
        return super().bound(context) if "meaning" in self.layers else self

    def identity(self, engines: Mapping[str, str]) -> dict[str, Any]:
        identity = super().identity(engines)
        if "meaning" not in self.layers:
            identity["settings"].pop("embedder")
        return identity

    def open(self, store: Path) -> Benchmarks:
        return open_benchmarks(store, self.benchmarks, self.layers, self.embedder)

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        benchmarks = self.open(store)
        texts, rows = turns_of(frame, self.columns)
        matches: list[Any] = [None] * frame.height
        for place, match in sorted(benchmarks.find(texts, self.threshold).items(), reverse=True):
            name, row_id, _ = benchmarks.turns.row(match.turn)
            matches[rows[place]] = (
                name,
                row_id,
                match.evidence,
            )  # places are in falling order: the first turn's match wins
        columns = zip(*(match or (None, None, None) for match in matches), strict=True) if matches else ((), (), ())
        added = [
            pl.Series(name, list(values), dtype=pl.String) for name, values in zip(ADDED[1:], columns, strict=True)
        ]
        contaminated = pl.Series("contaminated", [match is not None for match in matches], dtype=pl.Boolean)
        kept = frame["kept"] if "kept" in frame.columns else pl.repeat(True, frame.height, eager=True)
        if self.found == "drop":
            kept = kept & ~contaminated
        return frame.with_columns(contaminated, *added, kept.alias("kept")), []


def turns_of(frame: pl.DataFrame, columns: Sequence[str]) -> tuple[list[str], list[int]]:
    """(texts, the row of each), in order of rows, then columns. Each text or message of a list counts by itself; nulls
    are left out.
    """
    turns = []
    for name in columns:
        dtype, column = frame.schema[name], pl.col(name)
        if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct):
            column = column.list.eval(pl.element().struct.field("content"))
        turns.append(column.fill_null([]) if isinstance(dtype, pl.List) else pl.concat_list(column.cast(pl.String)))
    flat = frame.select(row=pl.int_range(pl.len()), turn=pl.concat_list(turns)).explode("turn").drop_nulls()
    return flat["turn"].to_list(), flat["row"].to_list()


class CleanRows(Contamination):
    """Rows of a file -> the same, each marked with the benchmark prompt that it matches, if any."""

    name: ClassVar = "clean_rows"


class CleanPairs(Contamination):
    """Preference pairs -> the same, each marked with the benchmark prompt that it matches, if any."""

    name: ClassVar = "clean_pairs"

    columns: tuple[str, ...] = ("system", "prompt", "chosen", "rejected")


class DroppedContamination(Contamination):
    """As Contamination, but before any model call: found=drop drops contaminated rows, as `contaminated`, and adds no
    column.
    """

    adds: ClassVar[tuple[str, ...]] = ()

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        marked, _ = super().apply(frame, store)
        if self.found == "mark":
            return marked, []
        contaminated = marked.filter("contaminated")
        drops = [
            Dropped(id=row, reason="contaminated", detail=f"{benchmark} {matched}: {evidence}"[:500])
            for row, benchmark, matched, evidence in contaminated.select("id", *ADDED[1:]).iter_rows()
        ]
        return marked.filter(~pl.col("contaminated")).drop(*ADDED, "kept"), drops


class CleanInstructions(DroppedContamination):
    """Instructions -> those that match no benchmark prompt."""

    name: ClassVar = "clean_instructions"

    columns: tuple[str, ...] = ("system", "prompt")


class CleanInputs(DroppedContamination):
    """Made-up user inputs -> those that match no benchmark prompt."""

    name: ClassVar = "clean_inputs"

    columns: tuple[str, ...] = ("pseudo_input",)


class CleanTurns(DroppedContamination):
    """Turns of conversations -> those that match no benchmark prompt, by their questions and their history."""

    name: ClassVar = "clean_turns"

    columns: tuple[str, ...] = ("history", "question")
