"""What likeness finds on real texts: graded pairs of questions and answers, a ladder of published thresholds, and the
overlap of instruction sets that were made from each other.

    python -m bench.likeness --data FOLDER [--picture docs/likeness.svg] [--show]

FOLDER holds dedup/, instructions/ and alpaca_eval/ (see docs/dedup.md for what they are).
"""

import argparse
import gzip
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from synthmill.schemas.texts import normalised
from synthmill.tasks.cores import Array
from synthmill.tasks.dedup.contamination import WordIndex, find_nearest
from synthmill.tasks.dedup.greedy import first_alike
from synthmill.tasks.dedup.word_grams import GRAM, grams_of, jaccard
from synthmill.tasks.texts.rouge import find_too_alike
from synthmill.tasks.vectors.embeddings import embed_whole

THRESHOLDS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
SAME = 4.0  # of 5: people call the two the same, but for details
LADDER = ("0.9", "0.8", "0.7", "0.6")


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        return [orjson.loads(line) for line in file]


def measures(scores: Array, gold: Array, threshold: float) -> tuple[float, float]:
    """(precision, recall) of calling pairs the same from a threshold on; the first is NaN where none is called so."""
    called_same = scores >= threshold
    right = (called_same & gold).sum()
    return float(right / called_same.sum()) if called_same.any() else math.nan, float(right / gold.sum())


def score_graded_pairs(data: Path, store: Path) -> tuple[Array, Array, Array]:
    """(cosine, Jaccard, whether people call them the same) of the pairs."""
    pairs = read(data / "dedup" / "sts2016_stackexchange.jsonl.gz")
    first, second = ([pair[side] for pair in pairs] for side in ("a", "b"))
    cosine = (embed_whole("minilm", first, store) * embed_whole("minilm", second, store)).sum(axis=1)
    grams = [grams_of(texts, GRAM) for texts in zip(first, second, strict=True)]
    sets = [[g.hashes[g.starts[n] : g.starts[n + 1]] for n in (0, 1)] for g in grams]
    words = [jaccard(*two) if all(map(len, two)) else 0.0 for two in sets]
    return cosine, np.array(words), np.array([pair["gold_0_5"] >= SAME for pair in pairs])


def ladder(data: Path, store: Path) -> Iterator[str]:
    """What goes at each threshold, by the rows' author and by us. The tools' descriptions, which many rows share, are
    left out: with them everything is alike.
    """
    rows = read(data / "dedup" / "gpteacher_toolformer_ladder.jsonl.gz")
    texts = ["\n".join((row["instruction"].split("\n")[-1], row["input"] or "", row["output"])) for row in rows]
    vectors = embed_whole("minilm", texts, store)
    yield "| threshold | author drops | by cosine | precision | recall | by ROUGE-L | precision | recall |"
    yield "|---:|---:|---:|---:|---:|---:|---:|---:|"
    for step in LADDER:
        theirs = np.array([step not in row["kept_at"] for row in rows])
        cells = [f"{theirs.sum():,}"]
        for gone in (first_alike(vectors, float(step)) >= 0, find_too_alike(texts, [], float(step))[0] >= 0):
            right = (gone & theirs).sum()
            cells += [f"{gone.sum():,}", f"{right / gone.sum():.3f}", f"{right / theirs.sum():.3f}"]
        yield f"| {step} | {' | '.join(cells)} |"


