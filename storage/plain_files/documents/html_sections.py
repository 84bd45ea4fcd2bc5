"""HTML: the visible text of a page's body, by its headings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synthmill.schemas.errors import Drop, MissingExtra
from synthmill.storage.plain_files.documents.markdown_sections import under
from synthmill.storage.plain_files.documents.windows import Section

HIDDEN = ("script", "style", "template", "noscript", "nav", "svg", "form", "button", "iframe", "head")
INLINE = frozenset(
    "a abbr b bdi bdo cite code data del dfn em font i ins kbd label mark q s samp small span strong sub sup time tt u "  # noqa: SIM905
    "var wbr".split()
)
CELLS = ("td", "th")
HEADING = re.compile(r"h([1-6])")


def html_sections(path: Path) -> Iterator[Section | Drop]:
    """A section per heading of the page's main part, or its body; without menus, forms and what is not shown. Raises
    MissingExtra without beautifulsoup4.
    """
    try:
        from bs4 import BeautifulSoup
    except ImportError as error:
        raise MissingExtra(f"{path} needs beautifulsoup4; `pip install 'synthmill[documents]'`") from error
    page = BeautifulSoup(path.read_bytes(), "html.parser")
    main = page.find("main") or page.find("article") or page.body or page
    headings: tuple[str, ...] = ()
    lines: list[str] = [""]
    for level, text in blocks(main):
        if level:
            yield from whole(headings, lines)
            headings, lines = under(headings, level, text), [""]
        else:
            lines.append(text)
    yield from whole(headings, lines)


def blocks(element: Any) -> Iterator[tuple[int, str]]:
    """(level of a heading, or 0; text) of what stands on lines of its own, in order; cells of a row share a line."""
    run: list[str] = []

    def flush() -> Iterator[tuple[int, str]]:
        text = " ".join("".join(run).split())
        run.clear()
        if text:
            yield 0, text

    for child in element.children:
        name = child.name
        if name is None:
            if type(child).__name__ in ("NavigableString", "CData"):
                run.append(str(child))
        elif name in HIDDEN:
            continue
        elif name == "br" or (name not in INLINE and name != "img"):
            yield from flush()
            yield from block(child)
        else:
            run.append(inner_text(child))
    yield from flush()


def block(child: Any) -> Iterator[tuple[int, str]]:
    """What one block element holds."""
    if heading := HEADING.fullmatch(child.name):
        text = " ".join(child.get_text().split())
        if text:
            yield int(heading[1]), text
    elif child.name == "pre":
        yield 0, child.get_text()
    elif child.name == "table":
        yield 0, " ".join(caption.get_text() for caption in child.find_all("caption"))
        yield from ((0, row_text(row)) for row in child.find_all("tr"))
    else:
        yield from blocks(child)


def row_text(row: Any) -> str:
    """The cells of a table's row. A row or a cell that is not closed holds those behind it, which do not count."""
    return " | ".join(cell_text(cell) for cell in row.find_all(CELLS) if cell.find_parent("tr") is row)


def cell_text(cell: Any) -> str:
    own = (str(text) for text in cell.find_all(string=True) if text.find_parent(CELLS) is cell)
    return " ".join("".join(own).split())


def inner_text(element: Any) -> str:
    """The text of an element within a line, without what is not shown."""
    for hidden in element.find_all(HIDDEN):
        hidden.extract()
    return str(element.get_text())


def whole(headings: tuple[str, ...], lines: list[str]) -> Iterator[Section]:
    text = "\n".join(lines).strip()
    if text:
        yield Section(headings, text)
