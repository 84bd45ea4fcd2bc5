"""Run records: one JSON file per run, written at its start and at its end."""

import os
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.bill import added_up, money_text, tokens_in, tokens_out, wasted
from synthmill.schemas.calls import Frozen
from synthmill.schemas.errors import EngineLearned, InputError, Stopped, StoreError
from synthmill.storage.artifacts import Store, read_manifest
from synthmill.storage.files import locked, read_json, write_json

TEXTS = ("step", "artifact", "dropped", "wasted")
"""The columns of a summary that are no numbers."""
Status = Literal["running", "finished", "failed", "stopped", "crashed"]


class StageRun(Frozen):
    """What one run did for one step. spent: this run's requests and tokens by role (a manifest's are of all time)."""

    stage: str
    step: str = Field("", description="its id within the run; the stage's name where that says enough")
    artifact: str
    key: str
    rows_in: int
    rows: int
    dropped: dict[str, int]
    spent: dict[str, dict[str, int]]
    money: float = Field(0.0, description="by the prices that the run was given")
    seconds: float

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        spent: dict[str, dict[str, int]],
        seconds: float,
        step: str = "",
        money: float = 0.0,
    ) -> "StageRun":
        return cls(
            stage=manifest.stage,
            step=step or manifest.stage,
            artifact=manifest.reference,
            key=manifest.key,
            rows_in=manifest.rows_in,
            rows=manifest.rows,
            dropped=manifest.dropped,
            spent=spent,
            money=money,
            seconds=round(seconds, 2),
        )

    @property
    def step_id(self) -> str:
        """Records of earlier versions have stages only."""
        return self.step or self.stage

    def total(self, counter: str) -> int:
        """One of sent, reused, failed and the counters of schemas/usage.py, over all roles."""
        return sum(numbers.get(counter, 0) for numbers in self.spent.values())

    @property
    def counters(self) -> dict[str, float]:
        """All counters, over all roles."""
        return added_up(self.spent.values())


class RunRecord(Frozen):
    """One run. settings hold names of environment variables, never a key."""

    id: str
    flow: str
    method: str = Field("", description="which method planned it, where the flow has a name of its own")
    job: str = Field("", description="what all runs of the same stages have in common: their dataset's name")
    status: Status = "running"
    process: str = Field("", description="host, pid and when it began: whether it still lives")
    flow_run: str = Field("", description="Prefect's id of it")
    started_at: str
    ended_at: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    stages: tuple[StageRun, ...] = ()
    dataset: str = ""
    error: str = ""


def this_process() -> str:
    """Host, pid and start: what identifies this process on this host."""
    return f"{socket.gethostname()} {os.getpid()} {process_start(os.getpid())}"


