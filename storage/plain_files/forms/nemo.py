"""NeMo-RL: `context` (messages) and `completions`, ranked: [{rank, completion: messages}], the lowest rank is the best.

Source: NeMo-RL's PreferenceDataset. Two completions of different ranks are a pair.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_messages import ChatReader, list_in
from synthmill.storage.plain_files.chat_rows import ChatRow
from synthmill.storage.plain_files.forms import Form


def read(fields: Mapping[str, Any], reader: ChatReader) -> ChatRow:
    tools = reader.tools(fields.get("tools"))
    context = reader.texts_or_chat(fields["context"], "context", "user")
    answers, ranks = [], []
    for entry in list_in(fields["completions"], "completions"):
        rank = entry.get("rank") if isinstance(entry, Mapping) else None
        if isinstance(rank, bool) or not isinstance(rank, int | float):
            raise Drop(f"bad_completions: an entry is {entry!r:.60}; expected {{rank, completion}}")
        answers.append(reader.texts_or_chat(entry.get("completion"), "completion", "assistant"))
        ranks.append(rank)
    if len(answers) == 2 and ranks[0] != ranks[1]:
        return ChatRow("preference", context, answers if ranks[0] < ranks[1] else answers[::-1], tools=tools)
    return ChatRow("ranking", context, answers, ranks, tools=tools)


FORM = Form("nemo", (frozenset({"context", "completions"}),), frozenset({"context", "completions", "tools"}), read)
