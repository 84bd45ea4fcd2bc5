"""kill -9 at any moment, then the same command: it finishes, the result is the same, little is asked twice."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import psutil
import pytest

from bench.serving import chat_server
from synthmill.tasks.running.guard import MARK
from tests.command import ROOT, environment, start, synthmill
from tests.conftest import ChatServer, Matrix, prompts, write_jsonl

pytestmark = pytest.mark.faults
IN_FLIGHT = 16


@pytest.fixture
def slow_server() -> Iterator[ChatServer]:
    with chat_server("--latency-ms", "15", "--words", "12") as url:
        yield ChatServer(url)


def marked_processes(mark: str) -> list[str]:
    """Every living process that carries this guard's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK, "").startswith(mark):
                found.append(" ".join(process.cmdline())[:100])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_until_gone(mark: str, seconds: float = 30) -> list[str]:
    until = time.monotonic() + seconds
    while (found := marked_processes(mark)) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def wait_for_calls(server: ChatServer, process: "subprocess.Popen[str]", at_least: int) -> None:
    while server.stats()["total"] < at_least:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def kill(process: "subprocess.Popen[str]") -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("seed", range(3))
def test_the_driver_killed_again_and_again(tmp_path: Path, slow_server: ChatServer, matrix: Matrix, seed: int) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(150))
    sample = ("sample", "in.jsonl", "--engine", slow_server.spec, "-n", 4, "--concurrency", IN_FLIGHT, "--out")
    synthmill(*sample, "reference.jsonl", "--store", "reference", cwd=tmp_path)
    slow_server.set(forget=1)
    draw = random.Random(seed)
    kills = 0
    for moment in sorted(draw.sample(range(20, 580), 3)):
        process = start(*sample, "out.jsonl", cwd=tmp_path)
        try:
            wait_for_calls(slow_server, process, moment + kills * IN_FLIGHT)
        except AssertionError:
            break  # it had finished
        time.sleep(draw.uniform(0, 0.02))
        mark = f"{process.pid}:"
        kill(process)
        kills += 1
        assert wait_until_gone(mark) == []
    synthmill(*sample, "out.jsonl", cwd=tmp_path)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "reference.jsonl").read_bytes()
    stats = slow_server.stats()
    assert kills >= 2
    assert stats["unique"] == 600
    assert stats["repeated"] <= kills * IN_FLIGHT
    then = "finished by the next run"
    matrix(f"kill -9: driver, {kills} times", then, "150 = 150 + 0", stats["repeated"], kills * IN_FLIGHT)


def test_scoring_killed_in_the_middle_is_resumed(tmp_path: Path, slow_server: ChatServer) -> None:
    rows = [{"prompt_id": f"p{n % 40}", "prompt": f"Why {n % 40}?", "answer": f"because {n}"} for n in range(160)]
    write_jsonl(tmp_path / "in.jsonl", rows)
    judge = ("--scorer", "judge", "--evaluations", 3, "--engine", slow_server.spec, "--concurrency", IN_FLIGHT)
    score = ("score", "in.jsonl", *judge, "--out")
    synthmill(*score, "reference.jsonl", "--store", "reference", cwd=tmp_path)
    slow_server.set(forget=1)
    process = start(*score, "out.jsonl", cwd=tmp_path)
    wait_for_calls(slow_server, process, 200)
    mark = f"{process.pid}:"
    kill(process)
    assert wait_until_gone(mark) == []
    assert not (tmp_path / "out.jsonl").exists()
    synthmill(*score, "out.jsonl", cwd=tmp_path)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "reference.jsonl").read_bytes()
    stats = slow_server.stats()
    assert stats["unique"] == 480 and stats["repeated"] <= IN_FLIGHT


def dataset(folder: Path) -> bytes:
    [file] = folder.glob("datasets/*/data/*.parquet")
    return file.read_bytes()


@pytest.mark.usefixtures("own_prefect")
@pytest.mark.ray
@pytest.mark.prefect
def test_the_whole_job_killed_in_its_stages_leaves_nothing_behind(tmp_path: Path, slow_server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(40))
    run = ["run", "synthesize", "--set", "source=in.jsonl", "--set", "rows_per_part=8", "--set", "dedup.layers=[exact]"]
    run += ["--set", f"engines.teacher={slow_server.spec}", "--set", f"engines.teacher.concurrency={IN_FLIGHT}"]
    synthmill(*run, "--store", "reference", "--workers", 0, cwd=tmp_path, apart=False)
    total = slow_server.stats()["total"]
    assert total == 40 * 6
    slow_server.set(forget=1, latency_ms=40)
    run += ["--workers", 1]
    for moment in (20, 150):
        process = start(*run, cwd=tmp_path)
        wait_for_calls(slow_server, process, moment)
        mark = f"{process.pid}:"
        assert any("ray" in command for command in marked_processes(mark))
        kill(process)
        assert wait_until_gone(mark) == []
    synthmill(*run, cwd=tmp_path)
    stats = slow_server.stats()
    assert stats["unique"] == total
    assert stats["repeated"] <= 2 * IN_FLIGHT
    assert dataset(tmp_path / "store") == dataset(tmp_path / "reference")
    assert not marked_processes(f"{process.pid}:")
    runs = sorted((tmp_path / "store" / "runs").glob("*.json"))
    statuses = [orjson.loads(path.read_bytes())["status"] for path in runs]
    assert set(statuses[:-1]) == {"crashed"} and statuses[-1] == "finished"


