"""A dataset with tools on a Hub, read from there by the oldest and the newest `datasets` that trainers pin."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import polars as pl

from synthmill.storage.published.folder import read_dataset
from tests.hub_server import HubServer
from trainers.runs import ROOT

RUN = "dialogues"
REPO = f"me/{RUN}"
ENVIRONMENTS = ("llama-factory", "axolotl", "trl")
"""Of trainers that pin `datasets` 4.0, 4.8 and 5."""
HEAD = f"""
## On the Hub
`{RUN}`, a dataset with tools, sent with `synthmill export {RUN} --to hf://datasets/OWNER/NAME` to a server that
speaks the Hub's protocol, and loaded from there with `load_dataset("OWNER/NAME", CONFIGURATION)`.

| `datasets` | configuration | rows | as they went in |
|---|---|---|---|"""


class FromHub(NamedTuple):
    """What a version of `datasets` made of a configuration: how many of its rows came, and were equal; or the error."""

    version: str
    configuration: str
    rows: int
    sent: int
    equal: int
    error: str


def hub_readings(dataset: Path, folder: Path) -> Iterator[FromHub]:
    """The run's dataset, through a Hub. folder: where the environments are."""
    sent = {name: table.rows.frame() for name, table in read_dataset(dataset).tables.items()}
    with HubServer({"a-token": ("me", [])}) as hub, TemporaryDirectory() as home:
        variables = {**os.environ, **hub.environment(Path(home), token="a-token")}
        export = ["-m", "synthmill.flows.cli", "export", RUN, "--to", f"hf://datasets/{REPO}"]
        subprocess.run([sys.executable, *export], cwd=folder / "runs", env=variables, check=True, capture_output=True)
        variables.pop("PYTHONPATH", None)
        for environment in ENVIRONMENTS:
            python = str(folder / environment / "bin" / "python")
            reader = str(ROOT / "trainers" / "readers" / "read_hub.py")
            own = {**variables, "HF_HOME": f"{home}/{environment}"}
            done = subprocess.run([python, reader, REPO, *sent], env=own, check=True, stdout=subprocess.PIPE, text=True)
            for line, rows in zip(done.stdout.splitlines(), sent.values(), strict=True):
                yield compared(json.loads(line), rows)


def compared(answer: dict[str, object], sent: pl.DataFrame) -> FromHub:
    """A configuration's rows against those that were sent."""
    rows = answer.get("rows", [])
    assert isinstance(rows, list)
    pairs = zip(rows, sent.to_dicts(), strict=False)
    equal = sum(came == went for came, went in pairs)
    version, name, error = (str(answer.get(key, "")) for key in ("version", "configuration", "error"))
    return FromHub(version, name, len(rows), sent.height, equal, error)


def hub_table(readings: Sequence[FromHub]) -> Iterator[str]:
    """A row for each version and configuration."""
    yield HEAD
    for version, name, rows, sent, equal, error in readings:
        yield f"| {version} | `{name}` | {error or f'{rows} of {sent}'} | {'yes' if equal == sent else f'{equal}'} |"
