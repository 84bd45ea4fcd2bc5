"""Where conversations and passages come from, for `retpo` and `rank`."""

from pydantic import Field

from synthmill.schemas.local_paths import LocalPath
from synthmill.schemas.settings import FileSettings


class TurnSettings(FileSettings):
    """Conversations: MTRAG, TopiOCQA, QReCC, BEIR queries, or rows with history, question and gold."""

    qrels: LocalPath = Field(
        "", description="relevant passages, where the rows do not name them: TREC, or TSV with a header"
    )


class CorpusSettings(FileSettings):
    """Passages: a JSONL, JSON, CSV, TSV or Parquet file with _id (or id), optional title, and text (or contents)."""
