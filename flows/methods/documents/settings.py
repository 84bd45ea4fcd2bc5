"""Settings of `documents`."""

from typing import Literal

from pydantic import Field

from synthmill.flows.methods.documents.passage_questions import KINDS, Check
from synthmill.schemas.dedup_settings import DedupSettings, PublishSettings
from synthmill.schemas.document_settings import DocumentSettings
from synthmill.schemas.settings import ENGINES, EngineSettings, StageSampling
from synthmill.tasks.recipe import MOST_ATTEMPTS


class DocumentsSettings(PublishSettings):
    """One run of `documents`: documents -> passages -> questions, answers, conversations -> checks."""

    source: DocumentSettings
    dedup: DedupSettings = DedupSettings(layers=("exact", "words"))
    engines: dict[Literal["teacher", "judge"], EngineSettings] = ENGINES
    kinds: dict[str, str] = Field(KINDS, min_length=1, description="of questions: name -> what it asks for")
    per_passage: int = Field(1, ge=1, description="conversations of a passage, each beginning with another kind")
    turns: int = Field(3, ge=1, le=20, description="questions of a conversation, at most")
    checks: tuple[Check, ...] = Field(
        ("passage", "memory"),
        description="what a question must be: answered by a reader with the passage; not answered by one without",
    )
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    questions: StageSampling = StageSampling(max_tokens=512)
    instruction: str = Field(
        "Answer from this document.",
        description="the first line of the system message of training rows, before the passage; empty: none",
    )
