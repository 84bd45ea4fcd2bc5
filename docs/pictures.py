"""Take the pictures of pages: report.png, report-rows.png, report-phone.png, card.png, and prefect.png.

    make demo && .venv/bin/python docs/pictures.py [STORE]

They show the latest run with a dataset in STORE (store/), and Prefect's page where `synthmill serve` runs in this
folder. Chromium takes them: the one on the path, or in the environment variable CHROMIUM.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import markdown

from synthmill.flows.commands.existing_store import existing_store
from synthmill.flows.pages.report import write_report
from synthmill.flows.serving.server import serving_url
from synthmill.schemas.errors import InputError
from synthmill.storage.runs import find_run, runs

DOCS = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CARD = (
    "<meta charset=utf-8><style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem}}"
    "table{{border-collapse:collapse}}td,th{{border:1px solid #ddd;padding:.3rem .6rem}}pre{{background:#f5f5f5;"
    "padding:.8rem;overflow:auto}}</style>{}"
)
SETTLED_MS = 4000  # the time that a page's scripts get
Picture = tuple[str, str, int, int]
"""Its name, its page's address, its width and its height in pixels."""


def main(place: Path) -> None:
    """Take all pictures. Raises InputError where there is no store, no run with a dataset or no browser."""
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise InputError("there is no chromium on the path; install one, or name it in CHROMIUM")
    with tempfile.TemporaryDirectory() as folder:
        for name, address, width, height in pictures(place, Path(folder)):
            command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            command += [f"--user-data-dir={folder}/browser", f"--window-size={width},{height}"]
            command += [f"--virtual-time-budget={SETTLED_MS}", f"--screenshot={DOCS / name}", address]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            print(DOCS / name)


def pictures(place: Path, folder: Path) -> Iterator[Picture]:
    """The pictures, their pages written into `folder` where they are not there yet."""
    store = existing_store(place)
    finished = [run.id for run in runs(store) if run.dataset]
    report = write_report(store, find_run(store, finished[-1] if finished else "latest"))
    yield "report.png", report.as_uri(), 1120, 1060
    rows = folder / "rows.html"  # a headless browser draws nothing of a page that is scrolled
    rows.write_text(report.read_text().replace("</style>", "main > :not(#rows) { display: none }</style>", 1))
    yield "report-rows.png", rows.as_uri(), 1120, 1000
    yield "report-phone.png", rows.as_uri(), 390, 1500
    text = report.with_name("README.md").read_text().split("---\n", 2)[-1]
    card = folder / "card.html"
    card.write_text(CARD.format(markdown.markdown(text, extensions=["tables", "fenced_code"])))
    yield "card.png", card.as_uri(), 1000, 1750
    if served := serving_url():
        yield "prefect.png", f"{served.removesuffix('/api')}/runs", 1300, 1000


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("store"))
