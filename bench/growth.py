"""From prompts to a dataset, at growing sizes: time per row and memory of each step, which should both stay flat.

    python -m bench.growth [--rows 1000 10000 100000] [--folder FOLDER] [--workers 0] [--picture docs/growth.svg]
    python -m bench.growth --rows 1000000 --folder FOLDER --seconds 100   # a part of a large size; run again

`preferences` by a recording: each prompt has two recorded answers of 20 to 60 words, which R3 scores by a bag of words
(random vectors of word pieces, 256 dimensions: real embeddings, at the price of a static model), then pairs, duplicates
(exact, by words, by meaning), card and page; after the run, its report once more and an export as pairs for DPO. Memory
is that of all processes together, each shared page counted once, at its highest within the step. --folder keeps what
was measured, and a call takes up there; a step that took several calls is their sum. The smallest size pays for loading
libraries.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.dedup import family, private_of

STEPS = (
    *("read", "answer_pool", "r3_scores", "pool_signs", "pool_pairs", "vectors", "unique_pairs", "preferences"),
    *("dataset, card, page", "report", "export"),
)
LOOK_S = 0.2
MEASURED = "measured.jsonl"


class Step(NamedTuple):
    """What a step took at one size."""

    rows: int
    step: str
    seconds: float
    peak_mib: float


def measure(folder: Path, rows: int, workers: int, seconds: int) -> None:
    """Make one size, as far as `seconds` allow (0: all of it), and note its steps in the folder's file."""
    if not (folder / "input.done").exists():
        call(folder, rows, "input")
        (folder / "input.done").touch()
    for last, what in ((STEPS[-3], "run"), (STEPS[-2], "report"), (STEPS[-1], "export")):
        if last in steps_in(folder):
            continue
        for step in call(folder, rows, what, "--workers", str(workers), "--seconds", str(seconds)):
            with (folder / MEASURED).open("a") as file:
                file.write(json.dumps(step._asdict()) + "\n")
        if last not in steps_in(folder):
            return


def call(folder: Path, rows: int, what: str, *extra: str) -> list[Step]:
    """Run one process; the steps that it made."""
    command = [sys.executable, "-m", "bench.growth_run", str(folder), str(rows), what, *extra]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    samples: list[tuple[float, float]] = []
    watching = threading.Thread(target=watch, args=(process, samples))
    watching.start()
    out, errors = process.communicate()
    watching.join()
    if process.returncode:
        sys.exit(errors[-2000:])
    spans = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return [
        Step(rows, span["step"], span["ends"] - span["begins"], peak_within(samples, span["begins"], span["ends"]))
        for span in spans
    ]


def watch(process: "subprocess.Popen[str]", samples: list[tuple[float, float]]) -> None:
    """Note (time, MiB) of a process and all below it until it ends."""
    while process.poll() is None:
        began = time.monotonic()
        samples.append((began, sum(map(private_of, family(process.pid))) / 2**20))
        time.sleep(max(LOOK_S, 10 * (time.monotonic() - began)))  # looking through much mapped memory takes time


def peak_within(samples: list[tuple[float, float]], begins: float, ends: float) -> float:
    """The highest memory between two times; of a step shorter than two looks, the look after it."""
    within = [held for at, held in samples if begins <= at <= ends]
    return max(within or [next((held for at, held in samples if at > begins), samples[-1][1])])


def steps_in(folder: Path) -> dict[str, Step]:
    """A size's steps by name; a step that took several calls is one."""
    path = folder / MEASURED
    steps: dict[str, Step] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        step = Step(**json.loads(line))
        if before := steps.get(step.step):
            seconds, peak_mib = before.seconds + step.seconds, max(before.peak_mib, step.peak_mib)
            step = step._replace(seconds=seconds, peak_mib=peak_mib)
        steps[step.step] = step
    return steps


def table(steps: Mapping[tuple[int, str], Step]) -> Iterator[str]:
    """A row a step: microseconds a row and MiB at each size, and the largest size's time by that of 10,000 rows."""
    sizes = sorted({rows for rows, _ in steps})
    base = next((rows for rows in sizes if rows >= 10_000), sizes[-1])
    heads = [f"us a row, {rows:,}" for rows in sizes] + [f"{rows:,} / {base:,}" for rows in sizes if rows > base]
    heads += [f"MiB, {rows:,}" for rows in sizes]
    yield "| step | " + " | ".join(heads) + " |"
    yield "|---|" + "---:|" * len(heads)
    for name in [*STEPS, "all"]:
        times = {rows: micros(steps, rows, name) for rows in sizes}
        cells = [f"{times[rows]:,.0f}" for rows in sizes]
        cells += [f"{times[rows] / times[base]:.2f}" for rows in sizes if rows > base]
        cells += [f"{peak(steps, rows, name):,.0f}" for rows in sizes]
        yield f"| {name} | " + " | ".join(cells) + " |"


