"""A store that an earlier version wrote: what was paid for is used, and what it cost is known as before."""

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from synthmill.schemas.budget import BudgetSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.runs import runs
from synthmill.storage.segments import HEAD, Segment, segment_files, spent_in
from synthmill.storage.spending import spent_by
from tests import earlier_store
from tests.command import synthmill
from tests.conftest import ChatServer


def answers_in(folder: Path) -> list[dict[str, Any]]:
    """Every answer of a call store, as it was written."""
    lines = (line for path in segment_files(folder) for line in Segment(path).lines())
    return [orjson.loads(data[HEAD:]) for kind, _, _, data in lines if kind == b"A"]


def totals(folder: Path) -> list[float]:
    """Answers, tokens in, tokens out, as budgets count them."""
    return [sum(numbers[place] for numbers in spent_in(folder).values()) for place in range(3)]


def test_nothing_that_was_paid_for_is_asked_again(tmp_path: Path, server: ChatServer) -> None:
    store = Store(earlier_store.unpack(tmp_path))
    answers = answers_in(store.calls)
    paid = [len(answers), *(sum(answer[name] for answer in answers) for name in ("prompt_tokens", "completion_tokens"))]
    [stopped] = [run for run in runs(store) if run.status == "stopped"]
    out, _ = synthmill("migrate", "--store", store.root, cwd=tmp_path)
    assert "nothing to do" in out
    for _ in range(2):
        synthmill(*earlier_store.sample(server.spec), cwd=tmp_path)
        synthmill(*earlier_store.preferences(server.spec), cwd=tmp_path)
        out, _ = synthmill("sql", earlier_store.SPEND, "--csv", cwd=tmp_path)
        assert out == (tmp_path / "spend.csv").read_text()
        assert server.stats()["total"] == 0 and totals(store.calls) == paid
        for folder in ("artifacts", "parts", "files", "whole", "datasets"):  # once more, from the answers alone
            shutil.rmtree(store.root / folder, ignore_errors=True)
        store.prepare()
    prices = BudgetSettings.model_validate(stopped.settings["budget"])
    spent = spent_by(store, stopped.job, prices)
    assert sum(usage.requests for usage in spent.values()) == earlier_store.BUDGET
    assert sum(usage.money for usage in spent.values()) == pytest.approx(earlier_store.BUDGET * (20 * 1 + 8 * 10) / 1e6)
    _, err = synthmill(*earlier_store.budgeted(server.spec, 100), cwd=tmp_path)  # it goes on with what is missing
    assert "4 calls (12 reused)" in err and server.stats()["total"] == server.stats()["unique"] == 4
    assert totals(store.calls)[0] == paid[0] + 4
