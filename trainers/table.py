"""`make trainers`: exports read by every trainer's own reader, and docs/trainers.md, which says what came of it; beside
it docs/trainers-before.md, with rows that came out wrong before there were such exports.

python -m trainers.table [NAME ...]      some trainers only; the others' rows are those of last time
"""

import json
import os
import pickle
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from synthmill.schemas.formats import ThinkingPlace
from synthmill.storage.published.known_trainers import trainer, trainer_names
from trainers.before import before_page
from trainers.compare import Verdict
from trainers.formats import Cell, format_exports
from trainers.hub_round_trip import RUN as HUB_RUN
from trainers.hub_round_trip import hub_readings, hub_table
from trainers.reading_all import ENVIRONMENTS, Job, Reading, exports, readings, short
from trainers.runs import ROOT, make_runs
from trainers.thoughts import RUN as THINKING_RUN
from trainers.thoughts import thinking_exports, thinking_table
from trainers.tokenizer import make_tokenizer

AT_ONCE = 2
"""Readers at the same time: each is a process of a gigabyte or so."""
FOLDER = ROOT / ".trainers"
KEPT = FOLDER / "readings"
PAGE, BEFORE = ROOT / "docs" / "trainers.md", ROOT / "docs" / "trainers-before.md"
PACKAGES = {
    "trl": "trl", "trl-grpo": "trl", "llama-factory": "llamafactory", "axolotl": "axolotl", "ms-swift": "ms-swift",
    "openrlhf": "openrlhf", "verl": "verl", "torchtune": "torchtune", "mlx-lm": "mlx-lm", "nemo-rl": "nemo_rl",
    "verifiers": "verifiers", "openai": "", "sentence-transformers": "sentence-transformers",
}  # fmt: skip
"""The trainers that are read, and the packages that read; OpenAI has none."""
assert set(PACKAGES) == set(trainer_names())
PARTS = ("system", "prompt", "answers", "tools", "calls", "results")
HEAD = """# Trainers
Written by `make trainers`, which exports runs with `synthmill export RUN --for TRAINER`, has each trainer's own reader
read them in an environment of its own, and compares what it is about to train on, decoded, with what went in. A kind
that is not in this table is not supported.

The runs: `synthesize`, `dialogues` (tools, calls, results), `multifaceted` (system messages), `preferences`,
`retpo` (several turns), whose answers are a local server's, and a user's own rows: `verified` (for RL), `tool_pairs`
(pairs with tools). Exports are cut into files of 20 KB, so that tables of one file and of several are read. The
tokenizer is a byte-level BPE with a chat template in the form of Qwen 2.5's, with tools, whose arguments it encodes as
JSON; LLaMA-Factory, ms-swift and torchtune use their own.

- **rows**: what the reader kept, of what went in.
- **yes**: equal in every row that has it; **-**: no row has it; otherwise the number of rows that were wrong.
- **under the loss**: what the trained tokens say. "With their header" includes `<|im_start|>assistant`. Reward models
  and prompts have no loss on tokens. For RL, what the reward file beside the rows gives where the reader was run with
  it: of TRL by `GRPOTrainer`'s own calculation, of verifiers by scoring a trace.
- **refused**: the export says so before it writes a file, and how to go on.
"""
FORMATS = """
## Formats
What readers make of `--format`, with a configuration written by hand as their documentation shows it, on rows with
tools (`dialogues`), with system messages (`multifaceted`) and on triplets. What is wrong, row by row, and what `--for`
makes of it: [trainers-before.md](trainers-before.md).
"""
NOTES = """
OpenAI's fine-tuning has no reader to install: its lines are checked by the documented rules (keys, calls and results
that belong together, an assistant's message last), and rendered with the same template. NeMo RL is on no package index:
`NEMO_RL=FOLDER make trainers` reads with a checkout's sources. Modules for sound that a reader imports and no text
needs are replaced by stand-ins. What a reader imports, in which versions: `trainers/requirements/`.
"""


