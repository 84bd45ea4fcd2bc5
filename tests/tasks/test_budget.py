"""Budgets: requests never exceed theirs, tokens and money by what is in flight; a larger one goes on. Drop limits."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from synthmill.schemas.artifacts import Manifest, PartSeal
from synthmill.schemas.budget import BudgetSettings, Limits, Price, Usage, usage_of
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import LimitReached
from synthmill.schemas.progress import Progress
from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.usage import Tokens
from synthmill.storage.calls import CallStore
from synthmill.tasks.running.budget import Budget, Gate
from synthmill.tasks.running.driver import Driver
from synthmill.tasks.running.flights import Spent
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.limits import RunLimits
from tests.conftest import Echo, instructions
from tests.tasks.test_driver import Chain

CHAIN = Planned(Chain(), {"student": EngineSettings.model_validate("openai:m@http://127.0.0.1:9/v1")}, "")


def drive(folder: Path, engine: Echo, budget: Budget, rows: int = 100, workers: int = 1) -> list[Any]:
    """Rows shared out among workers that lease from one coordinator; results or errors."""

    async def lease(*asked: Any) -> Any:
        await asyncio.sleep(0)
        return budget.lease(*asked)

    async def run() -> list[Any]:
        made, gates = [], []
        for n in range(workers):
            gates.append(Gate("chain", budget.settings, lease))
            driver = Driver(Chain(turns=2), {"student": engine}, CallStore(folder / str(n)), gates[-1])
            share = rows // workers
            made.append(driver.run(instructions(share, start=n * share)))
        results = await asyncio.gather(*made, return_exceptions=True)
        for gate in gates:
            await gate.close()
        return results

    return asyncio.run(run())


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("requests", [0, 1, 30, 117])
def test_requests_never_exceed_their_limit(tmp_path: Path, requests: int, workers: int) -> None:
    engine = Echo(limit=8)
    results = drive(tmp_path, engine, Budget(BudgetSettings(requests=requests), {}), workers=workers)
    assert any(isinstance(result, LimitReached) for result in results)
    assert len(engine.asked) == requests  # none is refused for what another worker has leased and does not need


def test_a_larger_budget_goes_on_and_what_is_left_is_given_back(tmp_path: Path) -> None:
    engine, first = Echo(limit=8), Budget(BudgetSettings(requests=50), {})
    drive(tmp_path, engine, first)
    assert len(engine.asked) == 50 == first.spent["chain"].requests
    larger = Budget(BudgetSettings(requests=1000), first.spent)
    [result] = drive(tmp_path, engine, larger)
    assert len(result.rows) == 100
    assert len(engine.asked) == 200 == larger.spent["chain"].requests


def test_tokens_and_money_stop_within_what_is_in_flight(tmp_path: Path) -> None:
    prices = {"ec*": Price(prompt=1_000_000, completion=2_000_000)}
    counters = {"prompt_tokens": 3, "completion_tokens": 5}
    each = usage_of(BudgetSettings(prices=prices), "echo", 1, counters)
    assert each == Usage(requests=1, tokens=8, money=13.0)
    assert usage_of(BudgetSettings(), "echo", 1, counters).money == 0
    for settings in (BudgetSettings(tokens=100), BudgetSettings(money=1e-9, prices={"*": Price(completion=1)})):
        engine = Echo(limit=4)
        [result] = drive(tmp_path / str(settings.tokens), engine, Budget(settings, {}))
        assert isinstance(result, LimitReached) and ("tokens" in result.message or "money" in result.message)
        assert len(engine.asked) < 60


def test_leases_cost_what_the_bill_says(tmp_path: Path) -> None:
    """Cached tokens at their price: four times as many answers fit into the same money."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 1000}}
    answer = Completion(text="x", prompt_tokens=1000, usage=usage)
    for cached, expected in ((None, 20), (0.25, 80)):
        prices = {"echo": Price(prompt=1, cached=cached)}
        engine, budget = Echo(lambda *_: answer, limit=1), Budget(BudgetSettings(money=0.02, prices=prices), {})
        [result] = drive(tmp_path / str(cached), engine, budget)
        assert isinstance(result, LimitReached) and "of 0.02 money" in result.message
        assert expected <= len(engine.asked) <= expected + 1
        assert budget.spent["chain"].money == pytest.approx(len(engine.asked) * 0.001 * (cached or 1))


def test_what_comes_in_batches_costs_its_share() -> None:
    budget = Budget(BudgetSettings(money=9, prices={"echo": Price(prompt=1, completion=10, cached=0.5)}), {})

    async def lease(*asked: Any) -> Any:
        return budget.lease(*asked)

    async def run() -> None:
        gate = Gate("chain", budget.settings, lease)
        for batch in (False, True):
            gate.count_answer("echo", Tokens(1000, 100, 400), batch)
        await gate.close()

    asyncio.run(run())
    assert budget.spent["chain"].money == pytest.approx(1.5 * (600 * 1 + 400 * 0.5 + 100 * 10) / 1e6)
    assert budget.spent["chain"].tokens == 2200
    spent = Spent()
    spent.count(Completion(text="x"), Tokens(1000, 100, 400), batch=True)
    assert Price(prompt=1, completion=10, cached=0.5).cost(spent.numbers()) == pytest.approx(0.5 * 0.0018)


def test_a_stage_has_a_limit_of_its_own(tmp_path: Path) -> None:
    settings = BudgetSettings(requests=1000, stages={"chain": Limits(requests=20), "other": Limits(requests=0)})
    engine = Echo(limit=8)
    [result] = drive(tmp_path, engine, Budget(settings, {"other": Usage(requests=5)}))
    assert len(engine.asked) == 20 and result.message.startswith("chain's budget is spent: 20 of 20 requests")


def test_too_many_drops_end_a_stage_that_asks() -> None:
    limits = RunLimits(None, 0.2)
    progress = Progress(rows=200, dropped=41, reasons={"a": 20, "b": 12, "c": 8, "d": 1})
    said = limits.reached(CHAIN, progress)
    assert said and "41 of 200 rows were dropped (20 a, 12 b, 8 c), more than the 20%" in said.message
    assert limits.reached(CHAIN, progress.model_copy(update={"dropped": 40})) is None
    assert limits.reached(CHAIN, Progress(rows=99, dropped=99)) is None
    seal = PartSeal(key="k", stage="chain", file="", checksum="", content="", rows_in=100, rows=70, dropped={"x": 30})
    with pytest.raises(LimitReached, match="30 of 100 rows were dropped"):
        limits.check(CHAIN, Manifest(stage="chain", key="k", identity={}, parts=(seal,)))
    RunLimits(None, 0.5).check(CHAIN, Manifest(stage="chain", key="k", identity={}, parts=(seal,)))