AROUND = ("ray::Worker", "raylet/raylet", "gcs_server", "uvicorn")
"""A Ray worker, its raylet, Ray's head, Prefect's server."""


@pytest.mark.usefixtures("own_prefect")
@pytest.mark.ray
@pytest.mark.prefect
def test_what_stands_around_a_run_killed_while_it_works(
    tmp_path: Path, slow_server: ChatServer, matrix: Matrix
) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(60))
    run = ["run", "synthesize", "--set", "source=in.jsonl", "--set", "rows_per_part=8", "--set", "dedup.layers=[exact]"]
    run += ["--set", f"engines.teacher={slow_server.spec}", "--set", f"engines.teacher.concurrency={IN_FLIGHT}"]
    synthmill(*run, "--store", "reference", "--workers", 0, cwd=tmp_path, apart=False)
    total = slow_server.stats()["total"]
    slow_server.set(forget=1, latency_ms=250)
    process = start(*run, "--workers", 2, cwd=tmp_path)
    for number, command in enumerate(AROUND):
        wait_for_calls(slow_server, process, 20 + number * total // 5)
        children = psutil.Process(process.pid).children(recursive=True)
        next(child for child in children if command in command_of(child)).kill()
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "Ray's raylet died" in err and "Ray's gcs_server died" in err and "Prefect's server died" in err
    assert slow_server.stats()["unique"] == total
    assert dataset(tmp_path / "store") == dataset(tmp_path / "reference")
    repeated, in_flight = slow_server.stats()["repeated"], IN_FLIGHT * len(AROUND)
    assert repeated <= in_flight
    matrix("kill -9: Ray worker, raylet, GCS, Prefect server", "finished", "60 = 60 + 0", repeated, in_flight)
    assert wait_until_gone(f"{process.pid}:") == []


DISK_FULL = """
mount -t tmpfs -o size=400k tmpfs disk
"$@"; echo "code $?"
mount -o remount,size=100m disk
"$@"; echo "code $?"
"""


def test_a_full_disk(tmp_path: Path, slow_server: ChatServer, matrix: Matrix) -> None:
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode:
        pytest.skip("no tmpfs may be mounted here, not even in a name space of one's own")
    (tmp_path / "disk").mkdir()
    write_jsonl(tmp_path / "in.jsonl", prompts(600))
    command = [
        sys.executable,
        "-m",
        "synthmill.flows.cli",
        "sample",
        "in.jsonl",
        "--engine",
        slow_server.spec,
        "-n",
        "2",
    ]
    command += ["--concurrency", str(IN_FLIGHT), "--store", "disk/store", "--out", "out.jsonl"]
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", DISK_FULL, "run", *command],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert re.findall(r"code (\d+)", done.stdout) == ["1", "0"], done.stdout + done.stderr
    [error] = re.findall(r"error: .*", done.stderr)
    assert "No space left on device; free space" in error
    assert "Traceback" not in done.stderr
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 1200
    stats = slow_server.stats()
    assert stats["unique"] == 1200 and stats["repeated"] <= IN_FLIGHT
    then = "stopped in one line, finished by the next run"
    matrix("disk full", then, "600 = 600 + 0", stats["repeated"], IN_FLIGHT)


def test_dialogues_killed_in_the_middle_are_resumed_from_their_last_answers(
    tmp_path: Path, slow_server: ChatServer
) -> None:
    run = ["run", "dialogues", "--workers", 0, "--set", "applications=app.yaml", "--set", "rows_per_part=16"]
    run += ["--set", f"engines.teacher={slow_server.spec}", "--set", f"engines.teacher.concurrency={IN_FLIGHT}"]
    run += ["--set", "inputs.count=24", "--set", "inputs.threshold=1", "--set", "dialogues.max_turns=5"]
    (tmp_path / "app.yaml").write_text('{prompt: ["rules", "fine", ""], environment: {name: x, facts: [a]}}')
    synthmill(*run, "--store", "reference", cwd=tmp_path)
    total = slow_server.stats()["total"]
    assert total == 5 + 24 * (2 + 1 + 9)  # drafts; outputs, a reason, and nine turns that a model says
    slow_server.set(forget=1, latency_ms=40)
    for moment in (30, 220):
        process = start(*run, cwd=tmp_path)
        wait_for_calls(slow_server, process, moment)
        mark = f"{process.pid}:"
        kill(process)
        assert wait_until_gone(mark) == []
    synthmill(*run, cwd=tmp_path)
    stats = slow_server.stats()
    assert stats["unique"] == total
    assert stats["repeated"] <= 2 * IN_FLIGHT
    for made, reference in zip(parquet(tmp_path / "store"), parquet(tmp_path / "reference"), strict=True):
        assert made == reference


def parquet(store: Path) -> list[tuple[str, bytes]]:
    """Every file of a store's dataset, by configuration."""
    return [(path.parent.name, path.read_bytes()) for path in sorted(store.glob("datasets/*/data/*/*.parquet"))]


def test_the_engine_server_killed_and_started_again(tmp_path: Path, matrix: Matrix) -> None:
    command = [sys.executable, str(ROOT / "bench" / "chat_server.py"), "--latency-ms", "15", "--words", "12", "--port"]
    server = subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    seen = ChatServer(f"http://127.0.0.1:{port}/v1")
    write_jsonl(tmp_path / "in.jsonl", prompts(200))
    process = start(
        "sample", "in.jsonl", "--engine", seen.spec, "--concurrency", IN_FLIGHT, "--out", "out.jsonl", cwd=tmp_path
    )
    wait_for_calls(seen, process, 60)
    asked = seen.stats()["total"]
    server.kill()
    server.wait()
    time.sleep(1)
    again = subprocess.Popen([*command, str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert again.stdout is not None
        again.stdout.readline()
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 200
        repeated = asked + seen.stats()["total"] - 200
        assert repeated <= IN_FLIGHT
        matrix("kill -9: engine server, started again", "finished", "200 = 200 + 0", repeated, IN_FLIGHT)
    finally:
        again.kill()
        again.wait()


def test_ctrl_c_keeps_every_answer_and_says_how_to_go_on(tmp_path: Path, slow_server: ChatServer) -> None:
    slow_server.set(latency_ms=100)
    write_jsonl(tmp_path / "in.jsonl", prompts(150))
    sample = ("sample", "in.jsonl", "--engine", slow_server.spec, "--concurrency", IN_FLIGHT, "--out", "out.jsonl")
    process = start(*sample, cwd=tmp_path)
    wait_for_calls(slow_server, process, 40)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "waiting for what is in flight" in err
    assert "run the same command again to continue" in err
    asked = slow_server.stats()["total"]
    synthmill(*sample, cwd=tmp_path)
    stats = slow_server.stats()
    assert asked < 150
    assert (stats["total"], stats["repeated"]) == (150, 0)


@pytest.mark.ray
@pytest.mark.prefect
@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_in_the_middle_of_a_flow_drains_too(tmp_path: Path, slow_server: ChatServer, workers: int) -> None:
    slow_server.set(latency_ms=100)
    write_jsonl(tmp_path / "in.jsonl", prompts(60))
    run = ["run", "synthesize", "--workers", workers, "--set", "source=in.jsonl", "--set", "rows_per_part=10"]
    run += ["--set", f"engines.teacher={slow_server.spec}"]
    process = start(*run, "--set", "engines.teacher.concurrency=8", cwd=tmp_path)
    wait_for_calls(slow_server, process, 20)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    asked = slow_server.stats()["total"]
    out, _ = synthmill("sql", "SELECT count(*)::INT AS n FROM calls", "--csv", cwd=tmp_path)
    assert int(out.split()[1]) == asked


def test_a_power_cut_after_a_part_was_sealed_costs_only_what_was_not(tmp_path: Path, slow_server: ChatServer) -> None:
    """What was not synced is gone: the tail of the newest segment, and every temporary file."""
    write_jsonl(tmp_path / "in.jsonl", prompts(600))
    sample = ("sample", "in.jsonl", "--engine", slow_server.spec, "--concurrency", IN_FLIGHT, "--out", "out.jsonl")
    process = start(*sample, cwd=tmp_path)
    seals = tmp_path / "store" / "parts" / "answers"
    while not list(seals.rglob("*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    kill(process)
    sealed = [orjson.loads(path.read_bytes()) for path in seals.rglob("*.json")]
    [segment] = (tmp_path / "store" / "calls").glob("*.calls")
    segment.write_bytes(b"")  # even its synced beginning: sealed parts do not need it
    slow_server.set(forget=1)
    synthmill(*sample, cwd=tmp_path)
    assert slow_server.stats()["total"] == 600 - sum(seal["rows_in"] for seal in sealed)
