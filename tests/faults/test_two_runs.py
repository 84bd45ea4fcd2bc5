"""Two runs on one store at once: the same one is made once, different ones share what they have in common."""

import subprocess
import time
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from synthmill.storage.artifacts import Store
from synthmill.storage.files import locked
from tests.command import start, synthmill
from tests.conftest import ChatServer, Matrix, prompts, write_jsonl

pytestmark = pytest.mark.faults
ROWS = 30


def ended(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    return err


def both_under_way(run: tuple[Any, ...], folder: Path, server: ChatServer) -> list["subprocess.Popen[str]"]:
    """The same command twice; the server answers slowly until both are at it."""
    server.set(latency_ms=10_000)
    both = [start(*run, cwd=folder) for _ in range(2)]
    until = time.monotonic() + 120
    while len(list((folder / "store" / "runs").glob("*.json"))) < 2 or not server.stats()["total"]:
        assert time.monotonic() < until and all(process.poll() is None for process in both)
        time.sleep(0.05)
    time.sleep(2)  # the other one comes to the lock
    server.set(latency_ms=20)
    return both


def test_two_runs_at_once_ask_once_and_both_finish(tmp_path: Path, server: ChatServer, matrix: Matrix) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(ROWS))
    run: tuple[Any, ...] = ("run", "synthesize", "--set", "source=in.jsonl", "--set", "dedup.layers=[exact]")
    run += ("--set", f"engines.teacher={server.spec}", "--set", "engines.teacher.concurrency=8", "--workers", 0)
    errors = [ended(process) for process in both_under_way(run, tmp_path, server)]
    assert server.stats()["total"] == server.stats()["unique"] == ROWS * 6
    assert any("another run makes the same; waiting for it" in err for err in errors)
    [rows] = [pl.read_parquet(path) for path in (tmp_path / "store").glob("datasets/*/data/*.parquet")]
    assert rows["id"].n_unique() == rows.height == ROWS
    statuses = [orjson.loads(path.read_bytes())["status"] for path in (tmp_path / "store" / "runs").glob("*.json")]
    assert statuses == ["finished", "finished"]
    out, _ = synthmill("verify", cwd=tmp_path)
    assert out.startswith("whole: ")
    matrix("two runs at once", "both finished", f"{ROWS} = {ROWS} + 0", 0, 16)


def test_a_run_shows_its_dataset_when_nobody_writes_it(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(2))
    run: tuple[Any, ...] = ("run", "synthesize", "--set", "source=in.jsonl", "--set", "dedup.layers=[exact]")
    run += ("--set", f"engines.teacher={server.spec}", "--workers", 0)
    synthmill(*run, cwd=tmp_path)
    [dataset] = (tmp_path / "store" / "datasets").iterdir()
    with locked(Store(tmp_path / "store").lock_path("dataset", dataset.name), lambda: None):
        process = start(*run, cwd=tmp_path)
        assert process.stderr
        assert any("another run makes the same; waiting for it" in line for line in process.stderr)
        assert process.poll() is None
    ended(process)


def test_two_runs_share_one_budget(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(ROWS))
    run: tuple[Any, ...] = ("run", "synthesize", "--set", "source=in.jsonl", "--set", "dedup.layers=[exact]")
    run += ("--set", f"engines.teacher={server.spec}", "--set", "engines.teacher.concurrency=8", "--workers", 0)
    run += ("--set", "budget.requests=100")
    both = both_under_way(run, tmp_path, server)
    errors = [process.communicate(timeout=240)[1] for process in both]
    assert any("another run makes the same; waiting for it" in err for err in errors)
    assert [process.returncode for process in both] == [3, 3], errors
    assert all("the run's budget is spent: 100 of 100 requests" in err for err in errors)
    assert server.stats()["total"] == server.stats()["unique"] == 100


def test_two_samples_at_once_ask_once(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(ROWS))
    command = ("sample", "in.jsonl", "--engine", server.spec, "--concurrency", 8)
    server.set(latency_ms=10_000)
    both = [start(*command, "--out", f"{name}.jsonl", cwd=tmp_path) for name in ("first", "second")]
    until = time.monotonic() + 120
    locks = tmp_path / "store" / "locks"
    while len(list((tmp_path / "store" / "runs").glob("*.json"))) < 2 or not (
        server.stats()["total"] and locks.is_dir() and list(locks.iterdir())
    ):
        assert time.monotonic() < until and all(process.poll() is None for process in both)
        time.sleep(0.05)
    server.set(latency_ms=20)
    errors = [ended(process) for process in both]
    assert server.stats()["total"] == server.stats()["unique"] == ROWS
    assert any("another run makes the same; waiting for it" in err for err in errors)
    first, second = ((tmp_path / f"{name}.jsonl").read_bytes() for name in ("first", "second"))
    assert first == second and first.count(b"\n") == ROWS
