"""A pipeline of a user's own keeps the promises of the named flows: killed, grown, changed, followed back."""

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.serving import chat_server
from tests.command import start, synthmill
from tests.conftest import ChatServer, Matrix
from tests.eight_steps import ASKING, IN_FLIGHT, STEPS, pipeline, rows_of, tables, write_pipeline
from tests.faults.test_kill import kill, wait_for_calls, wait_until_gone

pytestmark = pytest.mark.faults
ROWS, MORE = 150, 100
MOMENTS = ((5, 0.1), (ROWS - 5, 3.0))
"""Calls that are waited for, and seconds at most thereafter: among the questions; anywhere behind them."""


@pytest.fixture
def slow_server() -> Iterator[ChatServer]:
    with chat_server("--latency-ms", "5", "--words", "12") as url:
        yield ChatServer(url)


def test_a_pipeline_killed_again_and_again_then_grown_then_changed(
    tmp_path: Path, slow_server: ChatServer, matrix: Matrix
) -> None:
    run = ("run", "my.yaml")
    write_pipeline(tmp_path, pipeline(slow_server, ROWS))
    synthmill(*run, "--store", "reference", cwd=tmp_path)
    assert slow_server.stats()["total"] == len(ASKING) * ROWS
    slow_server.set(forget=1, latency_ms=60)
    print("seed", seed := random.randrange(1000))
    draw = random.Random(seed)
    kills = 0
    for at_least, seconds in MOMENTS:
        process = start(*run, cwd=tmp_path)
        wait_for_calls(slow_server, process, at_least + draw.randrange(ROWS // 2) + kills * IN_FLIGHT)
        time.sleep(draw.uniform(0, seconds))
        mark = f"{process.pid}:"
        kill(process)
        kills += 1
        assert wait_until_gone(mark) == []
    slow_server.set(latency_ms=2)
    synthmill(*run, cwd=tmp_path)
    stats = slow_server.stats()
    assert stats["unique"] == len(ASKING) * ROWS
    assert stats["repeated"] <= kills * IN_FLIGHT
    assert tables(tmp_path / "store") == tables(tmp_path / "reference")
    matrix(
        "kill -9: a pipeline", "finished by the next run", f"{ROWS} = {ROWS} + 0", stats["repeated"], kills * IN_FLIGHT
    )

    [row_id] = rows_of(tmp_path / "store", "sft")["id"].head(1)
    lineage, _ = synthmill("show", row_id, cwd=tmp_path)
    assert re.findall(r"^(\w+)  \w+_[0-9a-f]{8}  row", lineage, re.MULTILINE) == ["source", *STEPS]
    assert lineage.count("  call ") == len(ASKING) and "ask/question@" in lineage and "ask/grade@" in lineage

    slow_server.set(forget=1)
    _, err = synthmill(*run, cwd=tmp_path)
    assert "nothing to do" in err
    write_pipeline(tmp_path, pipeline(slow_server, ROWS + MORE))
    synthmill(*run, cwd=tmp_path)
    assert slow_server.stats()["total"] == slow_server.stats()["unique"] == len(ASKING) * MORE
    assert rows_of(tmp_path / "store", "questions").height == ROWS + MORE

    settings = pipeline(slow_server, ROWS + MORE)
    settings["steps"]["readable"]["where"] = "length(question) > 66"
    write_pipeline(tmp_path, settings)
    synthmill(*run, cwd=tmp_path)
    assert slow_server.stats()["total"] == len(ASKING) * MORE
    fewer = rows_of(tmp_path / "store", "questions")
    assert 0 < fewer.height < ROWS + MORE and fewer["prompt"].str.len_chars().min() > 66
