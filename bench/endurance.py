"""Many rows through a local server on Ray with two workers, one kill -9 on the way: rows a second, memory over time.

    python -m bench.endurance [--rows 100000] [--picture docs/endurance.svg]

Rows are short, an answer takes 20 ms, 64 requests are in flight. Memory is what all processes of the command hold, each
page that is shared counted once, every second, early and late in the middle half of the time. The command is killed
when 40 % of the requests were answered, and run again.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import orjson

from bench.dedup import family, private_of
from bench.serving import chat_server

EVERY_S, KILLED_AT = 1.0, 0.4
STEADY = 0.35, 0.85  # of the time: before, workers start; after, rows are written out


def watch_memory(command: list[str], folder: Path, root: str, until: int) -> tuple[list[tuple[float, float, int]], int]:
    """(second, MiB, requests answered) over time, and the exit code; killed when `until` requests were answered."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    began, samples = time.monotonic(), []
    while process.poll() is None:
        total = int(httpx.get(f"{root}/stats").json()["total"])
        held = sum(private_of(pid) for pid in family(process.pid)) / 2**20
        samples.append((time.monotonic() - began, held, total))
        if total >= until:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(EVERY_S)
    _, errors = process.communicate()
    if process.returncode > 0:
        sys.exit(errors[-2000:])
    return samples, process.returncode


def line(points: list[tuple[float, float, int]], title: str) -> str:
    """Memory over time as SVG."""
    wide, high, margin, bottom = 640, 220, 52, 26
    across = (wide - margin) / max(1e-9, points[-1][0])
    top = max(held for _, held, _ in points) * 1.15
    up = (high - bottom) / top
    path = " ".join(f"{margin + at * across:.1f},{high - bottom - held * up:.1f}" for at, held, _ in points)
    marks = "".join(
        f'<text x="{margin - 6}" y="{high - bottom - value * up + 4:.0f}" text-anchor="end">{value:,.0f}</text>'
        for value in (0, top / 2, top)
    )
    times = "".join(
        f'<text x="{margin + at * across:.0f}" y="{high - 8}" text-anchor="middle">{at:.0f} s</text>'
        for at in np.linspace(0.1, 0.95, 4) * points[-1][0]
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="system-ui" font-size="11" '
        f'fill="#666"><title>{title}</title><rect width="{wide}" height="{high}" fill="#fff"/>'
        f'<polyline points="{path}" fill="none" stroke="#2c7a6b" stroke-width="2"/>{marks}{times}'
        f'<text x="{margin}" y="12">{title}</text></svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    print("| run | rows | seconds | rows/s | MiB early | MiB at the end | requests sent twice |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name, chat_server("--latency-ms", "20", "--words", "12") as url:
        folder, root = Path(name), url.removesuffix("/v1")
        with (folder / "in.jsonl").open("wb") as file:
            for n in range(options.rows):
                file.write(orjson.dumps({"id": str(n), "prompt": f"question {n}: why?"}) + b"\n")
        command = [sys.executable, "-m", "synthmill.flows.cli", "sample", "in.jsonl", "--out", "out.jsonl", "-n", "1"]
        command += ["--engine", f"openai:local-model@{url}", "--workers", "2", "--concurrency", "64"]
        os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
        total_before = 0
        for what, until in (("until the kill", int(KILLED_AT * options.rows)), ("after it", sys.maxsize)):
            samples, _ = watch_memory(command, folder, root, until)
            end = samples[-1][0]
            steady = [held for at, held, _ in samples if STEADY[0] * end <= at <= STEADY[1] * end]
            tenth = max(1, len(steady) // 10)
            stats = httpx.get(f"{root}/stats").json()
            answers, total_before = int(stats["total"]) - total_before, int(stats["total"])
            print(
                f"| {what} | {answers:,} | {samples[-1][0]:.0f} | {answers / samples[-1][0]:,.0f} | "
                f"{np.mean(steady[:tenth]):,.0f} | {np.mean(steady[-tenth:]):,.0f} | {stats['repeated']} |",
                flush=True,
            )
            if options.picture:
                options.picture.write_text(line(samples, f"MiB of all processes, {answers:,} rows {what}"))
        rows = sum(1 for _ in (folder / "out.jsonl").open("rb"))
        assert rows == options.rows, f"{rows} rows of {options.rows}"


if __name__ == "__main__":
    main()
