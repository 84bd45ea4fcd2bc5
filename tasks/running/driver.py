"""The driver: one event loop that keeps a window of requests in flight and moves each row on the moment its own
answers are there.

There are no waves and no barriers. Rows are admitted only to keep the window full, and to put their calls in order for
an engine that caches prefixes (lanes.py); several parts may run at once, and the window stays full from one to the
next. Every answer goes to the call store before its recipe sees it; answers that arrive in one tick of the loop share a
write. A row whose answers are stored is replayed from them, without a task, up to its first missing answer.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from synthmill.schemas.artifacts import Loss
from synthmill.schemas.calls import Completion, ask_hash, call_key
from synthmill.schemas.errors import Drop, EngineError, InputError, SynthmillError
from synthmill.schemas.rows import Dropped, Row
from synthmill.schemas.thinking_settings import ThinkingSettings
from synthmill.schemas.usage import tokens_of
from synthmill.storage.calls import CallStore
from synthmill.tasks.engines.engine import Engine, caches_prefixes
from synthmill.tasks.engines.open_turns import check_able
from synthmill.tasks.recipe import AnyRecipe
from synthmill.tasks.running.batching import answers_to, goes_on, others_asked, stores_itself
from synthmill.tasks.running.budget import Gate
from synthmill.tasks.running.flights import Call, Flight, Part, PartResult, Spent, content_ids, origin_of, sum_spent
from synthmill.tasks.running.lanes import LOOK_AHEAD, Lane
from synthmill.tasks.texts.thinking import answers_alone

ROWS_PER_TICK = 32
ANSWERS_PER_WRITE = 8  # more would save little and send the next requests in bursts
Ask = tuple[bytes, bytes]
"""What a request asks: its hash and its JSON. The samples of one request share it, and it is hashed once."""


class Driver:
    """Drive one recipe over parts of rows. engines: by role; a role that shares an engine object shares its window."""

    def __init__(
        self,
        recipe: AnyRecipe,
        engines: Mapping[str, Engine],
        calls: CallStore,
        gate: Gate | None = None,
        step: str = "",
        thinking: Mapping[str, ThinkingSettings] | None = None,
    ) -> None:
        """gate: leased requests, where there is a budget. step: its id, stored with its answers. thinking: by role."""
        self.recipe = recipe
        self.step = step or recipe.name
        self.run_id = calls.origin.get("run", "")
        self.calls = calls
        self._gate = gate
        self._leasing = False
        self._thinking = {**dict.fromkeys(engines, ThinkingSettings()), **(thinking or {})}
        lanes = {id(engine): Lane(engine, in_batches=stores_itself(engine)) for engine in engines.values()}
        self._lanes = {role: lanes[id(engine)] for role, engine in engines.items()}
        self._all_lanes = list(lanes.values())
        self._capacity = sum(lane.engine.limit for lane in self._all_lanes)
        self._most_admitted = self._capacity + LOOK_AHEAD * any(map(caches_prefixes, engines.values()))
        self._waiting: deque[tuple[Row, int, Part]] = deque()
        self._parts: list[Part] = []
        self._outstanding = 0
        self._pending: dict[bytes, Call] = {}
        self._arrived: list[tuple[Call, Sequence[Completion]]] = []
        self._asking: dict[Call, asyncio.Task[None]] = {}
        self._leases: set[asyncio.Task[None]] = set()
        self._failure: SynthmillError | None = None
        self._pumping = False
        self._setting_out = 0  # calls whose tasks have not begun
        self.rows_done = 0
        self.dropped: Counter[str] = Counter()
        self._spent_before: dict[str, Spent] = {}  # in parts that are done

    @property
    def in_flight(self) -> int:
        return sum(lane.in_flight for lane in self._all_lanes)

    @property
    def totals(self) -> dict[str, Spent]:
        """What was spent so far, by role."""
        return sum_spent([self._spent_before, *(part.spent for part in self._parts)])

    @property
    def silence(self) -> dict[str, float]:
        """Seconds for which an engine has answered none of the requests in flight, by its name."""
        now = time.monotonic()
        return {lane.engine.name: now - lane.heard_at for lane in self._all_lanes if lane.in_flight}

    @property
    def may_ask_more(self) -> bool:
        """Whether rows may go on before a batch is answered."""
        admitting = self._waiting and self._outstanding < self._most_admitted
        on_its_way = admitting or self._pumping or self._leasing or self._setting_out or self._arrived
        return bool(on_its_way) or others_asked(self._all_lanes)

    async def run(self, rows: Sequence[Row], lost_before: Mapping[str, Loss] | None = None) -> PartResult:
        """Bring every row of a part to its end. Several parts may run at once; they share the window.

        lost_before: by call key, the answers that earlier attempts lost; those lost in this run, and settled ones, are
        not asked for again.
        Raises EngineError when an engine is gone, and the error that `stop` was called with; answers that came in are
        stored either way.
        """
        if self._failure:
            raise self._failure
        done = asyncio.get_running_loop().create_future()
        losses = {bytes.fromhex(key): loss for key, loss in (lost_before or {}).items()}
        part = Part([None] * len(rows), len(rows), done, losses)
        if rows:
            self._parts.append(part)
            self._waiting.extend((row, place, part) for place, row in enumerate(rows))
            self._pump_soon()
            await part.done
        result = PartResult([], [], [], part.spent, part.lost)
        for outcome in part.outcomes:
            assert outcome is not None
            row, keys = outcome
            if isinstance(row, Dropped):
                result.dropped.append(row)
            else:
                result.rows.append(row)
                result.calls.append(keys)
        return result

    def stop(self, why: SynthmillError) -> None:
        """Send nothing more; what is in flight is still received and stored. Every `run` then raises `why`."""
        self._failure = self._failure or why
        self._waiting.clear()
        for lane in self._all_lanes:
            lane.queue.clear()
            if not goes_on(lane.engine, why):
                lane.engine.stop()
        if self._gate and self._gate.balance:  # other workers wait for it
            self._start(asyncio.get_running_loop().create_task(self._guarded_gate(self._gate.close())))
        self._settle()

    def _settle(self) -> None:
        if self._failure and not self.in_flight and not self._arrived:
            for part in self._parts:
                if not part.done.done():
                    part.done.set_exception(self._failure)
                self._note_spent(part)
            self._parts.clear()

    def _note_spent(self, part: Part) -> None:
        self._spent_before = sum_spent([self._spent_before, part.spent])

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._guarded, self._pump)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run `work`; whatever it raises stops the run with one error, so that nothing hangs."""
        try:
            work()
        except SynthmillError as error:
            self.stop(error)
        except Exception as error:
            self.stop(SynthmillError(f"stage {self.recipe.name} broke with {type(error).__name__}: {error}"))

    def _pump(self) -> None:
        """Admit rows while the window has room, then send what is queued."""
        self._pumping = False
        if self._failure:
            return
        admitted = 0
        while self._waiting and self._outstanding < self._most_admitted:
            if admitted == ROWS_PER_TICK:  # replayed rows take no window; other tasks of the loop need a turn
                self._pump_soon()
                break
            admitted += 1
            row, place, part = self._waiting.popleft()
            self._advance(Flight(row, place, part, self.recipe.steps(row)), None)
        loop = asyncio.get_running_loop()
        for lane in self._all_lanes:
            limit = lane.engine.limit
            while lane.in_flight < limit and (call := lane.queue.first(limit if self._pumping else 1)):
                if self._gate and not self._gate.take(len(call.keys)):
                    self._lease_soon(self._gate, len(call.keys))
                    break
                lane.queue.take()
                if not lane.in_flight:
                    lane.heard_at = time.monotonic()
                lane.in_flight += len(call.keys)
                self._setting_out += 1
                self._asking[call] = loop.create_task(self._ask(lane, call))
        idle = not self._waiting and not any(lane.queue for lane in self._all_lanes)
        if idle and self._gate and self._gate.balance > 2 * self._outstanding:  # other workers may need it
            self._start(loop.create_task(self._guarded_gate(self._gate.give_back(self._outstanding))))

    def _start(self, task: "asyncio.Task[None]") -> None:
        self._leases.add(task)
        task.add_done_callback(self._leases.discard)

    def _lease_soon(self, gate: Gate, least: int) -> None:
        """Lease requests for another window; the run stops where the budget is spent."""
        if self._leasing:
            return
        self._leasing = True

        async def lease() -> None:
            await self._guarded_gate(gate.refill(max(least, self._capacity), least))
            self._leasing = False
            self._pump_soon()

        self._start(asyncio.get_running_loop().create_task(lease()))

    async def _guarded_gate(self, lease: Awaitable[None]) -> None:
        """Await a call to the budget's coordinator; the run stops where the budget is spent or the coordinator gone."""
        try:
            await lease
        except SynthmillError as error:
            self.stop(error)
        except Exception as error:
            self.stop(EngineError(f"the budget's coordinator is gone ({type(error).__name__}: {error})"))

    async def _ask(self, lane: Lane, call: Call) -> None:
        completions: Sequence[Completion] = ()
        self._setting_out -= 1
        try:
            completions = await answers_to(call, lane.engine, self.recipe.name, self.step)
        except SynthmillError as error:
            self.stop(error)
        except Exception as error:
            self.stop(EngineError(f"{lane.engine.name} failed with {type(error).__name__}: {error}"))
        finally:
            del self._asking[call]
            lane.heard_at = time.monotonic()
            lane.in_flight -= len(call.keys)
            self._outstanding -= len(call.keys)
            self._arrived.append((call, completions))
            if len(self._arrived) == 1:
                asyncio.get_running_loop().call_soon(self._receive)
            elif len(self._arrived) == ANSWERS_PER_WRITE:
                self._receive()

    def _receive(self) -> None:
        """Store the answers of this tick with one write, then hand them to their rows."""
        arrived, self._arrived = self._arrived, []
        if arrived:
            self._guarded(lambda: self._store(arrived))
            self._settle()
            self._guarded(self._pump)

    def _store(self, arrived: list[tuple[Call, Sequence[Completion]]]) -> None:
        for call, completions in arrived:
            engine = self._lanes[call.request.role].engine
            facts = call.facts(engine.name, self.recipe.name, self.step)
            for key, sample, completion in zip(call.keys, call.samples, completions, strict=False):
                if completion.error is None and not stores_itself(engine):
                    repeated = key not in call.waiters and (key in self._pending or self.calls.find(key) is not None)
                    if repeated:
                        call.repeated.add(key)
                    self.calls.add(
                        key, call.request_hash, call.request_json, completion, repeated, sample=sample, **facts
                    )
        self.calls.flush()
        for call, completions in arrived:
            self._deliver(call, completions)

    def _deliver(self, call: Call, completions: Sequence[Completion]) -> None:
        """Hand a call's answers to the rows that wait for them. All answers were paid for, also those that a group
        asked for again: the part of the call's first waiter counts them.
        """
        role = call.request.role
        lane = self._lanes[role]
        spent = next(iter(call.waiters.values()))[0][0].part.spent_by(role)
        for key, completion in zip(call.keys, completions, strict=False):
            if self._pending.get(key) is call:
                del self._pending[key]
            tokens = tokens_of(completion.prompt_tokens, completion.completion_tokens, completion.usage)
            if self._gate:
                self._gate.count_answer(lane.engine.name, tokens, lane.in_batches)
            spent.count(completion, tokens, call.request.asked_again, key in call.repeated, lane.in_batches)
            for number, (flight, index) in enumerate(call.waiters.get(key, ())):
                if number:
                    flight.part.spent_by(role).reused += 1
                if completion.lost:
                    self._note_loss(flight.part, key, completion)
                flight.answers[index] = completion
                flight.missing -= 1
                if flight.missing == 0:
                    self._advance(flight, flight.answers)

    def _note_loss(self, part: Part, key: bytes, completion: Completion) -> None:
        earlier = part.lost_before.get(key)
        runs = 1 + (earlier.runs if earlier else 0)
        part.lost[key.hex()] = Loss(runs=runs, run=self.run_id, error=completion.error or "")

    def _advance(self, flight: Flight, answers: Any) -> None:
        """Step a row with stored answers until one is missing or the row is done."""
        while (outcome := self._step(flight, answers)) is None:
            flight.missing = self._prepare(flight)
            if flight.missing:
                return
            answers = flight.answers
        flight.part.outcomes[flight.place] = (outcome, flight.calls)
        self.rows_done += 1
        if isinstance(outcome, Dropped):
            self.dropped[outcome.reason] += 1
        flight.part.rows_left -= 1
        if flight.part.rows_left == 0 and not flight.part.done.done():
            self._parts.remove(flight.part)
            self._note_spent(flight.part)
            flight.part.done.set_result(None)

    def _step(self, flight: Flight, answers: Any) -> Row | Dropped | None:
        """Send a row's generator its answers. Returns the row or its drop, or None when it asks for more. A recipe's
        bug drops this row only.
        """
        row_id = flight.row.id
        failed = None
        if answers:
            for key, answer, request in zip(flight.keys, answers, flight.requests, strict=True):
                if not answer.error:
                    flight.calls.append(key.hex())
                elif not request.optional and failed is None:
                    failed = answer
            answers = answers_alone(flight.requests, answers, self._thinking)
        try:
            flight.requests = flight.steps.throw(Drop(failed.error)) if failed else flight.steps.send(answers)
            return None
        except StopIteration as end:
            child: Any = end.value
        except Drop as drop:
            return Dropped(id=row_id, reason=drop.reason, detail=drop.detail[:500])
        except Exception as error:
            return Dropped(
                id=row_id, reason="recipe_error", detail=f"{type(error).__name__}: {error} ({origin_of(error)})"[:500]
            )
        if isinstance(child, Row):
            extended = child.id == row_id and child is not flight.row
            if extended or child.parent_id == row_id:
                return child
        return Dropped(id=row_id, reason="recipe_error", detail="what was returned is no child of the row given")

    def _prepare(self, flight: Flight) -> int:
        """Look up the answers to a row's requests, and queue the missing ones. Returns how many are missing."""
        requests = flight.requests
        flight.answers = [None] * len(requests)
        flight.keys = keys = []
        asks: dict[tuple[int, ...], Ask] = {}
        groups: dict[tuple[int, bytes, int], tuple[Ask, list[int]]] = {}
        groups_to_send: set[tuple[int, bytes, int]] = set()
        duplicates: list[int] = []  # the same key is asked already, by this row or another
        earlier_keys: set[bytes] = set()
        for index, request in enumerate(requests):
            content = content_ids(request)
            if (ask := asks.get(content)) is None:
                request_json = request.question_json()
                ask = asks[content] = ask_hash(request_json), request_json
            if (lane := self._lanes.get(request.role)) is None:
                name, role = self.recipe.name, request.role
                raise InputError(f"the stage {name} asks {role}, which is not among its roles; declare it there")
            key = call_key(lane.engine.name, ask[0], request.sample)
            repeated = key in earlier_keys
            earlier_keys.add(key)
            keys.append(key)
            group = (id(lane), ask[0], request.sample // lane.engine.samples_per_call)
            if not repeated:
                groups.setdefault(group, (ask, []))[1].append(index)
            if (stored := self.calls.find(key)) is not None:
                flight.answers[index] = stored
                if lane.answered_request is None:
                    lane.answered_request = request
                    lane.engine.answered_before(request)
                flight.part.spent_by(request.role).reused += 1
            elif (loss := flight.part.lost_before.get(key)) and (loss.settled or loss.run == self.run_id != ""):
                flight.answers[index] = Completion(text="", finish_reason="error", error=loss.error)
                flight.part.lost[key.hex()] = loss
            elif repeated or key in self._pending:
                duplicates.append(index)
            else:
                groups_to_send.add(group)
        for group, (ask, indexes) in groups.items():
            if group in groups_to_send:
                self._queue(flight, indexes, ask)
        for index in duplicates:
            self._pending[keys[index]].waiters[keys[index]].append((flight, index))
        return flight.answers.count(None)

    def _queue(self, flight: Flight, indexes: list[int], ask: Ask) -> None:
        """Queue the samples at `indexes`, asked together. Those that are stored or under way are asked again but not
        used, so that an interrupted run asks for the same groups, with the same seeds, as one that was not.
        """
        first = flight.requests[indexes[0]]
        check_able(self._lanes[first.role].engine, first)
        keys = [flight.keys[index] for index in indexes]
        samples = [flight.requests[index].sample for index in indexes]
        call = Call(first, *ask, samples, keys, {})
        for index, key in zip(indexes, keys, strict=True):
            if flight.answers[index] is None and key not in self._pending:
                call.waiters[key] = [(flight, index)]
                self._pending[key] = call
        self._lanes[first.role].queue.add(call, begins=not flight.calls)
        self._outstanding += len(indexes)
