"""Small tables of every kind, and their exports for a trainer."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import polars as pl

from synthmill.schemas.export_settings import ExportSettings
from synthmill.schemas.formats import Use
from synthmill.storage.published.chats import chat_column, message_fields
from synthmill.storage.published.configurations import Content, Kind, Table
from synthmill.storage.published.for_trainer import Exported, tables_for
from synthmill.storage.published.json_lines import json_lines

Message = Mapping[str, Any]
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
TOOLS = json.dumps([LOOK])


def turn(role: str, content: str, **others: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **others}


def calling(*places: str, text: str = "") -> dict[str, Any]:
    """An answer that calls a tool once for each place."""
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "look", "arguments": json.dumps({"at": place})}}
        for n, place in enumerate(places)
    ]
    return turn("assistant", text, tool_calls=calls)


def result(content: str, n: int = 0) -> dict[str, Any]:
    return turn("tool", content, tool_call_id=f"c{n}")


SYSTEM, ASK, ANSWER = turn("system", "Be brief."), turn("user", "Where is it?"), turn("assistant", "Here.")
ONE_CALL = [SYSTEM, ASK, calling("x"), result("seen"), ANSWER]
TWO_CALLS = [ASK, calling("x", "y"), result("seen", 0), result("not seen", 1), ANSWER]
BESIDE = [ASK, calling("x", text="I look."), result("seen"), ANSWER]
PLAIN = [SYSTEM, ASK, ANSWER, turn("user", "Sure?"), turn("assistant", "Yes.")]


def chats(*conversations: Sequence[Message], tools: str | None = None) -> Table:
    """Conversations; with tools, if any."""
    fields = message_fields({name: None for chat in conversations for message in chat for name in message})
    frame = pl.DataFrame({"id": [f"chat{n}" for n in range(len(conversations))]})
    frame = frame.with_columns(chat_column("messages", conversations, fields))
    return Table.of(frame if tools is None else frame.with_columns(tools=pl.lit(tools)), "conversations", "a chat")


def answers(kind: Kind, prompt: Sequence[Message], **sides: Sequence[Message] | bool) -> Table:
    """One row with a prompt and answers."""
    lists = {"prompt": prompt, **{name: value for name, value in sides.items() if not isinstance(value, bool)}}
    columns = [
        chat_column(name, [chat], message_fields({field: None for message in chat for field in message}))
        for name, chat in lists.items()
    ]
    others = {name: pl.lit(value) for name, value in sides.items() if isinstance(value, bool)}
    return Table.of(pl.DataFrame({"id": ["row"]}).with_columns(*columns, **others), kind, "a row")


PAIR = answers("preferences", [SYSTEM, ASK], chosen=[ANSWER], rejected=[turn("assistant", "Somewhere.")])
PAIR_WITH_TOOLS = Table.of(PAIR.rows.frame().with_columns(tools=pl.lit(TOOLS)), "preferences", "a row")
COMPLETION = answers("completions", PLAIN[:-1], completion=[PLAIN[-1]])
RL = Table.of(
    pl.DataFrame(
        {
            "id": ["sum"],
            "prompt": ["2 + 2?"],
            "answer": ["4"],
            "verifier": ["verify:math"],
            "verifier_arguments": ['{"strict": true}'],
            "data_source": ["sums"],
            "pass_rate": [0.5],
        }
    ),
    "rl",
    "a prompt",
)


def exported(trainer: str, table: Table, *uses: Use, **settings: Any) -> Exported:
    return tables_for({"t": table}, ExportSettings(to="out", trainer=trainer, uses=uses, **settings))


def lines_of(trainer: str, table: Table, *uses: Use, **settings: Any) -> list[Any]:
    """The lines of the one file of lines."""
    [made] = exported(trainer, table, *uses, **settings).tables.values()
    return [
        orjson.loads(line) for line in b"".join(json_lines(made.rows.batches(), made.lines, made.objects)).splitlines()
    ]


def whole(content: Content) -> bytes:
    return content if isinstance(content, bytes) else b"".join(content())
