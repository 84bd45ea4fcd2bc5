"""Chats as columns: the same fields in every message, whatever the rows were made from."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmill.storage.published.chats import FIELDS, Message, chat_column, chats_in, message_fields, with_json_messages
from synthmill.storage.published.configurations import Table

TEXT = st.text(max_size=5)
CALL = st.fixed_dictionaries(
    {
        "id": TEXT,
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": TEXT, "arguments": st.dictionaries(TEXT, st.integers() | TEXT, max_size=2).map(json.dumps)}
        ),
    }
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"]), "content": TEXT},
    optional={"reasoning_content": TEXT, "tool_calls": st.lists(CALL, min_size=1, max_size=2), "tool_call_id": TEXT},
)
CHATS = st.lists(st.lists(MESSAGE, min_size=1, max_size=3), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(CHATS)
def test_a_column_gives_back_the_messages_it_was_made_of(chats: list[list[Message]]) -> None:
    fields = message_fields({name: None for chat in chats for message in chat for name in message})
    assert chats_in(chat_column("messages", chats, fields)) == chats


@settings(max_examples=25, deadline=None)
@given(CHATS)
def test_datasets_of_before_are_read_as_columns(chats: list[list[Message]]) -> None:
    texts = pl.DataFrame(
        {"id": list(map(str, range(len(chats)))), "messages": [list(map(json.dumps, c)) for c in chats]}
    )
    rows = Table.of(texts, "conversations", "").rows
    assert rows.frame().schema == rows.schema and rows.columns == ["id", "messages"]
    kept = [[{k: v for k, v in m.items() if v or k in ("role", "content")} for m in chat] for chat in chats]
    read = [
        [{k: v for k, v in m.items() if v or k in ("role", "content")} for m in c]
        for c in chats_in(rows.frame()["messages"])
    ]
    assert read == kept


@pytest.mark.parametrize("texts", [["not JSON"], ['{"no": "message"}'], ["[1]"], []])
def test_lists_of_other_texts_stay_as_they_are(texts: list[str]) -> None:
    frame = pl.DataFrame({"messages": [texts, texts]}, schema={"messages": pl.List(pl.String)})
    assert Table.of(frame, "other", "").rows.frame().equals(frame)


def test_a_message_without_a_text_has_an_empty_one() -> None:
    column = pl.Series("messages", [[{"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}]])
    assert chats_in(column) == [[{"role": "assistant", "content": "", "tool_calls": [{"id": "c"}]}]]


def test_arguments_become_objects_only_where_messages_may_call() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    chat: list[Message] = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    column = chat_column("messages", [chat], ("role", "content", "tool_calls"))
    plain = chat_column("prompt", [[{"role": "user", "content": "x"}]], ("role", "content"))
    rows = with_json_messages(pl.DataFrame([column, plain]), ("messages", "prompt"))
    [[message]] = rows["messages"].to_list()
    assert json.loads(message)["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert rows.schema["prompt"] == plain.dtype and list(FIELDS)[:2] == ["role", "content"]