def overlaps(data: Path, store: Path, show: bool) -> Iterator[str]:
    """AlpacaEval's prompts against the other sets, by layer; show: list what is not exact, to be read."""
    pool = read(data / "alpaca_eval" / "pool.jsonl.gz")
    rows = [
        row
        for row in read(data / "instructions" / "instructions.jsonl.gz")
        if "self_instruct_seed" not in row["source"]
    ]
    prompts, turns = [row["instruction"] for row in pool], [row["turns"][0] for row in rows]
    exact_texts = {normalised(text): n for n, text in enumerate(turns)}
    exact = {n: exact_texts[normalised(text)] for n, text in enumerate(prompts) if normalised(text) in exact_texts}
    words = {n: match.turn for n, match in WordIndex(turns).find(prompts).items() if n not in exact}
    index, cosines = find_nearest(embed_whole("minilm", prompts, store), embed_whole("minilm", turns, store))
    counts = Counter(row["dataset"] for row in pool)
    yield "| AlpacaEval's source | prompts | exact | words | meaning >= .9, besides | meaning .8 to .9, besides |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, count in sorted(counts.items()):
        indices = [n for n, row in enumerate(pool) if row["dataset"] == name]
        remaining = [n for n in indices if n not in exact and n not in words]
        by_meaning = [sum(low <= cosines[n] < high for n in remaining) for low, high in ((0.9, 2), (0.8, 0.9))]
        by_text = [sum(n in layer for n in indices) for layer in (exact, words)]
        yield f"| {name} | {count} | {' | '.join(map(str, (*by_text, *by_meaning)))} |"
    if not show:
        return
    yield ""
    for what, matches in (
        ("Words, not exact", words),
        (
            "Meaning only, >= .8",
            {n: int(index[n]) for n in range(len(pool)) if cosines[n] >= 0.8 and n not in {**exact, **words}},
        ),
    ):
        yield f"{what}:"
        for n, turn in matches.items():
            sides = (" ".join(text.split())[:150] for text in (prompts[n], turns[turn]))
            yield f"- {pool[n]['dataset']}, {rows[turn]['source']}, {cosines[n]:.3f}: {' // '.join(sides)}"
        yield ""


def picture(lines: Sequence[tuple[str, str, Sequence[float]]]) -> str:
    """Lines over the thresholds, as SVG. lines: (name, colour, a value from 0 to 1 per threshold)."""
    width, height, margin, top = 600, 300, 48, 16
    wide, high = width - margin - 160, height - top - 40

    def at(n: int, value: float) -> tuple[float, float]:
        return margin + wide * n / (len(THRESHOLDS) - 1), top + high * (1 - value)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for tenth in range(0, 11, 2):
        x, y = at(0, tenth / 10)
        parts.append(f'<path d="M{x} {y:.1f}h{wide}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{tenth / 10}</text>')
    for n, threshold in enumerate(THRESHOLDS):
        x, y = at(n, 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle" fill="#555">{threshold}</text>')
    x, y = at(0, 0)
    parts.append(f'<text x="{x + wide / 2:.1f}" y="{y + 34:.1f}" text-anchor="middle" fill="#555">threshold</text>')
    for name, colour, values in lines:
        points = " ".join(
            f"{x:.1f},{y:.1f}" for x, y in (at(n, value) for n, value in enumerate(values) if value == value)
        )
        dashes = ' stroke-dasharray="5 3"' if "recall" in name else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
    for n, (name, colour, _) in enumerate(lines):
        y = top + 12 + 18 * n
        dashes = ' stroke-dasharray="5 3"' if "recall" in name else ""
        parts.append(f'<path d="M{width - 142} {y - 4}h22" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts.append(f'<text x="{width - 114}" y="{y}" fill="#222">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def report(data: Path, store: Path, svg: Path | None, show: bool) -> Iterator[str]:
    cosine, words, same = score_graded_pairs(data, store)
    yield f"Graded pairs: {len(same)}, of which people call {same.sum()} the same ({SAME} of 5 and more)."
    yield ""
    yield "| threshold | meaning: precision | recall | words: precision | recall |"
    yield "|---:|---:|---:|---:|---:|"
    curves = []
    for threshold in THRESHOLDS:
        point = [*measures(cosine, same, threshold), *measures(words, same, threshold)]
        curves.append(point)
        yield f"| {threshold} | " + " | ".join("" if math.isnan(value) else f"{value:.3f}" for value in point) + " |"
    if svg:
        names = ("meaning, precision", "meaning, recall", "words, precision", "words, recall")
        colours = ("#1f6f8b", "#1f6f8b", "#c8553d", "#c8553d")
        svg.write_text(
            picture([(n, c, [row[k] for row in curves]) for k, (n, c) in enumerate(zip(names, colours, strict=True))])
        )
    yield ""
    yield from ladder(data, store)
    yield ""
    yield from overlaps(data, store, show)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--show", action="store_true", help="list the overlaps that are not exact, to be read")
    parser.add_argument("--store", type=Path, help="keeps the embeddings")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        for line in report(options.data, options.store or Path(folder), options.picture, options.show):
            print(line, flush=True)


if __name__ == "__main__":
    main()