def main(names: Sequence[str]) -> None:
    runs = make_runs(FOLDER / "runs")
    tokenizer = make_tokenizer(FOLDER / "tokenizer")
    KEPT.mkdir(exist_ok=True)
    trainers = [name for name in names or PACKAGES if can_be_read(name)]
    jobs = [jobs_for(name, runs) for name in trainers]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(partial(read_trainer, tokenizer=tokenizer), trainers, jobs))
    keep("hub", list(hub_readings(runs[HUB_RUN], FOLDER)))
    of_exports = {name: kept_readings(name) for name in PACKAGES if kept_readings(name)}
    write_pages(of_exports)
    wrong = [name for name, of in of_exports.items() if any(r.verdict and not r.verdict.is_right for r in of)]
    sys.exit(f"not read as it was written: {', '.join(wrong)}" if wrong else 0)


class Jobs(NamedTuple):
    """What a trainer's reader shall read: exports for it, formats, and thinking at every place."""

    exports: list[Job | Reading]
    formats: list[tuple[Cell, Job]]
    thoughts: list[tuple[ThinkingPlace, Job | Reading]]


def jobs_for(name: str, runs: Mapping[str, Path]) -> Jobs:
    """Write the exports that a trainer's reader shall read."""
    plain = list(exports(name, {run: dataset for run, dataset in runs.items() if run != THINKING_RUN}, FOLDER))
    formats = list(format_exports(name, runs, FOLDER))
    thoughts = list(thinking_exports(name, runs[THINKING_RUN], FOLDER))
    return Jobs(plain, formats, thoughts)


def read_trainer(name: str, jobs: Jobs, tokenizer: Path) -> None:
    """Have a trainer's reader read, and keep what comes of it."""
    print(f"{name} ...", file=sys.stderr)
    plain, formats, thoughts = jobs
    every = [*plain, *(job for _, job in formats), *(job for _, job in thoughts)]
    answers = iter(readings(name, every, FOLDER, tokenizer))
    keep(name, [next(answers) for _ in plain])
    keep(f"{name}-formats", [(cell, next(answers)) for cell, _ in formats])
    keep(f"{name}-thinking", [(place, next(answers)) for place, _ in thoughts])
    print(f"{name}: {len(every)} exports", file=sys.stderr)


def write_pages(of_exports: Mapping[str, Sequence[Reading]]) -> None:
    thoughts = {name: kept_readings(f"{name}-thinking") for name in PACKAGES}
    cells = [cell for name in PACKAGES for cell in kept_readings(f"{name}-formats")]
    parts = table(of_exports), (NOTES,), faults(of_exports), thinking_table(thoughts), hub_table(kept_readings("hub"))
    PAGE.write_text("\n".join([HEAD, *chain(*parts), FORMATS, *format_table(cells)]).rstrip() + "\n")
    BEFORE.write_text(before_page(cells, of_exports).rstrip() + "\n")
    print(PAGE.read_text())


def keep(name: str, found: list[Any]) -> None:
    (KEPT / name).write_bytes(pickle.dumps(found))


def kept_readings(name: str) -> list[Any]:
    """What a trainer's reader made of the exports when it was last asked."""
    return list(pickle.loads((KEPT / name).read_bytes())) if (KEPT / name).exists() else []


def can_be_read(name: str) -> bool:
    """Whether the reader is there: installed, or, NeMo RL's, where a variable says so."""
    installed = not (FOLDER / ENVIRONMENTS.get(name, name) / ".absent").exists()
    return installed and (name != "nemo-rl" or bool(os.environ.get("NEMO_RL")))


def version_of(name: str) -> str:
    """The reader's own version, as its environment knows it."""
    package = PACKAGES[name]
    if not package:
        return "by its documented rules"
    ask = f"import importlib.metadata as m; print(m.version({package!r}))"
    variables = dict(os.environ)
    if name == "nemo-rl":
        ask = "import nemo_rl; print(nemo_rl.__version__)"
        variables["PYTHONPATH"] = os.environ["NEMO_RL"]
    python = FOLDER / ENVIRONMENTS.get(name, name) / "bin" / "python"
    return subprocess.run([str(python), "-c", ask], env=variables, capture_output=True, text=True).stdout.strip()


