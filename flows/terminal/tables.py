"""Tables, short texts and JSON on a terminal."""

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from synthmill.schemas.texts import one_line

CELL = 60  # characters of a table's cell
NUMBERS = (
    *("in", "out", "rows in", "rows", "dropped", "calls", "reused", "tokens", "tokens in", "tokens out", "seconds"),
    "money",
)


def table(*columns: str, numbers: Sequence[str] = NUMBERS) -> Any:
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        is_number = column in numbers
        no_wrap = is_number or column in ("stage", "run", "artifact", "made", "status")
        grid.add_column(Text(column), justify="right" if is_number else "left", overflow="fold", no_wrap=no_wrap)
    return grid


def format_value(value: Any) -> str:
    """Numbers as they are (fractions to four places), lists and structs as JSON."""
    import orjson

    if isinstance(value, float):
        return f"{value:.4f}"
    return orjson.dumps(value, default=str).decode() if isinstance(value, dict | list) else str(value)


def shortened(text: str, length: int) -> str:
    text = one_line(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def objects(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """The rows of a table by the names of its columns."""
    return [dict(zip(columns, row, strict=True)) for row in rows]


def print_json(value: Any) -> None:
    """One JSON document on a line; what JSON has no form for, as text."""
    import orjson

    print(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode())
