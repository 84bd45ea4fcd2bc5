"""Documents that become passages: settings, and the row of a passage."""

from typing import Self

from pydantic import Field, model_validator

from synthmill.schemas.retpo import Passage
from synthmill.schemas.settings import FileSettings


class DocumentSettings(FileSettings):
    """Documents: a Markdown, text, HTML or PDF file, or a folder of them, with its subfolders."""

    window: int = Field(
        256, ge=16, description="tokens of a passage at most: words, signs, letters of scripts without spaces"
    )
    overlap: int = Field(32, ge=0, description="tokens, in whole sentences, that a passage repeats of the one before")
    fewest: int = Field(16, ge=1, description="tokens of a passage at least; shorter: dropped as short_passage")

    @model_validator(mode="after")
    def check(self) -> Self:
        if not self.overlap < self.window or not self.fewest <= self.window:
            raise ValueError(f"overlap ({self.overlap}) and fewest ({self.fewest}) must fit into window, {self.window}")
        return self


class DocumentPassage(Passage):
    """A passage of a document. document: its file, within the folder; headings: from the outermost to the nearest;
    page: where it begins in a PDF, from 1, else 0.
    """

    document: str
    headings: tuple[str, ...] = ()
    page: int = 0
    tokens: int = 0
