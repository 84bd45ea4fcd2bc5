"""What was spent, against a bill that is added up apart: over the raw records, an answer at a time, in decimals."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pyarrow.parquet as pq
import pytest

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.budget import BudgetSettings
from synthmill.schemas.calls import Completion, Message, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.rows import Instruction
from synthmill.storage.artifacts import Store
from synthmill.storage.call_copies import COPIES
from synthmill.storage.call_index import INDEX, runs_of, write_run
from synthmill.storage.calls import CallStore
from synthmill.storage.catalog import query, rebuild
from synthmill.storage.copies import sources_of
from synthmill.storage.runs import StageRun, new_run, summary
from synthmill.storage.runs import write_run as write_record
from synthmill.storage.segments import HEAD, Segment, segment_files, spent_in
from synthmill.storage.spending import bill_of, spent_by
from synthmill.tasks.recipe import Recipe, Steps, ask_until
from synthmill.tasks.running.driver import Driver
from tests.conftest import Echo, instructions

JOB = "job-1"
QUESTION = b'{"messages": [], "sampling": {}}'
PRICES: dict[str, Any] = {
    "echo": {"prompt": 0.15, "completion": 0.6, "cached": 0.075, "cache_write": 0.19},
    "other": {"prompt": 3, "completion": 15, "batch": 0.25},
}
REPORTS: list[dict[str, Any]] = [
    {"prompt_tokens": 1213, "completion_tokens": 377, "prompt_tokens_details": {"cached_tokens": 1024}},
    {"prompt_tokens": 311, "completion_tokens": 91, "prompt_cache_hit_tokens": 256, "prompt_cache_miss_tokens": 55},
    {"input_tokens": 7, "cache_read_input_tokens": 900, "cache_creation_input_tokens": 41, "output_tokens": 203},
    {"prompt_tokens": 17, "completion_tokens": 5, "total_tokens": 22},
]
CACHED = (1024, 256, 900, 0)
WRITTEN = (0, 0, 41, 0)
READ = (1213, 311, 948, 17)


class Refusing(Recipe[Instruction, Instruction]):
    """Refuses the first answer to every row, and asks for two more."""

    name: ClassVar = "refusing"
    version: ClassVar = "1"
    roles: ClassVar = ("student",)

    def steps(self, row: Instruction) -> Steps[Instruction]:
        asked = Request(role="student", messages=(Message(role="user", content=row.prompt),))
        yield asked.sampled(2)

        def parse(completion: Completion) -> str:
            if completion.text.endswith("#10"):
                raise Drop("bad_answer: again")
            return completion.text

        yield from ask_until(asked.model_copy(update={"sample": 10}), 3, parse)
        return Instruction.child_of(row, self.name, prompt=row.prompt)


class Reporting(Echo):
    """Reports usage in the ways of several providers, on the first of the answers that it was asked for together."""

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        answers = await super().complete(request, seed, count)
        number = len(self.asked) % len(REPORTS)
        report = REPORTS[number]
        written = report.get("completion_tokens", report.get("output_tokens"))
        return [
            answer._replace(
                prompt_tokens=READ[number] if index == 0 else 0,
                completion_tokens=written // count + (index < written % count),
                usage=report if index == 0 else None,
            )
            for index, answer in enumerate(answers)
        ]


@pytest.fixture
def spent_store(store: Store) -> Store:
    """A store in which two engines answered, one of them in batches, and one answer is paid for twice."""
    run = new_run("flow", {"budget": {"prices": PRICES}}, JOB)
    write_record(store, run.model_copy(update={"status": "finished"}))
    for name, samples in (("echo", 2), ("other", 1)):
        engine = Reporting(name=name)
        engine.samples_per_call = samples
        calls = CallStore(store.calls, origin={"run": run.id})
        driver = Driver(Refusing(), {"student": engine}, calls, step=f"step-{name}")
        result = asyncio.run(driver.run(instructions(5)))
        assert len(result.rows) == 5
        numbers = result.spent["student"].numbers()
        assert (numbers["sent"], numbers["asked_again"]) == (20, 5) and numbers["cached_tokens"] > 0
        for n in range(40) if name == "other" else ():
            report = {"prompt_tokens": 1000 + n, "completion_tokens": 10 + n}
            completion = Completion(f"b{n}", "stop", 1000 + n, 10 + n, usage=report)
            facts = {"engine": "other", "role": "student", "stage": "refusing", "step": "step-other"}
            calls.add(bytes([n] * 16), bytes(16), QUESTION, completion, n == 7, batch=True, sample=n, **facts)
        calls.close()
    return store


def bill_apart(folder: Path) -> dict[str, Decimal]:
    """Money by step, from the lines of the call store alone."""
    prices = {engine: {name: Decimal(str(price)) for name, price in row.items()} for engine, row in PRICES.items()}
    bill: dict[str, Decimal] = {}
    for path in segment_files(folder):
        for kind, _, _, data in Segment(path).lines():
            if kind not in (b"A", b"R"):
                continue
            record = orjson.loads(data[HEAD:])
            price = prices[record["engine"]]
            cached = written = 0
            if record.get("usage") in REPORTS:
                place = REPORTS.index(record["usage"])
                cached, written = CACHED[place], WRITTEN[place]
            money = (record["prompt_tokens"] - cached - written) * price["prompt"]
            money += cached * price.get("cached", price["prompt"]) + written * price.get("cache_write", price["prompt"])
            money += record["completion_tokens"] * price["completion"]
            factor = price.get("batch", Decimal("0.5")) if record.get("batch") else 1
            bill[record["step"]] = bill.get(record["step"], Decimal(0)) + money / 1_000_000 * factor
    return bill


def test_money_is_right_to_the_cent(spent_store: Store) -> None:
    expected = bill_apart(spent_store.calls)
    spent = spent_by(spent_store, JOB, BudgetSettings(prices=PRICES))
    assert spent.keys() == expected.keys() == {"step-echo", "step-other"}
    for step, usage in spent.items():
        assert abs(Decimal(usage.money) - expected[step]) < Decimal("0.0000001")
    lines = {step: counters for step, _, _, counters in bill_of(spent_store)}
    assert {step: round(counters["money"], 7) for step, counters in lines.items()} == {
        step: round(float(money), 7) for step, money in expected.items()
    }
    other, echo = lines["step-other"], lines["step-echo"]
    assert (other["batch"], other["repeated"], echo["asked_again"]) == (40, 1, 5)
    for index in spent_store.calls.glob(f"*{INDEX}"):  # what is not indexed costs the same
        index.unlink()
    assert spent_by(spent_store, JOB, BudgetSettings(prices=PRICES)) == spent


def test_the_catalog_and_its_copies_show_it(spent_store: Store) -> None:
    sums = "sum(calls), sum(cached_tokens), sum(asked_again), sum(repeated), sum(batch)"
    [row] = query(spent_store, f"SELECT {sums} FROM spend")[1]
    [cached] = query(spent_store, "SELECT sum(cached_tokens) FROM calls")[1]
    assert row[0] == 80 and row[1] == cached[0] > 0 and row[2:] == (10, 1, 40)
    assert query(spent_store, "SELECT count(*) FROM calls WHERE batch AND NOT estimated")[1] == [(39,)]
    assert query(spent_store, "SELECT count(*) FROM calls WHERE asked_again")[1] == [(10,)]


def test_copies_that_an_earlier_version_made_are_made_again(spent_store: Store) -> None:
    rebuild(spent_store)
    copies = list((spent_store.calls / COPIES).glob("*.parquet"))
    for path in copies:  # as they were: fewer columns
        rows = pq.read_table(path).drop_columns(["cached_tokens", "estimated"])
        pq.write_table(rows, path)
        assert sources_of(path) and not sources_of(path, ["estimated"])
    spent_store.catalog.unlink()
    assert query(spent_store, "SELECT count(*), count(estimated) FROM calls")[1] == [(79, 79)]


def test_indexes_of_an_earlier_version_count_what_they_knew(tmp_path: Path) -> None:
    origin = ("r1", "s", "s", "student", "echo")
    write_run(tmp_path / f"a{INDEX}", {"a.calls": 3}, {origin: [2, 30, 7, 1.5]}, 0, [])
    write_run(tmp_path / f"b{INDEX}", {"b.calls": 3}, {origin: [1, 10, 2, 0.5, *range(1, 30)]}, 0, [])
    [first, second] = [run.header.spend[origin] for run in runs_of(tmp_path)]
    assert sorted([first[:5], second[:5]]) == [[1, 10, 2, 0.5, 1], [2, 30, 7, 1.5, 0]]
    assert spent_in(tmp_path)[origin][:7] == [3, 40, 9, 2.0, 1, 2, 3]


def test_a_summary_says_money_and_waste() -> None:
    spent = {"student": {"sent": 4, "reused": 1, "failed": 1, "prompt_tokens": 1200, "completion_tokens": 80}}
    more = {"judge": {"sent": 2, "prompt_tokens": 10, "cached_tokens": 5, "completion_tokens": 4, "estimated": 1}}
    stage = StageRun.of(Manifest(stage="s", key="k" * 8, identity={}, parts=()), {**spent, **more}, 1.0, "s", 0.0123)
    run = new_run("flow", {}).model_copy(update={"stages": (stage,)})
    assert "| 6 | 1 | ~1,210 (5 cached) | ~84 | 1 failed | 0.0123 | 1.0 |" in summary(run)
    free = run.model_copy(update={"stages": (stage.model_copy(update={"money": 0.0, "spent": {}}),)})
    assert "| wasted | seconds |" in summary(free) and "| 0 | 0 | none | 1.0 |" in summary(free)
