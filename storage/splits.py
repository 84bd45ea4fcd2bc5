"""Training and test rows that share no prompt: by content, so that a row stays where it is when others are added."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from schemas.hashing import digest
from schemas.texts import normalised
from storage.dataset_folder import Table, as_message

TOGETHER = ("id", "parent_id", "conversation", "prompt_id")
"""Columns whose equal values, in any of them and in any configuration, are of rows that belong together."""
PROMPTS = ("prompt", "messages", "history", "pseudo_input", "question", "input", "anchor")
"""Where a row's prompt is: in the first of these that says something."""
PROMPT, OTHER = b"0", b"1"


def split_by_prompt(tables: Mapping[str, Table], share: float) -> dict[str, Table]:
    """The tables with about `share` of their prompts in a split `test`, and what is tested anywhere trained on nowhere.

    Rows with the same first user message, the same parent or the same conversation, and the rows that those share one
    with, are on the same side, through all configurations. A configuration without training rows stays as it is.
    """
    if not share:
        return dict(tables)
    places = [(name, split, rows) for name, table in tables.items() for split, rows in table.splits.items()]
    names = [(names_of(rows), split == "test") for _, split, rows in places]
    side = iter(tested([(one, is_test) for some, is_test in names for one in some], share))
    made: dict[str, dict[str, list[pl.DataFrame]]] = {name: {} for name in tables}
    for name, split, rows in places:
        test = pl.Series([next(side) for _ in range(rows.height)], dtype=pl.Boolean)
        if split != "train":
            made[name].setdefault(split, []).append(rows)
            continue
        made[name].setdefault("train", []).append(rows.filter(~test))
        made[name].setdefault("test", []).append(rows.filter(test))
    return {
        name: tables[name]._replace(splits={split: pl.concat(frames) for split, frames in splits.items()})
        for name, splits in made.items()
    }


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
    chat = map(as_message, prompt) if isinstance(prompt, list) else ()
    said = [one for one in chat if one.get("content")]
    return str(next((one["content"] for one in said if one["role"] == "user"), said[0]["content"] if said else ""))


def tested(rows: Sequence[tuple[Sequence[bytes], bool]], share: float) -> list[bool]:
    """Per row, given by its names and whether it is a test row already, whether it is for testing. Rows that are joined
    by names decide together: a test row among them, or a hash of the smallest name.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    number: dict[bytes, int] = {}
    row, name = np.array(
        [(at, number.setdefault(one, len(number))) for at, (names, _) in enumerate(rows) for one in names] or [(0, 0)]
    ).T
    nodes = len(rows) + max(1, len(number))
    graph = coo_matrix((np.ones(len(row), np.bool_), (row, name + len(rows))), shape=(nodes, nodes))
    group = connected_components(graph, directed=False)[1]
    smallest: dict[int, bytes] = {}
    for one, at in number.items():
        of = int(group[len(rows) + at])
        smallest[of] = min(one, smallest.get(of, one))
    drawn = {of: int.from_bytes(digest(one.hex())[:8], "big") < share * 2**64 for of, one in smallest.items()}
    drawn |= {int(group[at]): True for at, (_, is_test) in enumerate(rows) if is_test}
    return [drawn.get(int(of), False) for of in group[: len(rows)]]
