"""Pages from templates, and what several of them show."""

import re
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.bill import money_text
from synthmill.schemas.texts import one_line, printable

Manifests = Mapping[str, Manifest]
FOLDER = Path(__file__).parent


def render(template: str, folder: Path = FOLDER, **variables: Any) -> str:
    """A page from a template in a folder. Texts of rows are escaped in HTML, and in markdown by the filter `cell`."""
    return environment_of(folder, template.endswith(".html")).get_template(f"{template}.jinja").render(**variables)


@cache
def environment_of(folder: Path, is_html: bool) -> Environment:
    """Templates of a folder, each compiled once in a process."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=is_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["cell"] = lambda text: escape(one_line(str(text)), quote=False).replace("|", "\\|")
    environment.filters["code"] = code_spans
    environment.filters["figure"] = two_places
    environment.filters["money"] = money_text
    environment.filters["count"] = lambda number: f"{number:,}"
    return environment


def code_spans(text: str) -> Markup:
    """A line of markdown in HTML: what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(printable(text))))


def funnel(manifests: Manifests) -> list[dict[str, Any]]:
    """Per stage that makes rows: rows in and out, and what was dropped."""
    return [
        {
            "stage": stage,
            "rows_in": manifest.rows_in - manifest.dropped.get("in_training", 0),
            "rows": manifest.rows,
            "dropped": ", ".join(f"{n:,} {why}" for why, n in manifest.dropped.items() if why != "in_training"),
        }
        for stage, manifest in manifests.items()
        if not manifest.files
    ]


def two_places(value: float | None) -> str:
    """A number as text, and a dash for none."""
    return "–" if value is None else f"{value:.2f}"
