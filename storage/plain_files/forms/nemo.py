"""NeMo-RL: `context` (messages) and `completions`, ranked: [{rank, completion: messages}], the lowest rank is the best.

Source: NeMo-RL's PreferenceDataset. Two completions of different ranks are a pair.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_messages import chat_of, list_in, tools_of
from synthmill.storage.plain_files.chat_rows import ChatRow
from synthmill.storage.plain_files.forms import Form
from synthmill.storage.plain_files.forms.trl import messages_of


def read(fields: Mapping[str, Any], padded: bool) -> ChatRow:
    lost: dict[str, None] = {}
    context = messages_of(fields["context"], "context", "user", lost, padded)
    answers, ranks = [], []
    for entry in list_in(fields["completions"], "completions"):
        rank = entry.get("rank") if isinstance(entry, Mapping) else None
        if isinstance(rank, bool) or not isinstance(rank, int | float):
            raise Drop(f"bad_completions: an entry is {entry!r:.60}; expected {{rank, completion}}")
        answers.append(chat_of(entry.get("completion"), "completion", lost, padded=padded))
        ranks.append(rank)
    tools = tools_of(fields.get("tools"), padded=padded)
    if len(answers) == 2 and ranks[0] != ranks[1]:
        pair = answers if ranks[0] < ranks[1] else answers[::-1]
        return ChatRow("preference", context, pair, tools=tools, lost=tuple(lost))
    return ChatRow("ranking", context, answers, ranks, tools=tools, lost=tuple(lost))


FORM = Form("nemo", (frozenset({"context", "completions"}),), frozenset({"context", "completions", "tools"}), read)
