"""What `documents` publishes: conversations, their turns, and the passages that `retpo` searches."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from synthmill.schemas.artifacts import Manifest
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.documents import DOCUMENTS
from synthmill.storage.published.configurations import Dataset, Figure, Table
from synthmill.storage.published.rows import KEPT, stream_of

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
TEXTS = ("id", "parent_id", "conversation", "question", "answer", "topic", "turn_type", "source")
TURNS: dict[str, Any] = {**dict.fromkeys(TEXTS, pl.String), "turn": pl.Int64, "history": MESSAGES}
TURNS["gold"] = pl.List(pl.String)


def documents_dataset(store: Store, manifests: Mapping[str, Manifest], instruction: str) -> Dataset:
    """Conversations, their turns with the gold passage, and all passages: what `retpo` reads."""
    rows = stream_of(store, manifests["unique_rows"]).filter(KEPT)
    passages = stream_of(store, manifests[DOCUMENTS.stage])
    return Dataset(
        "Documents",
        "Conversations about the passages of documents, each question checked against its passage.",
        {
            "sft": Table.of(
                rows.map(lambda frame: conversations(frame, instruction)),
                "conversations",
                "a conversation about a passage, which the system message holds",
            ),
            "turns": Table.of(
                rows.map(turns, same_height=False), "other", "a question with its gold passage, for retpo"
            ),
            "passages": Table.of(passages, "other", "a passage of the documents: retpo's corpus"),
        },
        figures=[Figure("Questions by kind", ("kind", "questions"), kind_counts(rows.frame(["exchanges"])))],
    )


def chat_of(exchanges: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Questions and answers as messages."""
    sides = (("user", "question"), ("assistant", "answer"))
    return [{"role": role, "content": exchange[name]} for exchange in exchanges for role, name in sides]


def conversations(rows: pl.DataFrame, instruction: str) -> pl.DataFrame:
    """A chat per row, after a system message with the passage, where there is an instruction."""
    messages = []
    for row in rows.iter_rows(named=True):
        system = f"{instruction}\n\n{row['title']}\n\n{row['text']}"
        before = [{"role": "system", "content": system}] if instruction else []
        messages.append([*before, *chat_of(row["exchanges"])])
    kept = ("id", "parent_id", "kind", "ended", "passage", "source", "page")
    return rows.select(*kept, pl.Series("messages", messages, MESSAGES))


def turns(rows: pl.DataFrame) -> pl.DataFrame:
    """A row per question, as `retpo` reads turns."""
    questions = [
        {
            "id": f"{row['id']}-{number}",
            "parent_id": row["id"],
            "conversation": row["id"],
            "turn": number,
            "history": chat_of(row["exchanges"][: number - 1]),
            "question": exchange["question"],
            "gold": [row["passage"]],
            "answer": exchange["answer"],
            "topic": row["title"],
            "turn_type": exchange["kind"],
            "source": row["source"],
        }
        for row in rows.iter_rows(named=True)
        for number, exchange in enumerate(row["exchanges"], 1)
    ]
    return pl.DataFrame(questions, TURNS)


def kind_counts(rows: pl.DataFrame) -> tuple[tuple[str, str], ...]:
    exchanges = rows["exchanges"].explode(empty_as_null=False)
    if exchanges.is_empty():
        return ()
    counts = exchanges.struct.field("kind").value_counts().sort("kind")
    return tuple((kind, f"{count:,}") for kind, count in counts.rows())
