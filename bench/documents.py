"""A PDF of 2,000 pages as passages: how long it takes, and what of it is in memory at once.

python -m bench.documents [--pages 2000]
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pypdf import PdfWriter
from pypdf.generic import DictionaryObject, NameObject, StreamObject

from synthmill.schemas.document_settings import DocumentSettings
from synthmill.storage.plain_files.documents import document_lines

WORDS = "mill river stone bird light circle bridge quiet wheel tower".split()  # noqa: SIM905
LINES = 40


def write_pdf(path: Path, pages: int) -> None:
    """Pages of 40 lines in a standard font."""
    draw, writer = random.Random(0), PdfWriter()
    kind = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    font = writer._add_object(DictionaryObject({NameObject(key): NameObject(name) for key, name in kind.items()}))
    fonts = DictionaryObject({NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})})
    for _ in range(pages):
        page, stream = writer.add_blank_page(width=595, height=842), StreamObject()
        lines = " ".join(f"({' '.join(draw.choices(WORDS, k=12))}.) Tj 0 -14 Td" for _ in range(LINES))
        stream.set_data(f"BT /F1 12 Tf 50 800 Td {lines} ET".encode())
        page[NameObject("/Resources")], page[NameObject("/Contents")] = fonts, writer._add_object(stream)
    writer.write(str(path))


def resident_mb() -> float:
    """Memory of this process, without files that are mapped."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def rows_of(pages: int) -> Iterator[str]:
    yield "| pages | file, MB | passages | seconds | CPU s | to the first, s | more memory than then, MB |"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.pdf"
        write_pdf(path, pages)
        began, cpu = time.monotonic(), time.process_time()
        lines = document_lines(DocumentSettings(path=folder))
        next(lines)
        first, before, most, count = time.monotonic() - began, resident_mb(), 0.0, 1
        for count, _ in enumerate(lines, 2):  # noqa: B007
            most = max(most, resident_mb())
        took = f"{time.monotonic() - began:.1f} | {time.process_time() - cpu:.1f} | {first:.1f}"
        yield f"| {pages:,} | {path.stat().st_size / 1e6:.1f} | {count:,} | {took} | {most - before:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=2000)
    for line in rows_of(parser.parse_args().pages):
        print(line, flush=True)


if __name__ == "__main__":
    main()
