"""Pages in the browser, for who sits at a desktop."""

import os
import sys
import webbrowser
from pathlib import Path

import click


def open_page(path: Path, wanted: bool | None) -> None:
    """Open a page where that is wanted; None asks, on a desktop's terminal only."""
    if wanted is None:
        wanted = on_desktop() and click.confirm("open it in the browser?", default=True, err=True)
    if wanted and not webbrowser.open(path.as_uri()):
        print(f"no browser can be started here; open {path} in one", file=sys.stderr)


def on_desktop() -> bool:
    """Whether somebody sits at this terminal, and windows can be shown."""
    has_windows = sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return has_windows and sys.stdin.isatty() and sys.stdout.isatty()
