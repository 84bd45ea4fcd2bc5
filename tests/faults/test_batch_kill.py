"""kill -9 between a batch's submission and its collection: nothing is submitted twice, nothing is lost."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from tests.batching import BatchServer
from tests.command import start, synthmill
from tests.conftest import Matrix, prompts, write_jsonl

pytestmark = pytest.mark.faults
ROWS = 1000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BatchServer]:
    server = BatchServer(tmp_path / "server")
    yield server
    server.end()


def kill(process: "subprocess.Popen[str]") -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_run_killed_between_submit_and_collect(
    tmp_path: Path, server: BatchServer, matrix: Matrix, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
    write_jsonl(tmp_path / "in.jsonl", prompts(ROWS))
    spec = server.spec if kind == "openai" else server.messages_spec
    sample = ("sample", "in.jsonl", "--engine", spec, "--max-tokens", 64)
    synthmill(*sample, "--out", "reference.jsonl", "--store", "reference", cwd=tmp_path)
    server.set(late_s=3600)
    batch = (*sample, "--batch", "--out", "out.jsonl")
    kills = 0
    for condition in (
        lambda: bool(server.stats()["batches"]),
        lambda: (tmp_path / "store" / "batches").exists(),
        lambda: "submitted" in states(tmp_path),
    ):
        process = start(*batch, cwd=tmp_path)
        wait_for(condition, process)
        if kills:
            time.sleep(1.5)  # it waits for the batch
        kill(process)
        kills += 1
    assert server.stats()["batches"] == 1
    server.set(late_s=0)
    synthmill(*batch, cwd=tmp_path)
    stats = server.stats()
    assert (stats["requests"], stats["again"], stats["single"]) == (ROWS, 0, ROWS)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "reference.jsonl").read_bytes()
    synthmill(*sample, "--out", "again.jsonl", cwd=tmp_path)  # without batches
    assert server.stats()["single"] == ROWS
    matrix(
        f"kill -9: a run that waits for a batch of {kind}'s, {kills} times", "finished", f"{ROWS} = {ROWS} + 0", 0, ROWS
    )


def states(folder: Path) -> list[str]:
    return [orjson.loads(path.read_bytes())["state"] for path in (folder / "store" / "batches").glob("*.json")]


@pytest.mark.parametrize("where", ["files", "batches", "content"])
def test_run_and_server_die_in_the_same_moment(tmp_path: Path, server: BatchServer, where: str) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(ROWS))
    sample = ("sample", "in.jsonl", "--engine", server.spec, "--batch", "--out", "out.jsonl")
    server.set(die=where)
    process = start(*sample, cwd=tmp_path)
    server.died(60)
    kill(process)
    server.start()
    synthmill(*sample, cwd=tmp_path)
    stats = server.stats()
    assert (stats["batches"], stats["requests"], stats["again"], stats["single"]) == (1, ROWS, 0, 0)
    rows = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert len({orjson.loads(row)["id"] for row in rows}) == ROWS
