"""Choosing rows that differ: k-center beside the loop that is written everywhere, in one run, on made-up vectors
(bench/dedup.py's: topics, subjects, near-duplicates).

    python -m bench.selecting [--rows 100000 1000000] [--count 1000 10000] [--folder FOLDER]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.dedup import DIMENSIONS, Watch, make_up

OTHERS_UP_TO = 100_000
"""Rows up to which the loops are measured: beyond, hours."""
COVERED, FACILITIES = 2000, 500


def ours(vectors: Any, count: int) -> tuple[Any, float]:
    from synthmill.tasks.vectors.k_center import k_center

    centres = k_center(vectors, count)
    return centres.rows, centres.radius


def numpy_loop(vectors: Any, count: int) -> tuple[Any, float]:
    """One product of all rows with the row that was taken per step."""
    vectors = np.array(vectors)
    mean = vectors.sum(axis=0, dtype=np.float64).astype(np.float32)
    taken = [int(np.argmax(vectors @ mean))]
    likeness = vectors @ vectors[taken[0]]
    likeness[taken[0]] = np.inf
    while len(taken) < count:
        taken.append(int(np.argmin(likeness)))
        np.maximum(likeness, vectors @ vectors[taken[-1]], out=likeness)
        likeness[taken[-1]] = np.inf
    return np.array(taken), float(likeness.min())


def facilities(vectors: Any, count: int) -> tuple[Any, float]:
    """Facility location of 500 rows at most over a sample; the number is the share that is covered."""
    from synthmill.tasks.vectors.facility_location import facility_location

    covered = np.sort(np.random.default_rng(0).choice(len(vectors), COVERED, replace=False))
    taken = facility_location(vectors, min(count, FACILITIES), covered)
    return taken.rows, float(taken.gains.sum())


METHODS = {
    "k-center, synthmill": ours,
    "k-center, numpy": numpy_loop,
    "facility location, synthmill": facilities,
}


def measure(method: str, folder: Path, count: int) -> None:
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    METHODS[method](vectors[:2000], 20)  # kernels are compiled, libraries loaded
    watch = Watch()
    watch.start()
    rows, quality = METHODS[method](vectors, count)
    watch.stop()
    np.save(folder / f"{method}.npy", rows)
    print(json.dumps({**watch.numbers(), "quality": quality}))


def rows_of(options: argparse.Namespace) -> Iterator[str]:
    yield "| rows | taken | | seconds | CPU s | peak memory / data | least likeness, or covered | same rows |"
    yield "|---:|---:|---|---:|---:|---:|---:|---:|"
    for rows, count in zip(options.rows, options.count, strict=True):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            make_up(folder, rows)
            for method in METHODS:
                if rows > OTHERS_UP_TO and "synthmill" not in method:
                    continue
                command = [sys.executable, "-m", "bench.selecting", "--method", method, "--folder", name]
                command += ["--count", str(count)]
                report = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
                memory = report["bytes"] / (rows * DIMENSIONS * 4)
                costs = f"{report['seconds']:.1f} | {report['cpu']:.1f} | {memory:.2f} | {report['quality']:.4f}"
                taken = count if method.startswith("k-center") else min(count, FACILITIES)
                yield f"| {rows:,} | {taken:,} | {method} | {costs} | {same_rows(folder, method)} |"


def same_rows(folder: Path, method: str) -> str:
    """The share of steps in which a k-center took the row that the first method took."""
    reference = folder / "k-center, synthmill.npy"
    if not method.startswith("k-center") or method in reference.name:
        return ""
    return f"{np.mean(np.load(reference) == np.load(folder / f'{method}.npy')):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--count", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where vectors are written; default: the system's own")
    options = parser.parse_args()
    if options.method:
        return measure(options.method, options.folder, *options.count)
    for line in rows_of(options):
        print(line, flush=True)
    return None


if __name__ == "__main__":
    main()
