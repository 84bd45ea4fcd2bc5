"""Training and test rows that share no prompt: by content, so that a row stays where it is when others are added."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from schemas.hashing import digest
from schemas.texts import normalised
from storage.dataset_folder import Table

TOGETHER = ("id", "parent_id", "conversation", "prompt_id")
"""Columns whose equal values, in any of them and in any configuration, are of rows that belong together."""
PROMPTS = ("prompt", "messages", "history", "pseudo_input", "question", "input", "anchor")
"""Where a row's prompt is: in the first of these that says something."""
PROMPT, OTHER = b"0", b"1"


def split_by_prompt(tables: Mapping[str, Table], share: float) -> dict[str, Table]:
    """Tables whose rows are all for training, with about `share` of them moved to a split `test`; others stay.

    Rows with the same first user message, the same parent or the same conversation, and the rows that those share one
    with, are on the same side, through all configurations.
    """
    ours = {name: table.splits["train"] for name, table in tables.items() if set(table.splits) == {"train"}}
    made = dict(tables)
    if share and ours:
        side = iter(tested([names for rows in ours.values() for names in names_of(rows)], share))
        for name, rows in ours.items():
            test = pl.Series([next(side) for _ in range(rows.height)], dtype=pl.Boolean)
            made[name] = tables[name]._replace(splits={"train": rows.filter(~test), "test": rows.filter(test)})
    return made


def names_of(rows: pl.DataFrame) -> list[list[bytes]]:
    """Per row what no row of the other side may have: its prompt, as far as it has one, and where it comes from."""
    names: list[list[bytes]] = [[] for _ in range(rows.height)]
    for column in (name for name in PROMPTS if name in rows.columns):
        for found, value in zip(names, rows[column].to_list(), strict=True):
            if not found and (said := first_said(value)).strip():
                found.append(PROMPT + digest(normalised(said)))
    for column in (name for name in TOGETHER if name in rows.columns):
        for found, value in zip(names, rows[column].to_list(), strict=True):
            if value:
                found.append(OTHER + digest(value))
    return names


def first_said(prompt: object) -> str:
    """A text, or the first user message of a chat, or its first message."""
    if isinstance(prompt, str):
        return prompt
    said = [one for one in prompt if one.get("content")] if isinstance(prompt, list) else []
    return str(next((one["content"] for one in said if one["role"] == "user"), said[0]["content"] if said else ""))


def tested(rows: Sequence[Sequence[bytes]], share: float) -> list[bool]:
    """Per row, given by its names, whether it is for testing. Rows that are joined by names decide together: a hash of
    the smallest one.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    number: dict[bytes, int] = {}
    row, name = np.array(
        [(place, number.setdefault(one, len(number))) for place, names in enumerate(rows) for one in names] or [(0, 0)]
    ).T
    nodes = len(rows) + max(1, len(number))
    graph = coo_matrix((np.ones(len(row), np.bool_), (row, name + len(rows))), shape=(nodes, nodes))
    group = connected_components(graph, directed=False)[1]
    smallest: dict[int, bytes] = {}
    for one, at in number.items():
        of = int(group[len(rows) + at])
        smallest[of] = min(one, smallest.get(of, one))
    drawn = {of: int.from_bytes(digest(one.hex())[:8], "big") < share * 2**64 for of, one in smallest.items()}
    return [drawn.get(int(of), False) for of in group[: len(rows)]]
