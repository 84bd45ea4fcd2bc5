"""Tables and short texts on a terminal."""

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from schemas.texts import one_line

CELL = 60  # characters of a table's cell
NUMBERS = ("in", "out", "rows in", "rows", "dropped", "calls", "reused", "tokens", "tokens in", "tokens out", "seconds")


def table(*columns: str, numbers: Sequence[str] = NUMBERS) -> Any:
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column in numbers
        whole = right or column in ("stage", "run", "artifact", "made", "status")
        made.add_column(Text(column), justify="right" if right else "left", overflow="fold", no_wrap=whole)
    return made


def plain(value: Any) -> str:
    """Numbers as they are (fractions to four places), lists and structs as JSON."""
    import orjson

    if isinstance(value, float):
        return f"{value:.4f}"
    return orjson.dumps(value, default=str).decode() if isinstance(value, dict | list) else str(value)


def shortened(text: str, most: int) -> str:
    text = one_line(text)
    return text if len(text) <= most else text[: most - 1] + "…"
