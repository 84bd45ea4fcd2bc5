"""Multifaceted preference data from real instructions: what survives each step, how even the values come out, how
different the variants are.

    python bench/multifaceted.py --real FILE [--engine llamacpp:smollm2] [--rows 100] [--store FOLDER]

FILE has instructions (JSONL or JSONL.gz, with `prompt` or `turns`); --rows of them are drawn by the hash of their text.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson
import yaml

from flows.plans import plan_multifaceted
from flows.report import figures, render
from schemas.hashing import content_hash
from schemas.multifaceted_settings import MultifacetedSettings
from schemas.settings import SourceSettings
from storage.sources import read_chunks
from tasks.multifaceted import PreferenceSets


def draw(source: Path, rows: int, out: Path) -> None:
    """Write `rows` instructions of a file, chosen by their text alone."""
    found = [row for chunk in read_chunks(SourceSettings(path=str(source)), 1024) for row in chunk.rows]
    chosen = sorted(found, key=lambda row: content_hash(row.prompt))[:rows]
    out.write_bytes(
        b"".join(orjson.dumps(row.model_dump(include={"id", "prompt", "source"})) + b"\n" for row in chosen)
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--real", type=Path, required=True)
    options.add_argument("--engine", default="llamacpp:smollm2")
    options.add_argument("--options", default="{}", help="the engine's options, YAML")
    options.add_argument("--rows", type=int, default=100)
    options.add_argument("--sampler", default="balanced", choices=["balanced", "model"])
    options.add_argument("--store", type=Path, help="default: a temporary one; with one, an interrupted bench resumes")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, config = Path(folder) / "instructions.jsonl", Path(folder) / "run.yaml"
        draw(given.real, given.rows, source)
        settings = {
            "source": str(source),
            "store": str(given.store or Path(folder) / "store"),
            "engines": {"teacher": {"spec": given.engine, "options": yaml.safe_load(given.options)}},
            "preference_sets": {"temperature": 0.7, "max_tokens": 450, "sampler": given.sampler},
            "system_messages": {"temperature": 0.7, "max_tokens": 220},
            "responses": {"temperature": 0.7, "max_tokens": 256},
            "bench": {"temperature": 0.7, "max_tokens": 500, "share": 0.08},
            "workers": 0,
        }
        config.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "flows.cli", "run", "multifaceted", "--config", str(config)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        planned = plan_multifaceted(MultifacetedSettings.model_validate(settings))
        made = planned.made()
        assert made is not None
        drawn = next(step.stage for step in planned.stages if isinstance(step.stage, PreferenceSets))
        told = figures(planned.store, made, drawn, planned.settings.embedder)
        print(render("report.md", **told, picture=""))


if __name__ == "__main__":
    main()
