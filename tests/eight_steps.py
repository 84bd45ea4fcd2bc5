"""The example of a pipeline (examples/pipeline.yaml) as tests run it: two prompts, a judge, seeds, filters, duplicates,
two tables, on the local chat server.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import yaml

from tests.command import ROOT
from tests.conftest import ChatServer

STEPS = ("seeds", "question", "readable", "unique", "answer", "graded", "good", "counted")
ASKING = ("question", "answer", "graded")
IN_FLIGHT = 16


def pipeline(server: ChatServer, rows: int, **changes: Any) -> dict[str, Any]:
    """The settings of the example with so many rows from nothing. changes: settings beside those."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "pipeline.yaml").read_text())
    engine = {"spec": server.spec, "concurrency": IN_FLIGHT}
    settings |= {"source": {"rows": rows}, "engines": {"teacher": engine}, "drop_limit": 1.0}
    return settings | changes


def write_pipeline(folder: Path, settings: Mapping[str, Any], name: str = "my.yaml") -> Path:
    (folder / name).write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    return folder / name


def tables(store: Path) -> list[tuple[str, bytes]]:
    """Every Parquet file of a store's only dataset, by table."""
    [dataset] = (store / "datasets").iterdir()
    return [(path.parent.name, path.read_bytes()) for path in sorted(dataset.glob("data/*/*.parquet"))]


def rows_of(store: Path, table: str) -> pl.DataFrame:
    """A table of the newest dataset."""
    newest = max((store / "datasets").iterdir(), key=lambda folder: (folder / "synthmill.json").stat().st_mtime_ns)
    frames = [
        pl.DataFrame(pl.from_arrow(pq.read_table(file))) for file in sorted(newest.glob(f"data/{table}/*.parquet"))
    ]
    return pl.concat(frames)
