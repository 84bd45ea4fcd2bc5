"""Markdown: the source between two headings, as it is written."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from synthmill.schemas.errors import Drop, MissingExtra
from synthmill.storage.plain_files.documents.windows import Section

FRONT_MATTER = re.compile(r"---\n.*?\n(---|\.\.\.)\n", re.DOTALL)


def markdown_sections(path: Path) -> Iterator[Section | Drop]:
    """A section per heading, outside of lists, quotes and code; front matter is left out.

    Raises Drop for a file that is not UTF-8, MissingExtra without markdown-it-py.
    """
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise MissingExtra(f"{path} needs markdown-it-py; `pip install 'synthmill[documents]'`") from error
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Drop(f"not_utf8: {error.reason} at byte {error.start}") from error
    if front := FRONT_MATTER.match(text):
        text = text[front.end() :]
    lines = text.splitlines(keepends=True)
    headings: tuple[str, ...] = ()
    begin = 0
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for token, content in itertools.pairwise(tokens):
        if token.type != "heading_open" or token.level or token.map is None:
            continue
        yield from section(headings, lines[begin : token.map[0]])
        headings = under(headings, int(token.tag[1]), plain(content.children or []))
        begin = token.map[1]
    yield from section(headings, lines[begin:])


def section(headings: tuple[str, ...], lines: list[str]) -> Iterator[Section]:
    text = "".join(lines).strip()
    if text:
        yield Section(headings, text)


def plain(children: list) -> str:  # type: ignore[type-arg]
    """The text of a heading without its marks."""
    return "".join(child.content for child in children if child.type in ("text", "code_inline"))


def under(headings: tuple[str, ...], level: int, heading: str) -> tuple[str, ...]:
    """The headings over what follows a heading of a level, 1 to 6; levels that were left out are empty."""
    above = (*headings[: level - 1], *[""] * (level - 1 - len(headings)))
    return (*above, heading)
