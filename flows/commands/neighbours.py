"""`synthmill neighbours`: the rows of a plain file that are nearest to a row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import polars as pl

from synthmill.flows.commands.file_job import FileJob, JobOptions
from synthmill.flows.terminal.tables import shortened, table
from synthmill.schemas.errors import InputError
from synthmill.storage.artifacts import read_artifact
from synthmill.storage.plain_files.text_rows import TextSettings, check_columns_exist
from synthmill.tasks.dedup.word_grams import GRAM, Grams, grams_of, jaccard
from synthmill.tasks.vectors.stage import vectors_in

VECTORS_AT_ONCE = 65536


def show_neighbours(file: TextSettings, row: str, count: int, options: JobOptions) -> None:
    """The rows nearest to a row, with their cosine, their share of word 3-grams, and their text. Raises InputError."""
    check_columns_exist(file.path, [file.text_column])
    job = FileJob("neighbours", file, options)
    texts, _ = job.make(job.plan_vectors(), (), {})
    rows = pl.DataFrame(read_artifact(job.store, texts, ("id", "name", "place", "text")))
    index = index_of(rows, row, file.path)
    cosines, has_vector = cosines_to(vectors_in(job.store, job.vectors_key), index)
    cosines[index] = -np.inf
    nearest = np.lexsort((rows["id"].to_numpy(), -np.round(cosines, 6)))[: min(count, rows.height - 1)]
    chosen = rows[[index, *nearest.tolist()]]
    text = chosen["text"][0]
    neighbours = describe_neighbours(chosen, cosines[nearest])
    if options.as_object:
        summary = {"id": row, "text": text, "neighbours": neighbours}
        print(orjson.dumps(summary, option=orjson.OPT_INDENT_2).decode())
    else:
        print_neighbours(row, text, neighbours, "" if has_vector else options.embedder)


def index_of(rows: pl.DataFrame, row: str, path: str) -> int:
    """Where a row is, by its name, its line or its id. Raises InputError."""
    matches = rows.with_row_index("at").filter(
        (pl.col("name") == row) | (pl.col("place") == row) | (pl.col("id") == row)
    )
    if not matches.height:
        first = ", ".join(rows["name"].head(3))
        raise InputError(f"{path} has no row {row!r}; its first are {first} (a line is called line-N)")
    return int(matches["at"][0])


def cosines_to(vectors: Any, index: int) -> tuple[np.ndarray[Any, np.dtype[np.float32]], bool]:
    """(the cosine of every row to the row at `index`, whether that row has a vector at all)."""
    query = np.asarray(vectors[index], np.float32)
    blocks = (vectors[start : start + VECTORS_AT_ONCE] for start in range(0, len(vectors), VECTORS_AT_ONCE))
    return np.concatenate([np.asarray(block, np.float32) @ query for block in blocks]), bool(query.any())


def describe_neighbours(chosen: pl.DataFrame, cosines: Any) -> list[dict[str, Any]]:
    """What is shown of each neighbour. chosen: the row, then its neighbours; cosines: of these."""
    grams = grams_of(chosen["text"].to_list(), GRAM)
    rows = enumerate(zip(cosines, chosen["name"][1:], chosen["text"][1:], strict=True), 1)
    return [
        {
            "id": name,
            "cosine": round(float(cosine), 4),
            "jaccard": round(gram_similarity(grams, 0, n), 4),
            "text": text,
        }
        for n, (cosine, name, text) in rows
    ]


def gram_similarity(grams: Grams, first: int, second: int) -> float:
    """The Jaccard similarity of two texts' runs of words; 0 where a text has none."""
    sets = [grams.hashes[grams.starts[n] : grams.starts[n + 1]] for n in (first, second)]
    return float(jaccard(*sets)) if all(map(len, sets)) else 0.0


def print_neighbours(row: str, text: str, neighbours: Sequence[dict[str, Any]], blind_embedder: str) -> None:
    """The row and a table of its neighbours. blind_embedder: the embedder, if it could not read the row's text."""
    from rich.console import Console
    from rich.text import Text

    console = Console(emoji=False)
    console.print(Text(f"{row}: {shortened(text, 300)}", style="bold"))
    if blind_embedder:
        console.print(f"{blind_embedder} cannot read this text: its cosines say nothing", highlight=False)
    rows = table("cosine", "jaccard", "id", "text", numbers=("cosine", "jaccard"))
    for neighbour in neighbours:
        rows.add_row(
            f"{neighbour['cosine']:.3f}",
            f"{neighbour['jaccard']:.3f}",
            Text(neighbour["id"]),
            Text(shortened(neighbour["text"], 200)),
        )
    console.print(rows)
