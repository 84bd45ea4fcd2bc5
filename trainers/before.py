"""docs/trainers-before.md: rows of formats that a reader refuses or takes wrongly, and the same rows as exported."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from synthmill.storage.published.known_trainers import trainer
from trainers.formats import Cell
from trainers.reading_all import Reading, short

SHOWN, LEAD = 200, 60
"""Characters of a text that are shown, and of those, how many stand before the first difference."""
HEAD = """# Before and after
Written by `make trainers`. Each section is a format that somebody could give a trainer with a configuration as its
documentation has it, and that its reader refuses or takes wrongly ([trainers.md](trainers.md#formats)); then the same
rows exported with `--for`. What is shown is the first row that comes out wrong, decoded from the reader's tokens: some
{SHOWN} characters around the first difference.
"""


def before_page(cells: Sequence[tuple[Cell, Reading]], readings: Mapping[str, Sequence[Reading]]) -> str:
    """cells: formats and what readers made of them; readings: what they make of exports for them, by trainer."""
    sections = [
        "\n".join(section(cell, reading, after_of(cell, readings[cell.reader])))
        for cell, reading in sorted(cells, key=lambda pair: (pair[0].reader, pair[0].use, pair[0].format))
        if reading.verdict and not reading.verdict.is_right
    ]
    return "\n\n".join([HEAD.replace("{SHOWN}", str(SHOWN)).rstrip(), *(text.rstrip() for text in sections)])


def after_of(cell: Cell, readings: Sequence[Reading]) -> Reading | None:
    """The reading of the same rows for the same use, or why they were refused."""
    same = [reading for reading in readings if (reading.run, reading.use) == (cell.run, cell.use)]
    return next((reading for reading in same if reading.table in (cell.table, "")), None)


def section(cell: Cell, before: Reading, after: Reading | None) -> Iterator[str]:
    assert before.verdict
    wrong = ", ".join(f"{part} in {count}" for part, count in before.verdict.wrong.items())
    yield f"## {trainer(cell.reader).title}: `--format {cell.format}`, {cell.use} of `{cell.run}`"
    settings = f"With `{cell.shown_settings}`." if cell.settings else ""
    yield f"{settings} {cell.note}".strip() + "\n"
    places = before.verdict.wrong_places
    place = places[0] if places else 0
    texts = [text_of(reading, place) for reading in (before, after)]
    excerpts = around_difference(*texts) if all(texts) else texts
    error = before.verdict.error or f"{before.verdict.rows[0]} of {before.verdict.rows[1]} rows"
    yield f"Before, wrong: {(wrong or error)[:SHOWN].rstrip(' .')}."
    yield from fenced(excerpts[0])
    remedy = f"`--for {cell.reader}`"
    if after is None:
        yield f"After: {remedy} has no {cell.use} of these rows."
    elif after.refusal:
        yield f"After: {remedy} refuses them before it writes a file: {short(after.refusal)}"
    else:
        yield f"After, with {remedy}:"
        yield from fenced(excerpts[1])


def text_of(reading: Reading | None, place: int) -> str:
    """A row's decoded text, of pairs that of the chosen side; empty where it did not come out."""
    rows = reading.verdict.decoded if reading and reading.verdict else []
    row: Mapping[str, Any] = (rows[place] if place < len(rows) else None) or {}
    return str(row.get("chosen", row).get("text", "") or " | ".join(row.get("texts", ())))


def around_difference(before: str, after: str) -> list[str]:
    """Both texts from shortly before the place where they part, cut to what is shown."""
    pairs = enumerate(zip(before, after, strict=False))
    apart = next((place for place, (a, b) in pairs if a != b), min(len(before), len(after)))
    start = max(0, apart - LEAD)
    return [("… " if start else "") + text[start : start + SHOWN] for text in (before, after)]


def fenced(text: str) -> Iterator[str]:
    if text:
        yield from ("", "```text", text[: SHOWN + 2].replace("```", "'''"), "```", "")
