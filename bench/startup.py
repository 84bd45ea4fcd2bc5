"""How soon a command answers: Python alone, `import synthmill`, its help, small jobs on a file of 100 rows, and how
soon a server gets the first request of commands that ask one.

    python -m bench.startup [--repeats 9]

Each measurement is a process of its own; every repeat runs all of them in turn, and a row is the median. Compiled
kernels are there already: what compiles runs once before. The libraries that `pairs` rests on are measured bare, too.
`dedup` compares exactly and in words, in this process, and finds its store as the last repeat left it: gone. `sample`
and `run` ask about 10 rows (a pipeline of one prompt), each time in a new store; the time to the first request is the
local server's. "Again" is the whole command on the store that the row before left.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

from bench.serving import chat_server

ROWS, ASKED = 100, 10
COMMAND = ("-m", "synthmill.flows.cli")
ENVIRONMENT = {**os.environ, "OPENAI_API_KEY": "none"}
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
SAMPLE = (*COMMAND, "sample", "few.jsonl", "--engine", "openai:m@{url}", "--out", "answers.jsonl")
RUN = (*COMMAND, "run", "pipeline.yaml", "--set", "engines.teacher=openai:m@{url}")
FIRST_REQUEST = {
    "`synthmill sample`, 10 prompts": SAMPLE,
    "`synthmill run --no-prefect --workers 0`": (*RUN, "--no-prefect", "--workers", "0"),
    "`synthmill run`, Prefect and Ray": RUN,
}
AGAIN = "the same run again, finished before"
PIPELINE = {
    "source": "few.jsonl",
    "steps": {"answer": {"stage": "ask", "prompt": "{{ prompt }}"}},
    "publish": {"sft": {"kind": "completions", "answer": "answer"}},
}


def write_files(folder: Path) -> None:
    """100 pools of 8 answers; 100 prompts, a fifth of them twice; 10 prompts, and a pipeline that asks them."""
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
    lines = (folder / "prompts.jsonl").read_text().splitlines(keepends=True)
    (folder / "few.jsonl").write_text("".join(lines[:ASKED]))
    (folder / "pipeline.yaml").write_text(json.dumps(PIPELINE))


def seconds_of(arguments: tuple[str, ...], folder: Path, *, again: bool = False) -> float:
    """Seconds of a whole command. again: in the store that is there."""
    if not again:
        shutil.rmtree(folder / "store", ignore_errors=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True, env=ENVIRONMENT)
    return time.perf_counter() - started


def until_asked(arguments: tuple[str, ...], folder: Path, url: str) -> float:
    """Seconds from a command's start to the first request that the server at `url` gets from it."""
    urlopen(f"{url.removesuffix('/v1')}/set?forget=1").close()
    started = time.monotonic()
    seconds_of(tuple(argument.format(url=url) for argument in arguments), folder)
    with urlopen(f"{url.removesuffix('/v1')}/stats") as reply:
        stats = json.load(reply)
    assert stats["total"] == ASKED, stats
    return float(stats["first_s"]) - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {name: [] for name in (*MEASURED, *FIRST_REQUEST, AGAIN)}
    with tempfile.TemporaryDirectory() as temporary, chat_server("--latency-ms", "1") as url:
        folder = Path(temporary)
        write_files(folder)
        again = tuple(argument.format(url=url) for argument in RUN)
        for arguments in MEASURED.values():
            seconds_of(arguments, folder)
        for _ in range(repeats):
            for name, arguments in MEASURED.items():
                times[name].append(seconds_of(arguments, folder))
            for name, arguments in FIRST_REQUEST.items():
                times[name].append(until_asked(arguments, folder, url))
            times[AGAIN].append(seconds_of(again, folder, again=True))
    bare = statistics.median(times["`python -c pass`"])
    print("| what | ms | times `python -c pass` |\n|---|---:|---:|")
    for name, measured in times.items():
        middle = statistics.median(measured)
        what = f"{name}: first request" if name in FIRST_REQUEST else name
        print(f"| {what} | {1000 * middle:.0f} | {middle / bare:.1f} |")


if __name__ == "__main__":
    main()
