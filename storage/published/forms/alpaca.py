"""Alpaca's `instruction` and `output`."""

from typing import Any

import polars as pl

from synthmill.storage.published.chats import Chat, chats_in
from synthmill.storage.published.configurations import Kind
from synthmill.storage.published.forms.messages import Frame, last_content, provenance_of, sft, tools_of
from synthmill.storage.published.forms.sharegpt import turns_of

TEXTS = ("instruction", "input", "output", "system")


def alpaca(rows: Frame, kind: Kind) -> Frame:
    """`instruction`, `input` (empty), `output`, `system`, and `history` of earlier (prompt, answer); a preference has
    `chosen` and `rejected` in the place of `output`.
    """
    chats = sft(rows, kind)
    schema = {**dict.fromkeys(TEXTS, pl.String()), "history": pl.List(pl.List(pl.String))}
    columns = pl.DataFrame([alpaca_row(chat) for chat in chats_in(chats["messages"])], schema=schema)
    instructions = chats.select(*provenance_of(chats), *tools_of(chats)).hstack(columns)
    if kind == "preferences":
        return instructions.drop("output").with_columns(
            **{side: rows.select(last_content(side)).to_series() for side in ("chosen", "rejected")}
        )
    return instructions


def alpaca_row(messages: Chat) -> dict[str, Any]:
    system = "\n\n".join(turn["content"] for turn in messages if turn["role"] == "system")
    exchanges: list[list[str]] = []
    for turn in turns_of([turn for turn in messages if turn["role"] != "system"]):
        is_prompt = turn["from"] in ("human", "observation")
        if is_prompt and (not exchanges or exchanges[-1][1]):
            exchanges.append([turn["value"], ""])
            continue
        if not exchanges:
            exchanges.append(["", ""])
        place = 0 if is_prompt else 1
        exchanges[-1][place] = "\n\n".join(filter(None, (exchanges[-1][place], turn["value"])))
    final = exchanges.pop() if exchanges else ["", ""]
    return {"instruction": final[0], "input": "", "output": final[1], "system": system, "history": exchanges}
