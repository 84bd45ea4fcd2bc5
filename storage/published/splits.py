"""Training and test rows that share no prompt. Content decides, so that a row keeps its side when others are added."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from synthmill.schemas.hashing import digest
from synthmill.schemas.texts import normalised
from synthmill.storage.published.chats import as_message
from synthmill.storage.published.configurations import Table
from synthmill.storage.published.row_streams import RowStream

Array = np.ndarray[Any, np.dtype[Any]]
TOGETHER = ("id", "parent_id", "conversation", "prompt_id")
"""Rows with an equal value in any of these columns, in any configuration, belong together."""
PROMPTS = ("prompt", "messages", "history", "pseudo_input", "question", "input", "anchor")
"""Columns of a row's prompt: the first of these with a text."""
PROMPT, OTHER = b"0", b"1"
NAME_BYTES = 17  # the letter of its kind, and a hash


class RowNames(NamedTuple):
    """Names that rows of one side may not share with the other. row: (names,) places of rows; name: (names,) bytes; a
    row may have none or several.
    """

    row: Array
    name: Array


def split_by_prompt(tables: Mapping[str, Table], share: float) -> dict[str, Table]:
    """Move about `share` of the prompts into a split `test`; no configuration trains on what another tests.

    Rows with the same first user message, parent or conversation are on the same side, and so, through all
    configurations, are the rows that share one with these. A configuration without training rows stays as it is.
    """
    if not share:
        return dict(tables)
    places = [(name, split, rows) for name, table in tables.items() for split, rows in table.splits.items()]
    names = [names_of(rows) for _, _, rows in places]
    heights = [rows.height for _, _, rows in places]
    flags = flag_test_rows(names, heights, [split == "test" for _, split, _ in places], share)
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


def names_of(rows: RowStream) -> RowNames:
    """Per row, a name for its prompt, if it has one, and names for its origins."""
    prompts = [name for name in PROMPTS if name in rows.columns]
    origins = [name for name in TOGETHER if name in rows.columns]
    places: list[Array] = []
    names: list[Array] = []
    start = 0
    for batch in rows.batches(list(dict.fromkeys([*prompts, *origins]))) if prompts or origins else ():
        row_places, hashes = [], []
        for place, values in enumerate(zip(*(batch[column].to_list() for column in prompts), strict=True)):
            text = next((text for value in values if (text := first_user_text(value)).strip()), None)
            if text is not None:
                row_places.append(start + place)
                hashes.append(PROMPT + digest(normalised(text)))
        for column in origins:
            for place, value in enumerate(batch[column].to_list()):
                if value:
                    row_places.append(start + place)
                    hashes.append(OTHER + digest(value))
        places.append(np.array(row_places, np.int64))
        names.append(np.array(hashes, f"S{NAME_BYTES}"))
        start += batch.height
    return RowNames(
        np.concatenate([np.zeros(0, np.int64), *places]), np.concatenate([np.zeros(0, f"S{NAME_BYTES}"), *names])
    )


def first_user_text(prompt: object) -> str:
    """The text, or the text of a chat's first user message, else of its first message."""
    if isinstance(prompt, str):
        return prompt
    chat = map(as_message, prompt) if isinstance(prompt, list) else ()
    messages = [message for message in chat if message.get("content")]
    user_texts = (message["content"] for message in messages if message["role"] == "user")
    return str(next(user_texts, messages[0]["content"] if messages else ""))


def flag_test_rows(
    tables: Sequence[RowNames], heights: Sequence[int], are_tests: Sequence[bool], share: float
) -> Array:
    """Per row of all tables in order, whether it is for testing. Rows joined by names form a group, which is for
    testing if a row of it is, or by a hash of its smallest name. are_tests: which tables are for testing.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    starts = np.cumsum([0, *heights])
    total = int(starts[-1])
    rows = np.concatenate(
        [np.zeros(0, np.int64), *(table.row + start for table, start in zip(tables, starts[:-1], strict=True))]
    )
    names, node = np.unique(
        np.concatenate([np.zeros(0, f"S{NAME_BYTES}"), *(table.name for table in tables)]), return_inverse=True
    )
    nodes = total + len(names)
    graph = coo_matrix((np.ones(len(rows), np.bool_), (rows, node + total)), shape=(nodes, nodes))
    groups = connected_components(graph, directed=False)[1] if nodes else np.zeros(0, np.int64)
    is_test_group = np.zeros(nodes, np.bool_)  # by group: there are no more groups than nodes
    owners, smallest = np.unique(groups[total:], return_index=True)  # names are sorted: a group's first is its smallest
    for group, place in zip(owners.tolist(), smallest.tolist(), strict=True):
        hashed = digest(names[place].ljust(NAME_BYTES, b"\0").hex())
        is_test_group[group] = int.from_bytes(hashed[:8], "big") < share * 2**64
    for start, height, is_test in zip(starts[:-1], heights, are_tests, strict=True):
        is_test_group[groups[start : start + height][np.full(height, is_test)]] = True
    flags: Array = is_test_group[groups[:total]]
    return flags
