"""Cutting pairs from many pools: `synthmill pairs` on a Parquet file against its parts done bare.

    python -m bench.cuts [--prompts 1000000] [--answers 64] [--repeats 3] [--folder DIR]

The bound is the plain formulation on numpy arrays, in blocks of 20,000 prompts: mean, standard deviation, and the
nearest reward to each of the seven points; for RIP, minimum, maximum and three quantiles. Bare reading and writing are
pyarrow's, of the same file and the same pairs. Each measurement is a process of its own, in turn; medians. Rewards are
normal, answers are 16 to 64 random letters. The start of the command (Python, imports, kernels loaded) is measured too.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = 20_000
LETTERS = 1 << 20


def write_pools(path: Path, prompts: int, answers: int) -> None:
    """Wide pools in Parquet, a row group per block."""
    draw = np.random.default_rng(0)
    letters = draw.integers(ord("a"), ord("z") + 1, LETTERS).astype(np.uint8)
    writer = None
    for start in range(0, prompts, BLOCK):
        count = min(BLOCK, prompts - start)
        lengths = draw.integers(16, 65, count * answers)
        ends = np.append(0, np.cumsum(lengths))
        begins = draw.integers(0, len(letters) - 65, count * answers)
        at = np.repeat(begins - ends[:-1], lengths) + np.arange(ends[-1])
        texts = pa.Array.from_buffers(
            pa.string(), len(lengths), [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(letters[at].tobytes())]
        )
        places = pa.array(np.arange(0, count * answers + 1, answers), pa.int32())
        names = [f"p{n}" for n in range(start, start + count)]
        columns = {
            "prompt_id": pa.array(names),
            "prompt": pa.array([f"What does the mill do, {name}?" for name in names]),
            "answers": pa.ListArray.from_arrays(places, texts),
            "rewards": pa.ListArray.from_arrays(places, pa.array(draw.normal(size=count * answers))),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer:
        writer.close()


def bound(prompts: int, answers: int) -> float:
    """Seconds of the plain formulation, without making the numbers."""
    draw = np.random.default_rng(0)
    seconds, metrics = 0.0, []
    for start in range(0, prompts, BLOCK):
        rewards = draw.normal(size=(min(BLOCK, prompts - start), answers))
        lengths = draw.integers(16, 65, rewards.shape)
        started = time.perf_counter()
        rows = np.arange(len(rewards))
        mean, std = rewards.mean(axis=1), rewards.std(axis=1)
        low, high = rewards.argmin(axis=1), rewards.argmax(axis=1)
        for sigmas in (-2, -1, 0, 1, 2):
            np.abs(rewards - (mean + sigmas * std)[:, None]).argmin(axis=1)
        worst = rewards[rows, low]
        metrics.append((worst, lengths[rows, low], rewards[rows, high] - worst))
        seconds += time.perf_counter() - started
    started = time.perf_counter()
    reward, length, gap = (np.concatenate(column) for column in zip(*metrics, strict=True))
    keep = (reward >= np.quantile(reward, 0.5)) & (length >= np.quantile(length, 0.5)) & (gap <= np.quantile(gap, 0.5))
    assert keep.any()
    return seconds + time.perf_counter() - started


def bare(pools: Path, pairs: Path, out: Path) -> float:
    """Seconds to read the pools and to write the pairs, with pyarrow alone."""
    made = pq.read_table(pairs)
    started = time.perf_counter()
    for batch in pq.ParquetFile(pools, memory_map=True).iter_batches(batch_size=BLOCK):
        assert batch.num_rows
    pq.write_table(made, out, compression="zstd")
    return time.perf_counter() - started


def ours(pools: Path, out: Path, rule: str) -> float:
    """Seconds of the command, its imports and its compiled kernels' loading included."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "flows.cli", "pairs", str(pools), "--rule", rule, "--out", str(out), "--json"]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def measured(*arguments: str) -> tuple[float, float]:
    """(seconds, peak MiB of the process and its child) of one measurement in a process of its own."""
    command = [sys.executable, "-m", "bench.cuts", "--measure", *arguments]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return said["seconds"], said["peak_mib"]


def measure(what: str, *arguments: str) -> None:
    seconds = 0.0
    if what == "write":
        write_pools(Path(arguments[0]), int(arguments[1]), int(arguments[2]))
    elif what == "bound":
        seconds = bound(int(arguments[0]), int(arguments[1]))
    elif what == "bare":
        seconds = bare(*map(Path, arguments))
    else:
        seconds = ours(Path(arguments[0]), Path(arguments[1]), what)
    used = resource.RUSAGE_SELF if what in ("bound", "bare") else resource.RUSAGE_CHILDREN
    print(json.dumps({"seconds": seconds, "peak_mib": resource.getrusage(used).ru_maxrss / 1024}))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--prompts", type=int, default=1_000_000)
    options.add_argument("--answers", type=int, default=64)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--folder", type=Path, help="where the pools are kept; default: a temporary folder")
    options.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure:
        measure(*given.measure)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        pools = folder / f"pools-{given.prompts}-{given.answers}.parquet"
        if not pools.exists():
            measured("write", str(pools), str(given.prompts), str(given.answers))
        small = folder / "small.parquet"
        measured("write", str(small), "1000", str(given.answers))
        ours(small, folder / "small-pairs.parquet", "rip")  # compiles
        times: dict[str, list[tuple[float, float]]] = {}
        for _ in range(given.repeats):
            start = measured("rip", str(small), str(folder / "small-pairs.parquet"))
            times.setdefault("start: rip on 1,000 prompts", []).append(start)
            times.setdefault("bound", []).append(measured("bound", str(given.prompts), str(given.answers)))
            for rule in ("sweet-spot", "rip"):
                pairs = folder / f"{rule}.parquet"
                times.setdefault(rule, []).append(measured(rule, str(pools), str(pairs)))
                bare_name = f"bare, pairs of {rule}"
                again = measured("bare", str(pools), str(pairs), str(folder / "again.parquet"))
                times.setdefault(bare_name, []).append(again)
        size = pools.stat().st_size / 2**20
        raw = sum(
            pq.ParquetFile(pools).metadata.row_group(n).total_byte_size
            for n in range(pq.ParquetFile(pools).num_row_groups)
        )
        print(
            f"{given.prompts:,} prompts x {given.answers} answers: {size:,.0f} MiB, unpacked {raw / 2**20:,.0f} MiB\n"
        )
        middle = {name: statistics.median(seconds for seconds, _ in many) for name, many in times.items()}
        begin = middle["start: rip on 1,000 prompts"]
        print("| what | seconds | peak MiB | of 2 x bound + bare | without the start |")
        print("|---|---:|---:|---:|---:|")
        for name, many in times.items():
            allowed = 2 * middle["bound"] + middle.get(f"bare, pairs of {name}", 0)
            shares = (f"{seconds / allowed:.2f}" for seconds in (middle[name], middle[name] - begin))
            share = " | ".join(shares) if name in ("sweet-spot", "rip") else " | "
            print(f"| {name} | {middle[name]:.1f} | {max(peak for _, peak in many):,.0f} | {share} |")


if __name__ == "__main__":
    main()
