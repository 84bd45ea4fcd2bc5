"""Read documents as passages: sections by their headings, cut into windows of tokens, one file after the other.

A file that cannot be used is one dropped row with the reason: pictures_only, no_text, encrypted, bad_pdf, not_utf8,
unknown_format; pages of a PDF that hold no text, or cannot be read, are no_text_pages and bad_page.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from synthmill.schemas.document_settings import DocumentPassage, DocumentSettings
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.hashing import content_hash, file_checksum
from synthmill.schemas.texts import one_line, printable
from synthmill.storage.plain_files.documents.html_sections import html_sections
from synthmill.storage.plain_files.documents.markdown_sections import markdown_sections
from synthmill.storage.plain_files.documents.paragraphs import text_sections
from synthmill.storage.plain_files.documents.pdf_pages import pdf_sections
from synthmill.storage.plain_files.documents.windows import Section, token_count, windows
from synthmill.storage.plain_files.lines import Line
from synthmill.storage.plain_files.rows import RowKind

READERS: dict[str, Callable[[Path], Iterator[Section | Drop]]] = {
    ".md": markdown_sections,
    ".markdown": markdown_sections,
    ".txt": text_sections,
    ".html": html_sections,
    ".htm": html_sections,
    ".pdf": pdf_sections,
}
ENDINGS = ", ".join(READERS)


def documents_in(place: str) -> dict[str, Path]:
    """The files of a path by name, sorted, without hidden ones; of a folder, those of its subfolders, too. Raises
    InputError where there is no document.
    """
    path = Path(place).expanduser()
    if not path.exists():
        raise InputError(f"{path} is not there; expected a document ({ENDINGS}), or a folder of them")
    if path.is_dir():
        names = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_file()}
        files = {name: names[name] for name in sorted(names) if not any(p.startswith(".") for p in Path(name).parts)}
    else:
        files = {path.name: path}
    if not any(file.suffix.lower() in READERS for file in files.values()):
        raise InputError(f"{path} is or holds no document; expected files that end in {ENDINGS}")
    return files


def documents_fingerprint(source: DocumentSettings) -> str:
    """What identifies the documents' content. Raises InputError."""
    try:
        return content_hash({name: file_checksum(file) for name, file in documents_in(source.path).items()})
    except OSError as error:
        raise InputError(f"{source.path} cannot be read: {error.strerror or error}") from error


def document_lines(source: DocumentSettings) -> Iterator[Line]:
    """A line per passage, in the order of files and text, and one per fault. Raises InputError, MissingExtra."""
    for name, file in documents_in(source.path).items():
        yield from lines_of_document(name, file, source)


def lines_of_document(name: str, file: Path, source: DocumentSettings) -> Iterator[Line]:
    """The passages of one document."""
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        yield Line(name, None, f"unknown_format: {file.suffix or 'no ending'}; expected {ENDINGS}", name)
        return
    faults: list[Drop] = []
    passages = 0

    def sections() -> Iterator[Section]:
        for section in reader(file):
            if isinstance(section, Drop):
                faults.append(section)
            else:
                yield section._replace(text=printable(section.text), headings=tuple(map(one_line, section.headings)))

    try:
        for passage in windows(sections(), source.window, source.overlap):
            passages += 1
            fields = {**passage._asdict(), "document": name}
            yield Line(f"{name}:{passages}", fields, file=name)
    except Drop as drop:
        faults.append(drop)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    if not passages and not faults:
        faults.append(Drop("no_text"))
    for number, fault in enumerate(faults, 1):
        yield Line(f"{name} ({number})", None, fault.message, name)


def document_passage_of(line: Line, source: DocumentSettings) -> DocumentPassage:
    """One line as a passage, its id a hash of document, headings and text. Raises Drop."""
    if line.fields is None:
        raise Drop(line.fault)
    document, headings, text = (line.fields[name] for name in ("document", "headings", "text"))
    tokens = token_count(text)
    if tokens < source.fewest:
        raise Drop(f"short_passage: {tokens} tokens; source.fewest is {source.fewest}")
    return DocumentPassage(
        id=content_hash([document, headings, text])[:24],
        title=" > ".join(filter(None, headings)) or Path(document).stem,
        text=text,
        document=document,
        headings=headings,
        page=line.fields["page"],
        tokens=tokens,
    )


DOCUMENTS = RowKind(
    "documents",
    DocumentPassage,
    document_passage_of,
    lambda _: (),
    lambda passage: len(passage.indexed),
    version="1",
    lines=document_lines,
    fingerprint=documents_fingerprint,
)
