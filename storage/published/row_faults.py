"""What keeps a row from being trained on: what a form cannot hold, and what leaves nothing to learn from."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from synthmill.schemas.formats import Use
from synthmill.storage.published.chats import Chat, used
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.thinking import without_thinking
from synthmill.storage.published.trainer import Feature, Form

CHATS = ("messages", "prompt", "chosen", "rejected", "completion")
ANSWERS: Mapping[Use, tuple[str, ...]] = {
    "sft": ("messages",),
    "pairs": ("chosen", "rejected"),
    "reward": ("chosen", "rejected"),
    "kto": ("completion",),
}
"""The columns whose last message is learned from, by use."""
TEXTS: Mapping[Use, tuple[str, ...]] = {"triplets": ("anchor", "positive", "negative")}
NOTHING = ("", None, "[]")
EARLIER_THINKING = "thinking before an earlier answer, which many templates take away"
Row = Mapping[str, Any]
Faults = Counter[str]
VerifierFault = Callable[[str, str], str]
"""(name, arguments as JSON) -> what is wrong with a verifier; empty for nothing."""


def count_faults(
    rows: RowStream,
    use: Use,
    form: Form,
    refuses: Callable[[Chat, str | None], str],
    verifier_fault: VerifierFault,
) -> Faults:
    """How many rows have which fault. refuses: what a chat template says against a chat with its tools, if anything."""
    faults: Faults = Counter()
    for batch in rows.batches():
        chats = [name for name in CHATS if name in batch.columns]
        for row in batch.iter_rows(named=True):
            plain = {**row, **{name: [used(message) for message in row[name] or ()] for name in chats}}
            faults.update(set(faults_of(plain, use, form)) | set(template_faults(plain, chats, refuses)))
            if use == "rl" and (fault := verifier_fault(row["verifier"] or "exact", row["verifier_arguments"] or "{}")):
                faults[f"a verifier that cannot be called ({fault})"] += 1
    return faults


def faults_of(row: Row, use: Use, form: Form) -> Iterator[str]:
    """What is wrong with a row for a use in a form."""
    for feature in features_of(row, use):
        if feature not in form.holds:
            yield feature
    yield from emptiness(row, use)
    if fault := form.fault(row):
        yield fault


def features_of(row: Row, use: Use) -> Iterator[Feature]:
    """What a row has that not every trainer can hold."""
    chats = [row[name] for name in CHATS if name in row]
    messages = [message for chat in chats for message in chat]
    if row.get("tools") not in NOTHING or any(m["role"] == "tool" or m.get("tool_calls") for m in messages):
        yield "tools"
    if any(message["role"] == "system" for message in messages):
        yield "a system message"
    before = row["messages"][:-1] if use == "sft" else row.get("prompt", [])
    if sum(message["role"] != "system" for message in before) > 1:
        yield "earlier turns"
    if any(message["role"] == "assistant" for message in before[: row.get("learned_from", 0)]):
        yield "answers in the prompt, which would be learned, too"
    if any(len(message.get("tool_calls", ())) > 1 for message in messages):
        yield "several calls at once"
    if any(message.get("tool_calls") and without_thinking(message["content"]).strip() for message in messages):
        yield "text beside a call"
    if any(a["role"] == b["role"] == "tool" for chat in chats for a, b in pairwise(chat)):
        yield "several results in a row"
    if use != "sft" and any(len(row[name]) > 1 for name in ANSWERS.get(use, ())):
        yield "an answer of several messages"


def emptiness(row: Row, use: Use) -> Iterator[str]:
    """What is missing, so that there is nothing to learn from."""
    for name in ANSWERS.get(use, ()):
        if not row[name] or not is_answer(row[name][-1]):
            yield "no answer to learn from" if name in ("messages", "completion") else f"an empty {name} side"
    if "chosen" in row and row["chosen"] == row["rejected"]:
        yield "equal sides"
    if use == "kto" and row["label"] is None:
        yield "no label"
    if use != "sft" and "prompt" in row and not any(message["content"].strip() for message in row["prompt"]):
        yield "an empty prompt"
    if use == "rl" and not row["verifier"] and not row["answer"]:
        yield "neither a verifier nor an answer"
    for name in TEXTS.get(use, ()):
        if not (row[name] or "").strip():
            yield f"an empty {name}"


def is_answer(message: Row) -> bool:
    """Whether there is anything to learn from a message."""
    return message["role"] == "assistant" and bool(message["content"].strip() or message.get("tool_calls"))


def template_faults(row: Row, chats: Sequence[str], refuses: Callable[[Chat, str | None], str]) -> Iterator[str]:
    """What a chat template says against a row's conversations."""
    start = row.get("messages", row.get("prompt", []))
    ends = [row[name] for name in chats if name not in ("messages", "prompt")] or [[]]
    for end in ends if chats else ():
        if fault := refuses([*start, *end], row.get("tools")):
            yield f"the chat template refuses it ({fault})"
