"""Near-duplicates among many vectors: ours, through Ray too, against semhash and faiss, each in a process of its own.

    python -m bench.dedup [--rows 50000 100000 1000000] [--large 10000000] [--threshold 0.9] [--recall 0.995]

Vectors are made up: 384 dimensions, topics of very different size, subjects within them, and rows around these; a fifth
of the rows are twins of others, their cosines spread evenly over .85 to .95, so that half of them are duplicates at .9,
and many only just. Recall is the share of twins with a cosine of at least the threshold of which not both are kept.
`faiss flat` and `IVF` are range searches on an index, as a script would do it, and greedy by place. `new only`: the
last --new rows are compared with all, the others are known and stay; its recall is of twins with a new row.

--large: that size as float16, through Ray with two workers, and `new only` in one process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

DIMENSIONS, TWINS, LOW, HIGH, AT_ONCE = 384, 0.2, 0.85, 0.95, 50_000
LIMIT_S = 1200
METHODS = {
    "synthmill": 10**9,
    "synthmill, new only": 10**9,
    "synthmill, exact": 200_000,
    "synthmill, Ray, 1 worker": 10**9,
    "synthmill, Ray, 2 workers": 10**9,
    "semhash": 100_000,
    "semhash, exact index": 100_000,
    "faiss flat": 200_000,
    "faiss IVF": 200_000,
}
"""Who is measured, and up to how many rows: beyond, hours."""


def unit(draw: np.random.Generator, rows: int) -> Any:
    vectors = draw.standard_normal((rows, DIMENSIONS), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_up(folder: Path, rows: int, precision: str = "float32") -> None:
    """Write vectors.npy, shuffled, and twins.npy: (row, row) of each pair."""
    draw = np.random.default_rng(0)
    base = rows - int(rows * TWINS)
    topics, subjects = unit(draw, max(20, rows // 2000)), max(100, rows // 50)
    owners = (len(topics) * draw.random(subjects) ** 2).astype(int)
    centres = 0.6 * topics[owners] + 0.8 * unit(draw, subjects)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.dtype(precision), (rows, DIMENSIONS))
    place = draw.permutation(rows)
    for start in range(0, base, AT_ONCE):
        count = min(AT_ONCE, base - start)
        block = 0.75 * centres[(subjects * draw.random(count) ** 2).astype(int)] + 0.66 * unit(draw, count)
        vectors[place[start : start + count]] = block / np.linalg.norm(block, axis=1, keepdims=True)
    originals = draw.integers(base, size=rows - base)
    for start in range(base, rows, AT_ONCE):
        sources = originals[start - base : start - base + AT_ONCE]
        original = vectors[place[sources]].astype(np.float32)
        original /= np.linalg.norm(original, axis=1, keepdims=True)
        noise = unit(draw, len(sources))
        noise -= (noise * original).sum(1, keepdims=True) * original
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        cosine = draw.uniform(LOW, HIGH, (len(sources), 1)).astype(np.float32)
        vectors[place[start : start + len(sources)]] = cosine * original + np.sqrt(1 - cosine**2) * noise
    vectors.flush()
    np.save(folder / "twins.npy", np.stack([place[base:], place[originals]], axis=1))


def ours(
    folder: Path, options: argparse.Namespace, exact: bool = False, helpers: Any = None, known: int = 0
) -> tuple[Any, str]:
    """(which rows are kept, the recall it states). known: so many of the first rows are kept whatever they are like."""
    from synthmill.tasks.dedup.greedy import greedy
    from synthmill.tasks.vectors.buckets import EXACT_UP_TO, lay_out
    from synthmill.tasks.vectors.links import Matrix, Search, links_in

    matrix = Matrix.of(np.load(folder / "vectors.npy", mmap_mode="r"))
    limit = 10**9 if exact else EXACT_UP_TO
    plan = lay_out(matrix, options.threshold, options.recall, 2000, 0, limit, workers=helpers, fixed=known)
    verdicts = greedy(
        matrix.rows,
        known,
        [lambda rows, alive: links_in(Search(matrix, plan.layout, options.threshold, rows, alive, plan.near), helpers)],
    )
    return verdicts.duplicate_of < 0, str(plan.recall)


def through_ray(folder: Path, options: argparse.Namespace, workers: int) -> tuple[Any, str]:
    from synthmill.storage.artifacts import Store
    from synthmill.tasks.running.parallel import RayPool
    from synthmill.tasks.vectors.links import SpreadContext

    pool = RayPool(Store(folder), "bench", threading.Event(), workers, None)
    try:
        with tempfile.TemporaryDirectory() as small:
            make_up(Path(small), 3000)
            helpers = SpreadContext(pool.map_unordered, Path(small))
            ours(Path(small), options, exact=True, helpers=helpers)  # workers import and compile
        options.started()
        outcome = ours(folder, options, helpers=SpreadContext(pool.map_unordered, folder))
        options.ended()
        return outcome
    finally:
        pool.close()


def semhash(folder: Path, options: argparse.Namespace, backend: str) -> tuple[Any, str]:
    """backend: usearch, which is approximate and its default, or basic, which is exact."""
    from semhash import SemHash

    vectors = np.load(folder / "vectors.npy")
    names = [str(n) for n in range(len(vectors))]
    index = SemHash.from_embeddings(vectors, names, model=None, ann_backend=backend)  # type: ignore[arg-type]
    kept = np.zeros(len(vectors), np.bool_)
    kept[[int(row) for row in index.self_deduplicate(options.threshold).selected]] = True
    return kept, ""


def bare_faiss(folder: Path, options: argparse.Namespace, ivf: bool) -> tuple[Any, str]:
    import faiss

    vectors = np.load(folder / "vectors.npy")
    if ivf:
        lists = int(4 * len(vectors) ** 0.5)
        index = faiss.index_factory(DIMENSIONS, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:: max(1, len(vectors) // (64 * lists))])
        index.nprobe = 8
    else:
        index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(vectors)
    kept = np.ones(len(vectors), np.bool_)
    for start in range(0, len(vectors), 4096):
        limits, _, neighbours = index.range_search(vectors[start : start + 4096], options.threshold)
        for row in np.flatnonzero(np.diff(limits) > 1):
            near = neighbours[limits[row] : limits[row + 1]]
            near = near[near < start + row]
            kept[start + row] = not kept[near].any()
    return kept, ""


def measure(method: str, folder: Path, options: argparse.Namespace) -> None:
    """Print what one method did, as JSON. Imports, compiling and starting Ray are not counted."""
    workers = 2 if "2" in method else 1
    rows = len(np.load(folder / "vectors.npy", mmap_mode="r"))
    known = rows - options.new if "new" in method else 0
    run: Callable[[], tuple[Any, str]] = {
        "synthmill": lambda: ours(folder, options),
        "synthmill, new only": lambda: ours(folder, options, known=known),
        "synthmill, exact": lambda: ours(folder, options, exact=True),
        "semhash": lambda: semhash(folder, options, "usearch"),
        "semhash, exact index": lambda: semhash(folder, options, "basic"),
        "faiss flat": lambda: bare_faiss(folder, options, ivf=False),
        "faiss IVF": lambda: bare_faiss(folder, options, ivf=True),
    }.get(method, lambda: through_ray(folder, options, workers))
    with tempfile.TemporaryDirectory() as small:
        make_up(Path(small), 3000)
        if method.startswith("synthmill"):
            from synthmill.tasks.vectors import buckets

            usual, buckets.EXACT_UP_TO = buckets.EXACT_UP_TO, 0
            ours(Path(small), options)
            ours(Path(small), options, exact=True)
            buckets.EXACT_UP_TO = usual
        elif method.startswith("semhash"):
            semhash(Path(small), options, "basic")
        else:
            bare_faiss(Path(small), options, ivf="IVF" in method)
    watch = Watch()
    options.started, options.ended = watch.start, watch.stop
    watch.start()
    kept, stated = run()
    watch.stop()
    twins, vectors = np.load(folder / "twins.npy"), np.load(folder / "vectors.npy", mmap_mode="r")
    close = [
        np.einsum("ij,ij->i", *(vectors[twins[at : at + 4096, side]].astype(np.float64) for side in (0, 1)))
        for at in range(0, len(twins), 4096)
    ]
    same = twins[(np.concatenate(close) >= options.threshold) & (twins.max(axis=1) >= known)]
    resolved = ~(kept[same[:, 0]] & kept[same[:, 1]])
    print(json.dumps({**watch.numbers(), "recall": float(resolved.mean()), "stated": stated, "kept": int(kept.sum())}))


class Watch:
    """Seconds, CPU seconds and the highest memory, in bytes, of this process and its children."""

    def __init__(self) -> None:
        self.peak, self.running, self.seconds, self.cpu = 0, False, 0.0, 0.0

    def start(self) -> None:
        self.before = {pid: cpu_of(pid) for pid in family()}
        self.base = sum(private_of(pid) for pid in self.before)
        self.peak, began = 0, self.running
        self.began, self.running = time.monotonic(), True
        if began:
            return
        threading.Thread(target=self.look, daemon=True).start()

    def look(self) -> None:
        while self.running:
            began = time.monotonic()
            self.peak = max(self.peak, sum(private_of(pid) for pid in family()) - self.base)
            time.sleep(max(0.05, 20 * (time.monotonic() - began)))  # looking through much mapped memory takes time

    def stop(self) -> None:
        if self.running:
            self.running, self.seconds = False, time.monotonic() - self.began
            self.cpu = sum(cpu_of(pid) - self.before.get(pid, 0.0) for pid in family())

    def numbers(self) -> dict[str, float]:
        return {"seconds": self.seconds, "cpu": self.cpu, "bytes": self.peak}


def family(root: int = 0) -> list[int]:
    """A process, this one by default, and all below it."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
        except OSError:
            continue
    pids = [root or os.getpid()]
    for pid in pids:
        pids += parents.get(pid, [])
    return pids


