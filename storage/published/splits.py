"""Training and test rows that share no prompt: by content, so that a row stays where it is when others are added."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from schemas.hashing import digest
from schemas.texts import normalised
from storage.published.folder import Table, as_message
from storage.published.row_streams import RowStream

Array = np.ndarray[Any, np.dtype[Any]]
TOGETHER = ("id", "parent_id", "conversation", "prompt_id")
"""Columns whose equal values, in any of them and in any configuration, are of rows that belong together."""
PROMPTS = ("prompt", "messages", "history", "pseudo_input", "question", "input", "anchor")
"""Where a row's prompt is: in the first of these that says something."""
PROMPT, OTHER = b"0", b"1"


NAME_BYTES = 17  # the letter of its kind, and a hash


class Names(NamedTuple):
    """What no row of the other side may have. row: (names,) places of rows; name: (names,) bytes; a row may have none
    or several.
    """

    row: Array
    name: Array


def split_by_prompt(tables: Mapping[str, Table], share: float) -> dict[str, Table]:
    """The tables with about `share` of their prompts in a split `test`, and what is tested anywhere trained on nowhere.

    Rows with the same first user message, the same parent or the same conversation, and the rows that those share one
    with, are on the same side, through all configurations. A configuration without training rows stays as it is.
    """
    if not share:
        return dict(tables)
    places = [(name, split, rows) for name, table in tables.items() for split, rows in table.splits.items()]
    names = [names_of(rows) for _, _, rows in places]
    heights = [rows.height for _, _, rows in places]
    flags = tested(names, heights, [split == "test" for _, split, _ in places], share)
    sides: dict[str, dict[str, list[RowStream]]] = {name: {} for name in tables}
    for (name, split, rows), test in zip(places, np.split(flags, np.cumsum(heights)[:-1]), strict=True):
        if split != "train":
            sides[name].setdefault(split, []).append(rows)
            continue
        sides[name].setdefault("train", []).append(rows.where(pl.Series(~test)))
        sides[name].setdefault("test", []).append(rows.where(pl.Series(test)))
    return {
        name: replace(tables[name], splits={split: RowStream.chained(streams) for split, streams in splits.items()})
        for name, splits in sides.items()
    }


def names_of(rows: RowStream) -> Names:
    """Per row its prompt, as far as it has one, and where it comes from."""
    prompts = [name for name in PROMPTS if name in rows.columns]
    origins = [name for name in TOGETHER if name in rows.columns]
    places: list[Array] = []
    names: list[Array] = []
    start = 0
    for batch in rows.batches(list(dict.fromkeys([*prompts, *origins]))) if prompts or origins else ():
        at, hashes = [], []
        for place, values in enumerate(zip(*(batch[column].to_list() for column in prompts), strict=True)):
            text = next((text for value in values if (text := first_said(value)).strip()), None)
            if text is not None:
                at.append(start + place)
                hashes.append(PROMPT + digest(normalised(text)))
        for column in origins:
            for place, value in enumerate(batch[column].to_list()):
                if value:
                    at.append(start + place)
                    hashes.append(OTHER + digest(value))
        places.append(np.array(at, np.int64))
        names.append(np.array(hashes, f"S{NAME_BYTES}"))
        start += batch.height
    return Names(
        np.concatenate([np.zeros(0, np.int64), *places]), np.concatenate([np.zeros(0, f"S{NAME_BYTES}"), *names])
    )


def first_said(prompt: object) -> str:
    """A text, or the first user message of a chat, or its first message."""
    if isinstance(prompt, str):
        return prompt
    chat = map(as_message, prompt) if isinstance(prompt, list) else ()
    said = [one for one in chat if one.get("content")]
    return str(next((one["content"] for one in said if one["role"] == "user"), said[0]["content"] if said else ""))


def tested(names: Sequence[Names], heights: Sequence[int], are_tests: Sequence[bool], share: float) -> Array:
    """Per row of all tables, one after the other, whether it is for testing. Rows that are joined by names decide
    together: a test row among them, or a hash of the smallest name. are_tests: tables whose rows are for testing.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    starts = np.cumsum([0, *heights])
    rows = int(starts[-1])
    row = np.concatenate(
        [np.zeros(0, np.int64), *(some.row + start for some, start in zip(names, starts[:-1], strict=True))]
    )
    distinct, name = np.unique(
        np.concatenate([np.zeros(0, f"S{NAME_BYTES}"), *(n.name for n in names)]), return_inverse=True
    )
    nodes = rows + len(distinct)
    graph = coo_matrix((np.ones(len(row), np.bool_), (row, name + rows)), shape=(nodes, nodes))
    groups = connected_components(graph, directed=False)[1] if nodes else np.zeros(0, np.int64)
    drawn = np.zeros(nodes, np.bool_)  # by group: there are no more of these than nodes
    owners, smallest = np.unique(groups[rows:], return_index=True)  # names are sorted: a group's first is its smallest
    for group, at in zip(owners.tolist(), smallest.tolist(), strict=True):
        hashed = digest(distinct[at].ljust(NAME_BYTES, b"\0").hex())
        drawn[group] = int.from_bytes(hashed[:8], "big") < share * 2**64
    for start, height, is_test in zip(starts[:-1], heights, are_tests, strict=True):
        drawn[groups[start : start + height][np.full(height, is_test)]] = True
    flags: Array = drawn[groups[:rows]]
    return flags
