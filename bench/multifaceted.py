"""Multifaceted preference data from real instructions: what survives each step, how even the values come out, how
different the variants are.

    python -m bench.multifaceted --real FILE [--engine llamacpp:smollm2] [--rows 100] [--store FOLDER] [--sets-only]

FILE has instructions (JSONL or JSONL.gz, with `prompt` or `turns`); --rows of them are drawn by the hash of their text.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import orjson
import polars as pl
import yaml

from synthmill.flows.methods.multifaceted import plan as plan_multifaceted
from synthmill.flows.methods.multifaceted.dataset import FOLDER, measure
from synthmill.flows.pages.templates import render
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.multifaceted_settings import MultifacetedSettings
from synthmill.schemas.settings import SourceSettings
from synthmill.storage.plain_files.rows import read_chunks
from synthmill.storage.published.rows import read_frame
from synthmill.tasks.generators.multifaceted.coverage import coverage
from synthmill.tasks.generators.multifaceted.preference_sets import PreferenceSets
from synthmill.tasks.running.in_process import InProcess
from synthmill.tasks.running.stages import run_stage


def draw_instructions(source: Path, rows: int, out: Path) -> None:
    """Write `rows` instructions of a file, chosen by their text alone."""
    instructions = [row for chunk in read_chunks(SourceSettings(path=str(source)), 1024) for row in chunk.rows]
    chosen = sorted(instructions, key=lambda row: content_hash(row.prompt))[:rows]
    out.write_bytes(
        b"".join(orjson.dumps(row.model_dump(include={"id", "prompt", "source"})) + b"\n" for row in chosen)
    )


def settings_of(options: argparse.Namespace, source: Path, store: Path) -> MultifacetedSettings:
    return MultifacetedSettings.model_validate(
        {
            "source": str(source),
            "store": str(options.store or store),
            "engines": {"teacher": {"spec": options.engine, "options": yaml.safe_load(options.options)}},
            "preference_sets": {"temperature": 0.7, "max_tokens": 450, "sampler": options.sampler},
            "system_messages": {"temperature": 0.7, "max_tokens": 220},
            "responses": {"temperature": 0.7, "max_tokens": 160},
            "bench": {"temperature": 0.7, "max_tokens": 500, "share": 0.08},
            "workers": 0,
        }
    )


def run_whole_flow(settings: MultifacetedSettings, config: Path) -> str:
    """Run the flow as anyone would; the tables of its card."""
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    command = [sys.executable, "-m", "synthmill.flows.cli", "run", "multifaceted", "--config", str(config)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    plan = plan_multifaceted(settings)
    manifests = plan.made()
    assert manifests is not None
    stage = next(step.stage for step in plan.stages if isinstance(step.stage, PreferenceSets))
    tables = render("multifaceted.md", FOLDER, **measure(plan.store, manifests, stage, settings.embedder), picture="")
    return re.sub(r"^## (.*)$", r"**\1**\n", tables, flags=re.MULTILINE)


def run_preference_sets(settings: MultifacetedSettings) -> str:
    """Filter and preference sets, nothing else: how even the values of the training split came out."""
    plan = plan_multifaceted(settings)
    manifest = plan.source.ingest("bench")
    pool = InProcess(plan.store, "bench", threading.Event())
    for step in plan.stages[:2]:
        manifest = run_stage(plan.store, step, manifest, pool, "bench")
    pool.close()
    stage = step.stage
    assert isinstance(stage, PreferenceSets)
    rows = read_frame(plan.store, manifest, ("split", "sets")).filter(pl.col("split") == "train")
    values = [value for sets in rows["sets"].to_list() for preferences in sets for value in preferences]
    lines = [
        "| sampler | dimension | values | subdimensions | evenness | seeds dealt | seeds used | evenness "
        "| new values |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in coverage(stage.sides["train"], values):
        lines.append(
            f"| {stage.sampler} | {row['dimension']} | {row['values']} | {row['subdimensions']} | "
            f"{row['subdimension_evenness']:.3f} | {row['seeds_dealt']:.0%} | "
            f"{row['seeds_used']:.0%} | {row['used_evenness']:.3f} | "
            f"{row['new_values']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--engine", default="llamacpp:smollm2")
    parser.add_argument("--options", default="{}", help="the engine's options, YAML")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--sampler", default="balanced", choices=["balanced", "model"])
    parser.add_argument("--sets-only", action="store_true", help="stop after the preference sets: coverage alone")
    parser.add_argument("--store", type=Path, help="default: a temporary one; with one, an interrupted bench resumes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "instructions.jsonl"
        draw_instructions(options.real, options.rows, source)
        settings = settings_of(options, source, Path(folder) / "store")
        print(
            run_preference_sets(settings) if options.sets_only else run_whole_flow(settings, Path(folder) / "run.yaml")
        )


if __name__ == "__main__":
    main()
