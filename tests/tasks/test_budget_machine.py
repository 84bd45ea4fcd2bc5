"""However workers lease, send, give back and die, no more is sent than the budget allows."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from synthmill.schemas.budget import BudgetSettings, Limits, Usage
from synthmill.schemas.errors import LimitReached
from synthmill.schemas.usage import Tokens
from synthmill.tasks.running import budget as budgets
from synthmill.tasks.running.budget import Budget, Gate

LIMIT, STEP_LIMIT = 60, 40
WORKERS = st.integers(0, 3)


class Leases(RuleBasedStateMachine):
    """Four workers, two on a step with a limit of its own."""

    def __init__(self) -> None:
        super().__init__()
        stages = {"narrow": Limits(requests=STEP_LIMIT)}
        self.budget = Budget(BudgetSettings(requests=LIMIT, stages=stages), {})
        self.sent = {"narrow": 0, "wide": 0}
        self.gates = [self.gate(n) for n in range(4)]
        budgets.WAITS, budgets.WAIT_S = 3, 0.0

    def teardown(self) -> None:
        budgets.WAITS, budgets.WAIT_S = 240, 0.25

    def gate(self, worker: int) -> Gate:
        async def lease(step: str, wanted: int, used: Usage, sent: int) -> budgets.Grant:
            return self.budget.lease(step, wanted, used, sent)

        return Gate(("narrow", "wide")[worker % 2], self.budget.settings, lease)

    def send(self, gate: Gate, count: int) -> bool:
        if not gate.take(count):
            return False
        self.sent[gate.step] += count
        return True

    @rule(worker=WORKERS, wanted=st.integers(1, 16), least=st.integers(1, 4))
    def a_worker_leases_and_sends(self, worker: int, wanted: int, least: int) -> None:
        gate = self.gates[worker]
        if self.send(gate, least):
            return
        try:
            asyncio.run(gate.refill(max(wanted, least), least))
        except LimitReached:
            return
        assert self.send(gate, least)

    @rule(worker=WORKERS)
    def an_answer_comes(self, worker: int) -> None:
        self.gates[worker].count_answer("echo", Tokens(3, 5))

    @rule(worker=WORKERS)
    def a_worker_has_nothing_to_send(self, worker: int) -> None:
        asyncio.run(self.gates[worker].close())

    @rule(worker=WORKERS)
    def a_worker_dies(self, worker: int) -> None:
        self.gates[worker] = self.gate(worker)

    @rule()
    def the_next_step_begins(self) -> None:
        for gate in self.gates:
            asyncio.run(gate.close())
        self.budget.reset({step: Usage(requests=count) for step, count in self.sent.items()})

    @invariant()
    def no_more_is_sent_than_the_budget_allows(self) -> None:
        assert self.sent["narrow"] <= STEP_LIMIT and sum(self.sent.values()) <= LIMIT
        assert sum(usage.requests for usage in self.budget.spent.values()) >= sum(self.sent.values())

    @invariant()
    def what_the_living_hold_is_known_to_be_held(self) -> None:
        assert self.budget.held >= sum(gate.balance for gate in self.gates)


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