def process_start(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where it is gone, or where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        return ""


def is_gone(process: str) -> bool:
    """Whether a process of this host has ended; False for a process of another host."""
    host, _, rest = process.partition(" ")
    pid, _, ticks = rest.partition(" ")
    return (
        host == socket.gethostname()
        and pid.isdigit()
        and Path("/proc/self/stat").exists()
        and process_start(int(pid)) != ticks
    )


def sweep_crashed_runs(store: Store) -> list[RunRecord]:
    """Mark runs whose process is gone (killed, or the machine went down) as crashed; returns them."""
    return [
        write_run(store, run.model_copy(update={"status": "crashed", "ended_at": now(), "error": CRASHED}))
        for run in runs(store)
        if run.status == "running" and is_gone(run.process)
    ]


CRASHED = "its process was killed, or the machine went down; run the same command again to continue"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run(flow: str, settings: dict[str, Any], job: str = "", method: str = "") -> RunRecord:
    """A record with a fresh id that sorts by time, also among the runs of a second."""
    moment = datetime.now(UTC)
    fraction = moment.microsecond * 4096 // 1_000_000
    return RunRecord(
        id=f"{moment:%Y%m%d-%H%M%S}-{fraction:03x}{secrets.token_hex(1)}",
        flow=flow,
        method=method,
        job=job,
        process=this_process(),
        started_at=now(),
        settings=settings,
    )


def write_run(store: Store, record: RunRecord) -> RunRecord:
    """Write a run's record. A starting run waits while `synthmill gc` deletes, so that it keeps what it will reuse."""
    with locked(sweeping_lock(store), WaitForSweep()) if record.status == "running" else nullcontext():
        write_json(store.runs / f"{record.id}.json", record.model_dump(mode="json"))
    return record


def sweeping_lock(store: Store) -> Path:
    """The lock that `synthmill gc` holds from listing runs to its last deletion; a starting run takes it, too."""
    return store.root / ".gc.lock"


class WaitForSweep:
    """Prints once what a run waits for."""

    printed = False

    def __call__(self) -> None:
        if not self.printed:
            print("`synthmill gc` deletes what nobody needs; waiting for it", file=sys.stderr, flush=True)
            self.printed = True


@contextmanager
def record_run(store: Store, record: RunRecord) -> Iterator[list[StageRun]]:
    """Write a run's record now, and again at the end, with its status and the stages that were added to the list."""
    write_run(store, record)
    stages: list[StageRun] = []
    status, error = "failed", ""
    try:
        yield stages
        status = "finished"
    except (Stopped, EngineLearned) as stopped:
        status, error = "stopped", stopped.message
        raise
    except BaseException as failure:
        error = str(failure)
        raise
    finally:
        ended = {"status": status, "error": error, "stages": tuple(stages), "ended_at": now()}
        with suppress(StoreError) if error else nullcontext():  # the first error is the one to tell
            write_run(store, record.model_copy(update=ended))


def runs(store: Store) -> Iterator[RunRecord]:
    """Every run, the oldest first; a damaged record is left out."""
    for path in sorted(store.runs.glob("*.json")):
        with suppress(StoreError, ValueError):
            yield read_run(path)


def read_run(path: Path) -> RunRecord:
    """Raises StoreError or ValueError for a damaged record, and for one whose id is not its file's name."""
    run = RunRecord.model_validate(read_json(path))
    if run.id != path.stem:
        raise StoreError(f"{path} is another run's record ({run.id}); delete it")
    return run


def find_run(store: Store, name: str, *, published: bool = False) -> RunRecord:
    """Find a run by its id or the id's beginning, `latest`, or a flow's name (its latest finished run).

    published: only runs with a dataset. Raises InputError, which lists runs.
    """
    candidates = [run for run in runs(store) if run.dataset or not published]
    finished = [run for run in candidates if run.status == "finished"]
    if name == "latest" and finished:
        return finished[-1]
    matches = [run for run in finished if run.flow == name] or [run for run in candidates if run.id.startswith(name)]
    if matches and (len({run.id for run in matches}) == 1 or matches[-1].flow == name):
        return matches[-1]
    latest = ", ".join(f"{run.id} ({run.flow}, {run.status})" for run in (matches or candidates)[-6:]) or "none yet"
    kind = "run with a dataset" if published else "run"
    problem = f"{len(matches)} runs begin with {name!r}" if matches else f"{store.root} has no {kind} {name!r}"
    raise InputError(f"{problem}; expected an id, its beginning, `latest` or a flow's name; there is {latest}")


def manifests_of(store: Store, run: RunRecord) -> dict[str, Manifest]:
    """A run's artifacts by step, in their order, without those that are gone."""
    paths = {stage.step_id: store.manifest_path(stage.stage, stage.key) for stage in run.stages}
    return {step: read_manifest(path) for step, path in paths.items() if path.exists()}


def summary(record: RunRecord) -> str:
    """The run as a markdown table."""
    money = any(stage.money for stage in record.stages)
    names = ["step", "artifact", "rows in", "rows out", "dropped", "calls sent", "reused", "tokens in", "tokens out"]
    names += ["wasted", *(["money"] if money else []), "seconds"]
    lines = [
        f"# {record.flow} {record.id}: {record.status}",
        "",
        table_line(names),
        table_line("---" if name in TEXTS else "---:" for name in names).replace(" ", ""),
    ]
    for stage in record.stages:
        dropped = ", ".join(f"{count} {reason}" for reason, count in stage.dropped.items()) or "none"
        counters = stage.counters
        cells = [stage.step_id, stage.artifact, f"{stage.rows_in:,}", f"{stage.rows:,}", dropped]
        cells += [f"{stage.total(counter):,}" for counter in ("sent", "reused")]
        cells += [tokens_in(counters), tokens_out(counters), wasted(counters) or "none"]
        lines.append(table_line([*cells, *([money_text(stage.money)] if money else []), str(stage.seconds)]))
    if record.error:
        lines += ["", f"**{record.error}**"]
    if record.dataset:
        lines += ["", f"Dataset: `{record.dataset}`"]
    return "\n".join(lines) + "\n"


def table_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
