"""What writing, exporting and reporting a dataset of preference pairs takes: seconds, and memory at its peak.

    python -m bench.scale_datasets all 100000               # or write, export, report; prints a table
    PYTHONPATH=OTHER python -P bench/scale_datasets.py ...  # another tree's code: the file needs nothing of bench

A pair is about 2 KB of text; they lie in one part, as the stage that looks for duplicates leaves them. Everything runs
in a process of its own; memory is what the kernel says this process held at most (VmHWM).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FORMATS = ("as-made", "kto", "openai")
TEST = 0.05
BATCH = 10_000
LENGTHS = {"prompt": 300, "chosen": 1000, "rejected": 700}
BLOB_WORDS = 4_000_000


class Measurement(NamedTuple):
    """One step, for so many pairs."""

    what: str
    rows: int
    seconds: float
    peak_mib: float


def write(rows: int, folder: Path | None = None) -> Measurement:
    """A flow's dataset from its artifacts, with its card. folder: where a store is made, or was."""
    return run_step("write", rows, folder)


def export(rows: int, folder: Path | None = None) -> Measurement:
    """That dataset split by prompt, in several formats, into a folder."""
    return run_step("export", rows, folder)


def report(rows: int, folder: Path | None = None) -> Measurement:
    """The run's page."""
    return run_step("report", rows, folder)


def run_step(what: str, rows: int, folder: Path | None) -> Measurement:
    """Make what the step needs, then the step, each in a process of its own."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
            return run_step(what, rows, Path(temporary))
    for step in ("make", "write"):
        if step != what and not (folder / f"{step}.done").exists():
            in_process(step, rows, folder)
    return in_process(what, rows, folder)


def in_process(what: str, rows: int, folder: Path) -> Measurement:
    command = [sys.executable, "-P", __file__, "--here", what, str(rows), "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=folder, check=True)
    (folder / f"{what}.done").touch()
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def step(what: str, rows: int, folder: Path) -> None:
    """One step in this process; prints what it took."""
    began = time.monotonic()
    {"make": make_store, "write": write_here, "export": export_here, "report": report_here}[what](rows, folder)
    seconds = time.monotonic() - began
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(json.dumps({"what": what, "rows": rows, "seconds": seconds, "peak_mib": int(peak.split()[1]) / 1024}))


def make_store(rows: int, folder: Path) -> None:
    """Artifacts as `synthesize` leaves them: rewards of pools, pairs, and pairs with verdicts."""
    from synthmill.schemas.artifacts import Manifest
    from synthmill.storage.artifacts import Store, write_manifest

    store = Store(folder / "store")
    store.prepare()
    sources: dict[str, str] = {}
    for stage, columns in (
        ("variants", ("id", "split", "preference_set")),
        ("answers", ("id", "answers")),
        ("rewards", ("id", "rewards")),
        ("pairs", PAIR),
        ("unique_pairs", (*PAIR, "kept", "duplicate_of", "similarity", "layer")),
    ):
        seal, types = part(store, stage, columns, rows)
        notes = {"rows": rows, "kept": rows - rows // 100, "known": 0, "by_layer": {"exact": rows // 100}}
        manifest = Manifest(
            stage=stage,
            key=(stage[0] + "0" * 31),
            identity={"stage": stage, "settings": {"columns": ["prompt"]}},
            sources=sources,
            columns=types,
            parts=(seal,),
            notes=notes if stage == "unique_pairs" else {},
        )
        write_manifest(store, manifest)
        sources = {manifest.key: manifest.content}


VALUE = {
    "dimension": "style",
    "subdimension": "clarity",
    "preference": "short sentences",
    "description": "no clauses",
    "seed": "short sentences",
    "origin": "seed",
}
PAIR = (
    *("id", "parent_id", "prompt", "system", "source", "chosen", "rejected", "chosen_index", "rejected_index"),
    *("chosen_reward", "rejected_reward", "cut", "calls"),
)


def part(store, stage, columns, rows):  # type: ignore[no-untyped-def]
    """One sealed part, written as stages write theirs; its seal and its columns' types."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from synthmill.schemas.artifacts import PartSeal
    from synthmill.schemas.hashing import file_checksum

    file = store.root / "parts" / stage / f"{stage}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_batches([batch.select(list(columns)) for batch in batches(rows)])
    pq.write_table(table, file, compression="zstd")
    seal = PartSeal(
        key=stage,
        stage=stage,
        file=str(file.relative_to(store.root)),
        checksum=file_checksum(file),
        content=stage,
        rows_in=rows,
        rows=rows,
    )
    return seal, {field.name: str(field.type) for field in table.schema}