def table(found: Mapping[str, Sequence[Reading]]) -> Iterator[str]:
    """A row for each trainer and kind, over all runs."""
    head = ("trainer", "kind", "rows", *PARTS, "under the loss", "how to load it")
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for name, of in found.items():
        by_use = defaultdict(list)
        for reading in of:
            by_use[reading.use].append(reading)
        title = f"**{trainer(name).title}** {version_of(name)}"
        for use in (use for use in trainer(name).forms if use in by_use):
            yield f"| {' | '.join((title, use, *cells_of(by_use[use])))} |"
    for name in PACKAGES.keys() - found.keys():
        yield f"| **{trainer(name).title}** | not read: its reader is not installed |{' - |' * (len(head) - 2)}"


def cells_of(some: Sequence[Reading]) -> Iterator[str]:
    verdicts = [reading.verdict for reading in some if reading.verdict]
    total = sum(verdicts, Verdict())
    yield f"{total.rows[0]} of {total.rows[1]}" if verdicts else "refused"
    refused = {part for reading in some if not reading.verdict for part in ("tools",) if "tools" in reading.refusal}
    for part in PARTS:
        if part in refused or (refused and part in ("calls", "results")):
            yield "refused"
        else:
            yield kept(total, part)
    if some[0].use == "reward":
        total.learned.clear()
    yield (
        "; ".join(
            f"{what} ({count})" if len(total.learned) > 1 else what for what, count in total.learned.most_common()
        )
        or "-"
    )
    loads = sorted((reading.load for reading in some if reading.load), key=len)
    yield loads[0].replace("|", "\\|") if loads else "-"


def kept(total: Verdict, part: str) -> str:
    """What became of a part: yes, no row has it, or how many rows are wrong."""
    also = {"prompt": ("order",), "answers": ("label", "texts", "rewards")}.get(part, ())
    names = [name for name in (part, *also) if total.present[name]]
    if not names:
        return "-"
    wrong = sum(total.wrong[name] for name in names)
    return f"**{wrong} wrong**" if wrong else "yes"


def format_table(cells: Sequence[tuple[Cell, Reading]]) -> Iterator[str]:
    """A row for each format and reader, with what came of it and the first row's text."""
    head = ("format", "kind", "reader", "with", "rows", *PARTS, "under the loss")
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for cell, reading in sorted(cells, key=lambda found: (found[0].format, found[0].use)):
        settings = f"`{cell.shown_settings}`" if cell.settings else "-"
        what = reading.verdict.error.replace("|", "/")[:120] if reading.verdict else ""
        what += f" ({cell.note.removesuffix('.')})" if what and cell.note else ""
        rows, *parts, _ = cells_of([reading])
        yield f"| {' | '.join((cell.format, cell.use, trainer(cell.reader).title, settings, what or rows, *parts))} |"


def faults(found: Mapping[str, Sequence[Reading]]) -> Iterator[str]:
    """What was refused, and what came out otherwise than it went in."""
    refused = [
        f"- {trainer(name).title}, {reading.use} of `{reading.run}`: {short(reading.refusal)}"
        for name, of in found.items()
        for reading in of
        if reading.refusal
    ]
    if refused:
        yield from ("## Refused", *refused)
    wrong = [
        f"- {trainer(name).title}, {reading.use} of `{reading.run}` {reading.table}: {line}"
        for name, of in found.items()
        for reading in of
        if reading.verdict
        for line in lines_of(reading.verdict)
    ]
    if wrong:
        yield from ("\n## Not as it went in", *wrong)


def lines_of(verdict: Verdict) -> Iterator[str]:
    if verdict.error:
        yield verdict.error
    if not verdict.error and verdict.rows[0] != verdict.rows[1]:
        yield f"{verdict.rows[0]} of {verdict.rows[1]} rows came out"
    for part, (wanted, got) in verdict.first_wrong.items():
        before, after = (json.dumps(value, ensure_ascii=False)[:200] for value in (wanted, got))
        yield f"{part}: {before} became {after}"


if __name__ == "__main__":
    main(sys.argv[1:])
