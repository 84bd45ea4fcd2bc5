"""PDF: text page by page, under the outline's headings."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synthmill.schemas.errors import Drop, MissingExtra
from synthmill.storage.plain_files.documents.windows import Section

HYPHENATED = re.compile(r"(?<=\w)-\n(?=[a-z])")
MOST_NAMED = 20  # pages in a fault's text


def pdf_sections(path: Path) -> Iterator[Section | Drop]:
    """A section per page, read one after the other; faults of single pages come as Drops.

    Raises Drop: encrypted, bad_pdf, pictures_only; MissingExtra without pypdf.
    """
    try:
        import pypdf
        from pypdf.errors import FileNotDecryptedError, PyPdfError
    except ImportError as error:
        raise MissingExtra(f"{path} needs pypdf; `pip install 'synthmill[documents]'`") from error
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it repairs; what it cannot is a fault here
    with path.open("rb") as file:  # of a path it would read all at once
        try:
            reader = pypdf.PdfReader(file)
            count = len(reader.pages)
            headings = headings_by_page(reader)
        except FileNotDecryptedError:
            raise Drop("encrypted: it needs a password; save it without one") from None
        except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Drop(f"bad_pdf: {type(error).__name__}: {error}") from error
        yield from pages(reader, count, headings)


def pages(reader: Any, count: int, headings: dict[int, tuple[str, ...]]) -> Iterator[Section | Drop]:
    """The pages that have text, then what was wrong with others. Raises Drop where none has any."""
    empty: list[int] = []
    current: tuple[str, ...] = ()
    for number in range(count):
        current = headings.get(number, current)
        try:
            text = HYPHENATED.sub("", reader.pages[number].extract_text())
        except Exception as error:  # whatever a damaged page makes the parser raise
            yield Drop(f"bad_page: page {number + 1}: {type(error).__name__}: {error}")
            continue
        finally:
            reader.resolved_objects.clear()  # else it keeps every page's objects
        if any(map(str.isalpha, text)):
            yield Section(current, text.encode(errors="replace").decode(), number + 1)
        else:
            empty.append(number + 1)
    if len(empty) == count:
        raise Drop(f"pictures_only: none of its {count} pages has text; recognise it first (OCR)")
    if empty:
        page_numbers = ", ".join(map(str, empty[:MOST_NAMED])) + (", ..." if len(empty) > MOST_NAMED else "")
        yield Drop(f"no_text_pages: {len(empty)} of {count} pages have no text: {page_numbers}")


def headings_by_page(reader: Any) -> dict[int, tuple[str, ...]]:
    """The outline's headings over the end of each page where one begins; the index of a page counts from 0."""
    headings: dict[int, tuple[str, ...]] = {}

    def walk(entries: Any, above: tuple[str, ...]) -> None:
        last = above
        for entry in entries:
            if isinstance(entry, list):
                walk(entry, last)
                continue
            last = (*above, str(entry.title or ""))
            page = reader.get_destination_page_number(entry)
            if page is not None and page >= 0:
                headings[page] = last

    walk(reader.outline, ())
    return headings