def batches(rows: int) -> Iterator:  # type: ignore[type-arg]
    """All columns of pairs and their verdicts; a hundredth are duplicates of the pair before."""
    import numpy as np
    import pyarrow as pa

    draws = np.random.default_rng(0)
    words = ["".join(map(chr, draws.integers(97, 123, length))) for length in draws.integers(2, 10, 5000)]
    blob = " ".join(np.array(words)[draws.integers(0, len(words), BLOB_WORDS)])
    for start in range(0, rows, BATCH):
        count = min(BATCH, rows - start)
        ids = [f"{n:024x}" for n in range(start, start + count)]
        texts = {
            name: [blob[at : at + length] for at in draws.integers(0, len(blob) - length, count).tolist()]
            for name, length in LENGTHS.items()
        }
        rewards = np.sort(draws.normal(size=(count, 4)))
        twice = [n % 100 == 99 for n in range(start, start + count)]
        yield pa.record_batch(
            {
                "id": ids,
                "parent_id": [f"parent{row_id}" for row_id in ids],
                **texts,
                "system": ["Answer as a careful teacher would."] * count,
                "source": ["in.jsonl"] * count,
                "split": ["train"] * count,
                "preference_set": [[VALUE]] * count,
                "chosen_index": pa.array([3] * count, pa.int64()),
                "rejected_index": pa.array([0] * count, pa.int64()),
                "chosen_reward": rewards[:, 3],
                "rejected_reward": rewards[:, 0],
                "rewards": pa.array(rewards.tolist(), pa.list_(pa.float64())),
                "cut": ["max_min"] * count,
                "answers": [[{"text": "", "finish_reason": "stop"}] * 4] * count,  # their texts are those of the pairs
                "calls": pa.array([[row_id] for row_id in ids], pa.list_(pa.string())),
                "kept": [not again for again in twice],
                "duplicate_of": pa.array(
                    [f"{start + n - 1:024x}" if twice[n] else None for n in range(count)], pa.string()
                ),
                "similarity": pa.array([1.0 if again else None for again in twice], pa.float64()),
                "layer": pa.array(["exact" if again else None for again in twice], pa.string()),
            }
        )


def write_here(rows: int, folder: Path) -> None:
    from synthmill.flows.methods.synthesize import preference_dataset
    from synthmill.flows.pages.card import publishable
    from synthmill.schemas.synthesize_settings import SynthesizeSettings
    from synthmill.storage.artifacts import Store
    from synthmill.storage.published.folder import write_dataset
    from synthmill.storage.runs import StageRun, new_run, write_run

    store = Store(folder / "store")
    manifests = {manifest.stage: manifest for manifest in store.manifests()}
    engine = "openai:model@http://127.0.0.1:9/v1"
    settings = SynthesizeSettings.model_validate({"source": "in.jsonl", "engines": {"teacher": engine}})
    dataset, card = publishable(store, "synthesize", preference_dataset(store, manifests), manifests, settings)
    place = store.root / "datasets" / "synthesize-scale"
    write_dataset(place, dataset, card)
    stages = tuple(StageRun.of(manifest, {}, 1.0) for manifest in manifests.values())
    record = new_run("synthesize", settings.model_dump(mode="json"), place.name)
    write_run(store, record.model_copy(update={"status": "finished", "dataset": str(place), "stages": stages}))


def export_here(rows: int, folder: Path) -> None:
    from synthmill.flows.commands.export import export
    from synthmill.schemas.export_settings import ExportSettings

    place = str(folder / f"out-{time.time_ns()}")
    export(ExportSettings(store=str(folder / "store"), run="latest", to=place, formats=FORMATS, test=TEST))


def report_here(rows: int, folder: Path) -> None:
    from synthmill.flows.pages.report import write_report
    from synthmill.storage.artifacts import Store
    from synthmill.storage.runs import find_run

    store = Store(folder / "store")
    write_report(store, find_run(store, "latest"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("all", "make", "write", "export", "report"))
    parser.add_argument("rows", type=int)
    parser.add_argument("--folder", type=Path, help="keeps the store; default: a temporary folder")
    parser.add_argument("--here", action="store_true", help="one step, in this process")
    options = parser.parse_args()
    if options.here:
        step(options.what, options.rows, options.folder)
        return
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{'step':<8}{'pairs':>12}{'seconds':>10}{'peak MiB':>10}")
        for what in ("write", "export", "report") if options.what == "all" else (options.what,):
            measurement = run_step(what, options.rows, folder)
            print(
                f"{measurement.what:<8}{measurement.rows:>12,}{measurement.seconds:>10.1f}{measurement.peak_mib:>10,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
