"""Text files: a section per paragraph, read line by line."""

from collections.abc import Iterator
from pathlib import Path

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.documents.windows import Section


def text_sections(path: Path) -> Iterator[Section | Drop]:
    """The paragraphs of a file, which empty lines part. Raises Drop for one that is not UTF-8."""
    lines: list[str] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if not line.strip() and lines:
                    yield Section((), "".join(lines) + "\n")
                    lines = []
                elif line.strip():
                    lines.append(line)
    except UnicodeDecodeError as error:
        raise Drop(f"not_utf8: {error.reason} at byte {error.start}") from error
    if lines:
        yield Section((), "".join(lines))
