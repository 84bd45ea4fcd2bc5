"""Whole runs with a teacher behind Anthropic's Messages API: it thinks, refuses, and is overloaded now and then."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import yaml

from tests.command import synthmill
from tests.conftest import write_jsonl
from tests.messages_server import MessagesServer, error, message, messages_server


def teacher(body: dict[str, Any], number: int) -> Any:
    """Every seventh request finds it overloaded, every eleventh is over the rate limit."""
    if number % 7 == 3:
        return error(529, "overloaded_error", "Overloaded")
    if number % 11 == 5:
        return error(429, "rate_limit_error", "slow down", retry_after="0")
    text = body["messages"][-1]["content"][-1]["text"]
    thought = {"type": "thinking", "thinking": "A draft: [RESULT] 1", "signature": "c2ln"}
    if "[RESULT]" in text:
        return message(thought, f"Well done. [RESULT] {number % 5 + 1}")
    if "number 2 " in text:
        return message(thought, stop="refusal", stop_details={"type": "refusal", "explanation": "Not this."})
    return message(thought, f"The answer, in words of its own, number {number}.")


@pytest.fixture
def claude(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MessagesServer]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", MessagesServer.key)
    monkeypatch.setattr("synthmill.tasks.engines.waits.BACKOFF_S", 0.001)
    prompts = [{"id": f"q{n}", "prompt": f"Explain number {n} in your own words"} for n in range(8)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    with messages_server(MessagesServer(teacher)) as server:
        yield server


def test_answers_to_a_file_and_again(claude: MessagesServer, tmp_path: Path) -> None:
    sample = ("sample", "prompts.jsonl", "--engine", claude.spec, "-n", 3, "--out")
    synthmill(*sample, "one.jsonl", cwd=tmp_path)
    asked = len(claude.requests)
    rows = [orjson.loads(line) for line in (tmp_path / "one.jsonl").read_bytes().splitlines()]
    answers = [answer for row in rows for answer in row.get("answers", [row])]
    assert len(answers) >= 7 * 3
    rows = [json.loads(row) for row in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert not any("[RESULT]" in row["answer"] for row in rows)  # the thought stands beside the answer
    assert any("[RESULT]" in (row["reasoning"] or "") for row in rows)
    synthmill(*sample, "two.jsonl", cwd=tmp_path)
    assert len(claude.requests) == asked
    assert not claude.refused


def test_preferences_from_a_teacher_that_thinks(claude: MessagesServer, tmp_path: Path) -> None:
    settings = {
        "source": "prompts.jsonl",
        "engines": {"teacher": {"spec": claude.spec, "thinking": {"tokens": 1024}, "cache": True, "concurrency": 4}},
        "answers": {"count": 4},
        "scorers": ["judge"],
        "reward": "judge",
        "cuts": ["max-min"],
        "workers": 0,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    synthmill("run", "preferences", "--config", "run.yaml", cwd=tmp_path)
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    pools = pl.read_parquet(folder / "data" / "pools" / "*.parquet")
    assert pools.height == 7  # one prompt is refused
    texts = [answer if isinstance(answer, str) else answer["text"] for pool in pools["answers"] for answer in pool]
    assert not any("draft" in text for text in texts)
    assert pl.read_parquet(folder / "data" / "dpo_max-min" / "*.parquet").height > 0
    assert not claude.refused
    assert all(body["thinking"]["budget_tokens"] == 1024 for body in claude.requests)
    asked = len(claude.requests)
    synthmill("run", "preferences", "--config", "run.yaml", cwd=tmp_path)
    assert len(claude.requests) == asked
