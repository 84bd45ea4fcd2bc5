"""A run ends where its limits are, resumably: budgets through Prefect and Ray, and too many dropped rows."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.command import synthmill
from tests.conftest import ChatServer, prompts, write_jsonl

pytestmark = pytest.mark.ray
ROWS, EACH = 40, 6


def command(tmp_path: Path, server: ChatServer, workers: int, *more: Any) -> tuple[Any, ...]:
    write_jsonl(tmp_path / "in.jsonl", prompts(ROWS))
    given = ("--set", "source=in.jsonl", "--set", f"engines.teacher={server.spec}", "--set", "dedup.layers=[exact]")
    smaller = ("--set", "engines.teacher.concurrency=16", "--set", "rows_per_part=8")
    return ("run", "synthesize", *given, *smaller, "--workers", workers, *more)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.prefect)])
def test_a_budget_is_a_hard_stop_and_a_larger_one_goes_on(tmp_path: Path, server: ChatServer, workers: int) -> None:
    run = command(tmp_path, server, workers)
    _, err = synthmill(*run, "--set", "budget.requests=100", cwd=tmp_path, expect=3)
    assert "the run's budget is spent: 100 of 100 requests; everything answered is kept" in err
    assert 80 < server.stats()["total"] <= 100
    before = server.stats()["total"]
    synthmill(*run, "--set", "budget.requests=100", "--workers", 0, cwd=tmp_path, expect=3)
    assert server.stats()["total"] <= 100 and server.stats()["total"] - before <= 20
    prices = ("--set", "budget.prices={local-model: {completion: 1000}}")
    _, err = synthmill(*run, "--set", "budget.requests=1000", *prices, cwd=tmp_path)
    assert re.search(r"answers: 40 of 40 rows, .* tokens, \d+\.\d\d spent, ", err)
    assert server.stats()["total"] == ROWS * EACH and server.stats()["repeated"] == 0
    records = [orjson.loads(path.read_bytes()) for path in sorted((tmp_path / "store" / "runs").glob("*.json"))]
    assert [record["status"] for record in records] == ["stopped", "stopped", "finished"]


def test_money_needs_prices(tmp_path: Path, server: ChatServer) -> None:
    run = command(tmp_path, server, 0, "--set", "budget.money=0.001")
    _, err = synthmill(*run, cwd=tmp_path, expect=2)
    assert "budget.money needs a price of openai:local-model" in err
    _, err = synthmill(*run, "--set", "budget.stages.pairs.requests=3", "--dry-run", cwd=tmp_path, expect=2)
    assert "budget.stages.pairs: no such step asks a model; expected preference_sets, system_messages, answers" in err
    prices = ("--set", "budget.prices={'openai:*': {prompt: 1, completion: 10}}")
    _, err = synthmill(*run, *prices, cwd=tmp_path, expect=3)
    assert "of 0.001 money" in err and server.stats()["total"] < ROWS * EACH


def test_a_dry_run_says_what_it_costs_and_calls_what_it_cost(tmp_path: Path, server: ChatServer) -> None:
    server.set(usage="detailed")
    prices = ("--set", "budget.prices={'openai:*': {prompt: 100, cached: 25, completion: 1000}}")
    run = command(tmp_path, server, 0, *prices)
    out, _ = synthmill(*run, "--dry-run", cwd=tmp_path)
    assert re.search(r"answers .*<= 163,840 +<= 163.84 \+ prompts", out)
    assert "+ prompts; a preview (--preview 10) measures" in out and server.stats()["total"] == 0
    synthmill(*run, "--preview", 2, cwd=tmp_path)
    each = (12 * 100 + 8 * 25 + 12 * 1000) / 1e6
    out, _ = synthmill("calls", cwd=tmp_path)
    assert re.search(rf"answers +student .* 8 +160 \(64 cached\) +96 \(40 thinking\) +{8 * each:.4f}", out)
    out, _ = synthmill(*run, "--dry-run", cwd=tmp_path)
    assert re.search(rf"answers .*<= 163,840 +{ROWS * 4 * each:.2f} *\n", out)
    assert re.search(r"money for what is not made: \d+\.\d\d to \d+\.\d\d, by the tokens that earlier calls took", out)
    server.set(usage="none")
    synthmill(*run, cwd=tmp_path)
    out, err = synthmill("calls", cwd=tmp_path)
    assert re.search(r"answers +student .* ~[\d,]+ \(64 cached\) +~", out) and "are estimates" in err
    assert server.stats()["repeated"] == 0
    [page] = [
        path.read_text() for path in (tmp_path / "store" / "datasets").glob("*/report.html") if "~" in path.read_text()
    ]
    assert "an estimate, where the server reported no tokens" in page


def test_a_run_that_drops_too_much_stops_and_says_why(tmp_path: Path, server: ChatServer) -> None:
    rows = [{"id": f"r{n}", "prompt": "long " * 10_000 if n % 3 == 0 else f"why {n}?"} for n in range(120)]
    run = command(tmp_path, server, 0)
    write_jsonl(tmp_path / "in.jsonl", rows)
    _, err = synthmill(*run, cwd=tmp_path, expect=3)
    assert "preference_sets: " in err and "context_overflow), more than the 20% of drop_limit" in err
    synthmill(*run, "--set", "drop_limit=0.5", cwd=tmp_path)
