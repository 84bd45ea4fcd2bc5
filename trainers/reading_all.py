"""Exports for a trainer, its reader over all of them, and what came of each table and use."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import chain
from pathlib import Path
from shutil import rmtree
from typing import Any

from synthmill.schemas.formats import USES
from synthmill.storage.published.folder import read_dataset
from synthmill.storage.published.known_trainers import trainer
from trainers.compare import Verdict, compare
from trainers.expected import Expected, expected
from trainers.runs import ROOT

ENVIRONMENTS = {"openai": "trl", "trl-grpo": "trl"}
"""Trainers that are read in another's environment."""
WITH_REWARDS = ("trl-grpo", "verifiers")
"""Trainers whose readers call the reward functions beside the rows, which import this package."""
SHARD_SIZE = "20KB"
"""Of every export, so that readers meet tables of one file and of several."""
READERS = Path(__file__).parent / "readers"


@dataclass(frozen=True)
class Job:
    """A table of a run as a use, in the folder `export`, and what went in."""

    run: str
    table: str
    use: str
    label: str
    export: Path
    rows: list[Expected]

    def as_json(self) -> dict[str, str]:
        return {
            "export": str(self.export),
            "table": self.label,
            "kind": self.use,
            "load": self.loading,
        }

    @property
    def loading(self) -> str:
        """How the export's README says to load the table; a format has no such line."""
        return loading(self.export, self.label)


@dataclass(frozen=True)
class Reading:
    """What came of a job; or, without a verdict, why the export refused it. load: how the export says to load it."""

    run: str
    table: str
    use: str
    verdict: Verdict | None
    refusal: str = ""
    load: str = ""


def exports(name: str, runs: Mapping[str, Path], folder: Path, options: Sequence[str] = ()) -> Iterator[Job | Reading]:
    """Every run's tables for every use that the trainer has, exported; or why they were refused. folder: where the
    environments and exports are; options: further ones of the exports.
    """
    for run, dataset in runs.items():
        wanted = {use: tables_with(dataset, use) for use in trainer(name).forms}
        uses = [use for use, tables in wanted.items() if tables]
        to = folder / "exports" / name / "-".join([run, *options]).replace("--", "")
        together = uses and not export(folder / "runs", run, name, uses, to, *options)
        for use in uses:
            apart = to if together else to.with_name(f"{to.name}-{use}")
            if not together and (refusal := export(folder / "runs", run, name, [use], apart, *options)):
                yield Reading(run, "", use, None, refusal)
                continue
            for table, rows in wanted[use].items():
                label = f"{table or only_table(dataset)}_{use.replace('-', '_')}"
                yield Job(run, table, use, label, apart, rows)


def readings(name: str, exported: Sequence[Job | Reading], folder: Path, tokenizer: Path) -> list[Reading]:
    """What the reader makes of exports, in one process; what was refused stays as it is."""
    jobs = [job for job in exported if isinstance(job, Job)]
    answers = iter(read(name, jobs, folder, tokenizer))
    return [reading_of(job, next(answers)) if isinstance(job, Job) else job for job in exported]


def reading_of(job: Job, answer: Mapping[str, Any]) -> Reading:
    return Reading(job.run, job.table, job.use, compare(answer, job.rows), load=job.loading)


def tables_with(dataset: Path, use: str) -> dict[str, list[Expected]]:
    """A dataset's tables that have rows for a use, with these."""
    tables = {table: expected(dataset, table, use) for table in tables_in(dataset)}
    return {table: rows for table, rows in tables.items() if rows}


def tables_in(dataset: Path) -> list[str]:
    """Names of configurations that have rows to train on; a dataset of one has its files in `data` itself."""
    return sorted({path.parent.name for path in (dataset / "data").glob("*/train-*.parquet")}) or [""]


def only_table(dataset: Path) -> str:
    """The name of a dataset's single table, which is no folder."""
    return next(iter(read_dataset(dataset, check=False).tables))


def export(runs: Path, run: str, name: str, uses: Sequence[str], to: Path, *options: str) -> str:
    """An export for a trainer: the refusal, or nothing."""
    as_uses = chain(*(("--as", use) for use in uses))
    return export_with(runs, run, to, "--for", name, "--shard-size", SHARD_SIZE, *as_uses, *options)


def export_with(runs: Path, run: str, to: Path, *options: str) -> str:
    """`synthmill export`, as users run it: the refusal, or nothing."""
    from synthmill.flows.cli import run_command

    rmtree(to, ignore_errors=True)
    err = StringIO()
    with chdir(runs), redirect_stdout(StringIO()), redirect_stderr(err):
        code = run_command(["export", run, "--to", str(to), *options])
    return " ".join(err.getvalue().split()) if code else ""


def read(name: str, jobs: Sequence[Job], folder: Path, tokenizer: Path) -> list[dict[str, object]]:
    """The reader's answers, in the order of the jobs."""
    if not jobs:
        return []
    listed = folder / "exports" / name / "jobs.json"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text(json.dumps([job.as_json() for job in jobs]))
    python = folder / ENVIRONMENTS.get(name, name) / "bin" / "python"
    reader = READERS / f"read_{name}.py".replace("-", "_")
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if name == "nemo-rl":
        variables["PYTHONPATH"] = os.environ["NEMO_RL"]
    if name in WITH_REWARDS:
        variables["PYTHONPATH"] = str(ROOT)
    with (folder / "exports" / name / "reader.log").open("w") as log:
        command = [str(python), str(reader), str(tokenizer), str(listed)]
        done = subprocess.run(command, env=variables, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    answers = [json.loads(line) for line in done.stdout.replace(f"{ROOT}/", "").splitlines()]
    ended = {"error": f"the reader ended with {done.returncode}: .trainers/exports/{name}/reader.log"}
    return answers + [ended] * (len(jobs) - len(answers))


def short(refusal: str) -> str:
    """A refusal without its opening and its remedy."""
    _, _, after = refusal.partition("nothing was written: ")
    return (after or refusal).partition(". Cut them")[0]


def loading(to: Path, label: str) -> str:
    """The line of the export's README that loads a table, without the names of other tables."""
    _, _, after = (to / "README.md").read_text().partition("(read with version ")
    lines = [line[2:] for line in after.splitlines() if line.startswith("- ") and f"`{label}" in line]
    other = rf"`(?!NAME)[\w-]+_({'|'.join(use.replace('-', '_') for use in USES)})(\.yaml)?`"
    return re.sub(rf", {other}|{other}, ", "", lines[0].replace(f"`{label}", "`NAME")) if lines else ""
