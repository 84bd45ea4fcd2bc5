"""The stages of `documents`: passages with the kinds of their questions, conversations that are checked.

Source: docs/papers.md#documents.
"""

import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import polars as pl
from pydantic import Field

from synthmill.schemas.calls import Completion, Frozen, Request
from synthmill.schemas.document_settings import DocumentPassage
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import child_id, content_hash
from synthmill.schemas.rows import Dropped, Row
from synthmill.schemas.texts import normalised
from synthmill.tasks.frames import FrameStage, frame_schema
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_until, read_json
from synthmill.tasks.texts.languages import language_of
from synthmill.tasks.texts.words import rouge_l

KINDS = {
    "fact": "a name, a number, a date, a place, or a property of a thing",
    "reason": "the reason why something is so, or what comes of it",
    "difference": "how two things differ, or what they share",
    "procedure": "how something is done, in steps or under conditions",
}
ALIKE = 0.7  # ROUGE-L from which a question repeats one of its conversation, or its own answer
UNKNOWN = re.compile(r"\W*unknown\b", re.IGNORECASE)
NAMES_ITS_SOURCE = re.compile(
    r"\b(this|the|above|given|provided)( \w+)? (passage|text|document|article|excerpt|section|source)s?\b",
    re.IGNORECASE,
)
Check = Literal["passage", "memory"]
TEXTS = {name: {"type": "string", "maxLength": most} for name, most in (("question", 600), ("answer", 2000))}
T = TypeVar("T")
Asking = Generator[list[Request], list[Completion], T]
"""A part of a recipe's steps."""
GRADES = ("correct", "incorrect")
SCHEMA = {"type": "object", "properties": TEXTS, "required": list(TEXTS), "additionalProperties": False}


class AskedPassage(DocumentPassage):
    """A passage of which a conversation is made. kinds: those of its questions, in turn."""

    kinds: tuple[str, ...]


class Exchange(Frozen):
    """A question and its answer. from_passage, from_memory: what a reader said with the passage, and without it; empty
    where that was not looked at.
    """

    kind: str
    question: str
    answer: str
    from_passage: str = ""
    from_memory: str = ""


class GroundedConversation(Row):
    """A conversation about a passage. prompt, reference, kind: of its first question. ended: why it is shorter than it
    was to be.
    """

    prompt: str
    reference: str
    kind: str
    exchanges: tuple[Exchange, ...]
    ended: str
    passage: str
    title: str
    text: str
    source: str
    page: int


class QuestionKinds(FrameStage):
    """Passages -> `per_passage` rows of each, with the kinds of question that are asked of it: all kinds in an order
    that the passage's id gives, each row beginning with another.
    """

    name: ClassVar = "question_kinds"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "title", "text", "document")
    adds: ClassVar = tuple(AskedPassage.model_fields)

    kinds: tuple[str, ...] = Field(tuple(KINDS), min_length=1)
    per_passage: int = Field(1, ge=1)
    seed: int = 0

    def rows_per_row(self) -> int:
        return self.per_passage

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        rows = []
        for row in frame.iter_rows(named=True):
            kinds = sorted(self.kinds, key=lambda kind: content_hash([self.seed, row["id"], kind]))
            for place in range(self.per_passage):
                first = place % len(kinds)
                own = {"id": child_id(row["id"], place), "parent_id": row["id"]}
                rows.append({**row, **own, "kinds": [*kinds[first:], *kinds[:first]]})
        return pl.DataFrame(rows, frame_schema(AskedPassage)), []


