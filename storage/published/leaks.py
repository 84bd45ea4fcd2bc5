"""A last look before anything leaves: no value of a secret of the environment may be in it."""

import html
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from markupsafe import Markup

from schemas.errors import InputError
from schemas.settings import SECRET_NAME
from storage.published.folder import Dataset

SHORTEST = 8  # characters of what can be told from a word


def secrets(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables whose names say that they hold a secret, and the values."""
    return {
        name: value
        for name, value in environment.items()
        if SECRET_NAME.search(name) and len(value.strip()) >= SHORTEST and not Path(value).exists()
    }


def check_no_secret(dataset: Dataset, card: str) -> None:
    """Raises InputError that names the variable and the place, never the value."""
    looked_for = {name: spellings(value.strip()) for name, value in secrets().items()}
    if not looked_for:
        return
    for place, text in texts_of(dataset, card):
        for name, spelled in looked_for.items():
            if any(one in text for one in spelled):
                raise InputError(
                    f"{place} holds the value of the environment variable {name}; nothing was written: remove it "
                    "there, or unset the variable if it is no secret"
                )


def spellings(value: str) -> set[str]:
    """A value as it may stand: as it is, in JSON, in JSON within JSON, in HTML."""
    once = json.dumps(value, ensure_ascii=False)[1:-1]
    return {value, once, json.dumps(once, ensure_ascii=False)[1:-1], html.escape(value), str(Markup.escape(value))}


def texts_of(dataset: Dataset, card: str) -> Iterator[tuple[str, str]]:
    yield "the card", card
    for name, content in dataset.files.items():
        for piece in [content] if isinstance(content, bytes) else content():
            yield name, piece.decode(errors="replace")
    for name, table in dataset.tables.items():
        for split, rows in table.splits.items():
            start = 0
            for batch in rows.batches():
                yield f"{name}, {split}, rows {start:,} and after", batch.write_ndjson()
                start += batch.height
