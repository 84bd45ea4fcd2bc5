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
    table = pq.read_table(pairs)
    started = time.perf_counter()
    for batch in pq.ParquetFile(pools, memory_map=True).iter_batches(batch_size=BLOCK):
        assert batch.num_rows
    pq.write_table(table, out, compression="zstd")
    return time.perf_counter() - started


def ours(pools: Path, out: Path, rule: str) -> float:
    """Seconds of the command, its imports and its compiled kernels' loading included."""
    started = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "synthmill.flows.cli",
        "pairs",
        str(pools),
        "--rule",
        rule,
        "--out",
        str(out),
        "--json",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def run_measurement(*arguments: str) -> tuple[float, float]:
    """(seconds, peak MiB of the process and its child) of one measurement in a process of its own."""
    command = [sys.executable, "-m", "bench.cuts", "--measure", *arguments]
    output = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return output["seconds"], output["peak_mib"]


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--answers", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the pools are kept; default: a temporary folder")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        pools = folder / f"pools-{options.prompts}-{options.answers}.parquet"
        if not pools.exists():
            run_measurement("write", str(pools), str(options.prompts), str(options.answers))
        small = folder / "small.parquet"
        run_measurement("write", str(small), "1000", str(options.answers))
        ours(small, folder / "small-pairs.parquet", "rip")  # compiles
        times: dict[str, list[tuple[float, float]]] = {}
        for _ in range(options.repeats):
            start = run_measurement("rip", str(small), str(folder / "small-pairs.parquet"))
            times.setdefault("start: rip on 1,000 prompts", []).append(start)
            times.setdefault("bound", []).append(run_measurement("bound", str(options.prompts), str(options.answers)))
            for rule in ("sweet-spot", "rip"):
                pairs = folder / f"{rule}.parquet"
                times.setdefault(rule, []).append(run_measurement(rule, str(pools), str(pairs)))
                bare_name = f"bare, pairs of {rule}"
                again = run_measurement("bare", str(pools), str(pairs), str(folder / "again.parquet"))
                times.setdefault(bare_name, []).append(again)
        print_size(pools, options.prompts, options.answers)
        print_table(times)


def print_size(pools: Path, prompts: int, answers: int) -> None:
    file = pq.ParquetFile(pools)
    size = pools.stat().st_size / 2**20
    unpacked = sum(file.metadata.row_group(n).total_byte_size for n in range(file.num_row_groups)) / 2**20
    print(f"{prompts:,} prompts x {answers} answers: {size:,.0f} MiB, unpacked {unpacked:,.0f} MiB\n")


def print_table(times: dict[str, list[tuple[float, float]]]) -> None:
    """times: (seconds, peak MiB) of every repeat, by what was measured."""
    middle = {name: statistics.median(seconds for seconds, _ in repeats) for name, repeats in times.items()}
    begin = middle["start: rip on 1,000 prompts"]
    print("| what | seconds | peak MiB | of 2 x bound + bare | without the start |")
    print("|---|---:|---:|---:|---:|")
    for name, repeats in times.items():
        allowed = 2 * middle["bound"] + middle.get(f"bare, pairs of {name}", 0)
        shares = (f"{seconds / allowed:.2f}" for seconds in (middle[name], middle[name] - begin))
        share = " | ".join(shares) if name in ("sweet-spot", "rip") else " | "
        print(f"| {name} | {middle[name]:.1f} | {max(peak for _, peak in repeats):,.0f} | {share} |")


if __name__ == "__main__":
    main()
