"""How soon a command answers: Python alone, `import synthmill`, its help, and small jobs on a file of 100 rows.

    python -m bench.startup [--repeats 9]

Each measurement is a process of its own; every repeat runs all of them in turn, and a row is the median. Compiled
kernels are there already: what compiles runs once before. The libraries that `pairs` rests on are measured bare, too.
`dedup` compares exactly and in words, in this process, and finds its store as the last repeat left it: gone.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 100
COMMAND = ("-m", "synthmill.flows.cli")
MEASURED = {
    "`python -c pass`": ("-c", "pass"),
    "`import synthmill`": ("-c", "import synthmill"),
    "`synthmill --help`": (*COMMAND, "--help"),
    "numpy, pyarrow and numba, imported": ("-c", "import numpy, pyarrow.compute, pyarrow.parquet, numba"),
    "`synthmill pairs`, 100 pools of 8": (*COMMAND, "pairs", "pools.jsonl", "--rule", "rip", "--out", "pairs.jsonl"),
    "`synthmill dedup`, 100 prompts": (
        *(*COMMAND, "dedup", "prompts.jsonl", "--layers", "exact,words", "--workers", "0", "--out", "unique.jsonl"),
    ),
}


def write_files(folder: Path) -> None:
    """100 pools of 8 answers; 100 prompts, a fifth of them twice."""
    with (folder / "pools.jsonl").open("w") as file:
        for n in range(ROWS):
            answers = [f"It grinds {'very ' * place}fine flour, {n}." for place in range(8)]
            rewards = [(7 * n + 13 * place) % 29 / 29 for place in range(8)]
            pool = {"id": n, "prompt": f"What does mill {n} do?", "answers": answers, "rewards": rewards}
            file.write(json.dumps(pool) + "\n")
    with (folder / "prompts.jsonl").open("w") as file:
        for n in range(ROWS):
            row = {"id": f"row-{n}", "prompt": f"What does mill {n % 80} in the valley of {n % 80} hills do?"}
            file.write(json.dumps(row) + "\n")


def seconds_of(arguments: tuple[str, ...], folder: Path) -> float:
    shutil.rmtree(folder / "store", ignore_errors=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {name: [] for name in MEASURED}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_files(folder)
        for arguments in MEASURED.values():
            seconds_of(arguments, folder)
        for _ in range(repeats):
            for name, arguments in MEASURED.items():
                times[name].append(seconds_of(arguments, folder))
    bare = statistics.median(times["`python -c pass`"])
    print("| what | ms | times `python -c pass` |\n|---|---:|---:|")
    for name, measured in times.items():
        middle = statistics.median(measured)
        print(f"| {name} | {1000 * middle:.0f} | {middle / bare:.1f} |")


if __name__ == "__main__":
    main()