def store_of(folder: Path, rows: int) -> str:
    """What a size's store takes on the disk."""
    store = folder / "store"
    parts = {path.name: [file for file in path.rglob("*") if file.is_file()] for path in sorted(store.iterdir())}
    sizes = {name: sum(file.stat().st_size for file in files) / rows for name, files in parts.items()}
    shown = ", ".join(f"{name} {size:,.0f}" for name, size in sizes.items() if size >= 1)
    files = sum(map(len, parts.values()))
    return f"A row of {rows:,} takes {sum(sizes.values()):,.0f} bytes of the store ({shown}), in {files:,} files."


def micros(steps: Mapping[tuple[int, str], Step], rows: int, name: str) -> float:
    """Microseconds a row of one step, or of all of them; nan where one was not measured."""
    names = STEPS if name == "all" else (name,)
    return sum(steps[rows, each].seconds if (rows, each) in steps else math.nan for each in names) / rows * 1e6


def peak(steps: Mapping[tuple[int, str], Step], rows: int, name: str) -> float:
    names = STEPS if name == "all" else (name,)
    return max(steps[rows, each].peak_mib if (rows, each) in steps else math.nan for each in names)


def picture(steps: Mapping[tuple[int, str], Step]) -> str:
    """Two panels as SVG, a line a step over the size: microseconds a row, and MiB; all axes are logarithmic."""
    sizes = sorted({rows for rows, _ in steps})
    shown = [name for name in [*STEPS, "all"] if not math.isnan(micros(steps, sizes[-1], name))]
    panels = (("microseconds a row", micros), ("MiB, all processes", peak))
    wide, high = 420, 300
    body = ""
    for n, (title, value) in enumerate(panels):
        lines = {name: [value(steps, rows, name) for rows in sizes] for name in shown}
        body += f'<g transform="translate({n * wide},0)">{panel(title, lines, sizes)}</g>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(panels) * wide} {high}" font-family="system-ui" '
        f'font-size="10" fill="#555"><title>Time per row and memory of each step, by rows</title>'
        f'<rect width="{len(panels) * wide}" height="{high}" fill="#fff"/>{body}</svg>\n'
    )


def panel(title: str, lines: Mapping[str, list[float]], sizes: list[int]) -> str:
    """One plot, 420 x 300, with the names of its lines beside their ends."""
    left, right, top, bottom = 46, 290, 24, 272
    values = [value for line in lines.values() for value in line if value > 0]
    low, most = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    down = (bottom - top) / max(1, most - low)

    def place(n: int, value: float) -> tuple[float, float]:
        across = left + (right - left) * n / max(1, len(sizes) - 1)
        return across, bottom - (math.log10(max(value, 10**low)) - low) * down

    marks = [f'<text x="{left}" y="12" font-size="12">{title}</text>']
    for power in range(low, most + 1):
        y = bottom - (power - low) * down
        marks.append(f'<line x1="{left}" x2="{right}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
        marks.append(f'<text x="{left - 5}" y="{y + 3:.0f}" text-anchor="end">{10.0**power:,.10g}</text>')
    for n, rows in enumerate(sizes):
        marks.append(f'<text x="{place(n, 1)[0]:.0f}" y="{bottom + 16}" text-anchor="middle">{rows:,}</text>')
    ends: list[float] = []
    for number, (name, line) in enumerate(sorted(lines.items(), key=lambda named: -named[1][-1])):
        colour = f"hsl({360 * number / len(lines):.0f}, 60%, 38%)"
        path = " ".join("{:.1f},{:.1f}".format(*place(n, value)) for n, value in enumerate(line))
        y = max(place(len(sizes) - 1, line[-1])[1] + 3, ends[-1] + 11 if ends else 0)
        ends.append(y)
        marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        marks.append(f'<text x="{right + 6}" y="{y:.0f}" fill="{colour}">{name}</text>')
    return "".join(marks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="keeps stores and figures, a folder a size; default: temporary")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=0, help="stop a run after so long; the next call goes on")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="growth-") as temporary:
        home = (options.folder or Path(temporary)).resolve()
        for rows in options.rows:
            measure(home / str(rows), rows, options.workers, options.seconds)
        measured = [step for folder in home.iterdir() for step in steps_in(folder).values()]
        steps = {(step.rows, step.step): step for step in measured}
        for line in table(steps):
            print(line)
        print("", store_of(home / str(options.rows[-1]), options.rows[-1]), sep="\n")
    if options.picture:
        options.picture.write_text(picture(steps))


if __name__ == "__main__":
    main()