class GroundedConversations(Recipe[AskedPassage, GroundedConversation]):
    """Passages -> a conversation about each, question by question. A question is kept if a reader who has the passage
    gives its answer (`passage`), and one who has not does not (`memory`); a later one that fails ends its conversation.

    Drops, of the first question: no_question (the passage allows none of that kind), bad_question (no JSON, an answer
    instead of a question, one that speaks of its source, repeats itself or changes the language), not_in_passage,
    known_without.
    """

    name: ClassVar = "grounded_conversations"
    version: ClassVar = "2"
    roles: ClassVar = ("teacher", "judge")
    prompts: ClassVar = {
        "documents/ask": ("exchanges", "about"),
        "documents/read": ("exchanges", "question", "passage"),
        "documents/compare": ("question", "answer", "other"),
    }

    kinds: dict[str, str] = KINDS
    turns: int = Field(3, ge=1, le=20)
    checks: tuple[Check, ...] = ("passage", "memory")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def needs_roles(self) -> tuple[str, ...]:
        return self.roles if self.checks else ("teacher",)

    def requests_per_row(self) -> int:
        return self.turns * (self.attempts + 2 * len(self.checks))

    def steps(self, row: AskedPassage) -> Steps[GroundedConversation]:
        exchanges: list[Exchange] = []
        ended = ""
        for turn in range(self.turns):
            try:
                exchange = yield from self.exchange(row, row.kinds[turn % len(row.kinds)], exchanges)
            except Drop as drop:
                if not exchanges:
                    raise
                ended = drop.message
                break
            exchanges.append(exchange)
        first = exchanges[0]
        return GroundedConversation.child_of(
            row,
            self.name,
            prompt=first.question,
            reference=first.answer,
            kind=first.kind,
            exchanges=tuple(exchanges),
            ended=ended,
            passage=row.parent_id,
            source=row.document,
        )

    def exchange(self, row: AskedPassage, kind: str, exchanges: Sequence[Exchange]) -> Asking[Exchange]:
        """The next question with its answer, checked. Raises Drop."""
        about = self.kinds.get(kind, kind)
        asked = load("documents/ask").render(row=row, exchanges=exchanges, about=about)
        request = Request(role="teacher", messages=asked, sampling=self.sampling, schema_=SCHEMA)
        exchange = yield from ask_until(
            request, self.attempts, lambda completion: read_exchange(completion, row.text, kind, exchanges)
        )
        if not exchange.question:
            raise Drop(f"no_question: the passage allows none of the kind {kind}")
        return (yield from self.checked(row, exchange, exchanges)) if self.checks else exchange

    def checked(self, row: AskedPassage, exchange: Exchange, exchanges: Sequence[Exchange]) -> Asking[Exchange]:
        """The exchange with what readers said. Raises Drop where one with the passage cannot, or one without can."""
        sampling = self.sampling.model_copy(update={"temperature": 0.0, "top_p": 1.0})
        question = exchange.question
        read, compare = load("documents/read"), load("documents/compare")
        completions = yield [
            Request(
                role="judge",
                messages=read.render(row=row, exchanges=exchanges, question=question, passage=check == "passage"),
                sampling=sampling,
            )
            for check in self.checks
        ]
        replies = {check: completion.text.strip() for check, completion in zip(self.checks, completions, strict=True)}
        known = [check for check, text in replies.items() if text and not UNKNOWN.match(text)]
        verdicts = yield [
            Request(
                role="judge",
                messages=compare.render(question=question, answer=exchange.answer, other=replies[check]),
                sampling=sampling,
                choice=GRADES,
            )
            for check in known
        ]
        same = {check for check, verdict in zip(known, verdicts, strict=True) if is_correct(verdict)}
        if "passage" in replies and "passage" not in same:
            raise Drop(f"not_in_passage: a reader with the passage said {replies['passage'][:200]!r}")
        if "memory" in same:
            raise Drop(f"known_without: a reader without the passage said {replies['memory'][:200]!r}")
        return exchange.model_copy(update={f"from_{check}": text for check, text in replies.items()})


def read_exchange(completion: Completion, passage: str, kind: str, exchanges: Sequence[Exchange]) -> Exchange:
    """What the teacher wrote, both empty where it says that there is no such question. Raises Drop."""
    fields = read_json(completion, "bad_question")
    question, answer = (fields.get(name) for name in TEXTS)
    if not isinstance(question, str) or not isinstance(answer, str):
        raise Drop("bad_question: it had no texts `question` and `answer`")
    question, answer = question.strip(), answer.strip()
    if not question and not answer:
        return Exchange(kind=kind, question="", answer="")
    if not question or not answer:
        raise Drop("bad_question: one of `question` and `answer` is empty; write both, or leave both empty")
    if not exchanges and (source := NAMES_ITS_SOURCE.search(question)):
        raise Drop(f"bad_question: it speaks of {source[0]!r}, which the person has never seen")
    if normalised(answer) in normalised(question) or rouge_l(question, answer) >= ALIKE:
        raise Drop("bad_question: the question holds its answer; ask for it instead")
    if answer.endswith(("?", "？")):
        raise Drop("bad_question: the answer is a question, too; answer it")
    if any(rouge_l(question, earlier.question) >= ALIKE for earlier in exchanges):
        raise Drop("bad_question: it was asked before; ask for something else")
    languages = {language_of(text) for text in (passage, question, answer)} - {""}
    if len(languages) > 1:
        raise Drop(f"bad_question: it mixes languages ({', '.join(sorted(languages))}); keep to the document's")
    return Exchange(kind=kind, question=question, answer=answer)


def is_correct(completion: Completion) -> bool:
    return completion.text.strip().strip(".\"'").casefold().startswith(GRADES[0])
