"""Check that nothing to be published holds the value of a secret from the environment."""

import html
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from markupsafe import Markup

from synthmill.schemas.errors import InputError
from synthmill.schemas.secrecy import SECRET_NAME
from synthmill.storage.published.configurations import Dataset

SHORTEST = 8  # characters of a secret that is no ordinary word


def secrets(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment variables whose names suggest a secret -> their values."""
    return {
        name: value
        for name, value in environment.items()
        if SECRET_NAME.search(name) and len(value.strip()) >= SHORTEST and not Path(value).exists()
    }


def check_no_secret(dataset: Dataset, card: str) -> None:
    """Raises InputError that names the variable and the place, never the value."""
    secret_spellings = {name: spellings(value.strip()) for name, value in secrets().items()}
    if not secret_spellings:
        return
    for place, text in texts_of(dataset, card):
        for name, values in secret_spellings.items():
            if any(spelling in text for spelling in values):
                raise InputError(
                    f"{place} holds the value of the environment variable {name}; nothing was written: remove it "
                    "there, or unset the variable if it is no secret"
                )


def spellings(value: str) -> set[str]:
    """How a value may be written: plainly, in JSON, in JSON within JSON, in HTML."""
    in_json = json.dumps(value, ensure_ascii=False)[1:-1]
    return {
        value,
        in_json,
        json.dumps(in_json, ensure_ascii=False)[1:-1],
        html.escape(value),
        str(Markup.escape(value)),
    }


def texts_of(dataset: Dataset, card: str) -> Iterator[tuple[str, str]]:
    yield "the card", card
    yield "the notes", "\n".join(dataset.notes)
    yield "the figures", "\n".join(cell for figure in dataset.figures for row in figure.rows for cell in row)
    for name, content in dataset.files.items():
        for piece in [content] if isinstance(content, bytes) else content():
            yield name, piece.decode(errors="replace")
    for name, table in dataset.tables.items():
        for split, rows in table.splits.items():
            start = 0
            for batch in rows.batches():
                yield f"{name}, {split}, rows {start:,} and after", batch.write_ndjson()
                start += batch.height