def cpu_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def private_of(pid: int) -> int:
    """Memory of one process; of what is shared, files that are mapped for instance, its share."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def rows_of(options: argparse.Namespace) -> Iterator[str]:
    goal = f"cosine >= {options.threshold}, recall asked for {options.recall}"
    yield f"{DIMENSIONS} dimensions, {goal}; {os.cpu_count()} cores."
    yield ""
    yield "| rows | | seconds | CPU s | peak memory / data | recall | stated recall | kept |"
    yield "|---:|---|---:|---:|---:|---:|---|---:|"
    sizes = [(rows, "float32") for rows in options.rows] + [(options.large, "float16")] * bool(options.large)
    for rows, precision in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = options.folder / str(rows) if options.folder else Path(name)
            if not (folder / "twins.npy").exists():
                folder.mkdir(parents=True, exist_ok=True)
                make_up(folder, rows, precision)
            size = rows * DIMENSIONS * np.dtype(precision).itemsize
            large = rows == options.large
            for method, most in METHODS.items():
                fewest = options.new if "new" in method else 0
                is_large = "2 workers" in method or "new" in method
                if not fewest < rows <= most or (large and not is_large) or method in options.without:
                    continue
                command = [sys.executable, "-m", "bench.dedup", "--method", method, "--folder", str(folder)]
                command += [f"--{name}={getattr(options, name)}" for name in ("threshold", "recall", "new")]
                try:
                    limit = LIMIT_S * (6 if large else 1)
                    process = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=True)
                except subprocess.TimeoutExpired:
                    yield f"| {rows:,} | {method} | over {limit} | | | | | |"
                    continue
                except subprocess.CalledProcessError as error:
                    yield f"| {rows:,} | {method} | {error.stderr.strip().splitlines()[-1][:80]} | | | | | |"
                    continue
                report = json.loads(process.stdout.splitlines()[-1])
                costs = f"{report['seconds']:.1f} | {report['cpu']:.1f} | {report['bytes'] / size:.2f}"
                label = method.replace("new only", f"{options.new:,} new only") + ", float16" * large
                yield (
                    f"| {rows:,} | {label} | {costs} | "
                    f"{report['recall']:.4f} | {report['stated']} | {report['kept']:,} |"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[50_000, 100_000, 1_000_000])
    parser.add_argument("--large", type=int, default=0)
    parser.add_argument("--new", type=int, default=100_000, help="rows that `new only` compares with all others")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--recall", type=float, default=0.995)
    parser.add_argument("--without", nargs="*", default=[], help="methods to leave out")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where vectors are written and stay; default: a temporary one")
    options = parser.parse_args()
    if options.method:
        return measure(options.method, options.folder, options)
    for line in rows_of(options):
        print(line, flush=True)
    return None


if __name__ == "__main__":
    main()
