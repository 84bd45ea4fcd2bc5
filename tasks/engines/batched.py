"""An engine that asks in batches.

What a stage asks is gathered in files until no row can go on without answers; then the files are submitted, looked at
until they are done, and their answers stored. What was submitted is known by its keys, so a run that died, or did not
wait, finds its batches again when it asks the same. The answers of a batch that nobody asks for any more are stored,
too.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from synthmill.schemas.calls import Completion, Request, ask_hash, call_key
from synthmill.schemas.errors import STOPPED, BatchPending, EngineError, Stopped, SynthmillError
from synthmill.schemas.progress import BatchProgress
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.batches import REQUESTS, RESULTS, Asked, Batches, BatchRecord
from synthmill.storage.calls import CallStore
from synthmill.storage.files import scratch_folder, try_lock
from synthmill.tasks.engines.batch_drafts import Draft
from synthmill.tasks.engines.batch_forms import form_of, server_of
from synthmill.tasks.engines.batch_results import Collected, Question, collect
from synthmill.tasks.engines.batch_servers import ByHand, Standing
from synthmill.tasks.engines.batch_waiting import (
    FIRST_LOOK_S,
    Submitted,
    Waiting,
    divide,
    hopeless,
    in_words,
    progress_of,
)
from synthmill.tasks.engines.remote_model import failed_completions

QUIET_S = 1.0
"""No request came for so long, and nothing else is at work: what is gathered is a batch."""
TICK_S, SLOWER = 0.05, 1.5
RESOLVED_AT_ONCE = 256


class Batched:
    """Any engine whose server takes batches; it has that engine's name, so answers have the same keys."""

    def __init__(self, settings: EngineSettings, batches: Batches, calls: CallStore) -> None:
        assert settings.batch
        self.settings, self.limits = settings, settings.batch
        self.form = form_of(settings)
        self.name = self.form.name
        self.limit = self.limits.window
        self.samples_per_call = settings.samples_per_call
        self.server = server_of(settings)
        self.batches, self.calls = batches, calls
        self.busy: Callable[[], bool] = lambda: False
        """Whether requests may still come though none came for a while."""
        self._stack = ExitStack()
        self._waiting: dict[str, Waiting] = {}
        self._claims: dict[str, str] = {}
        self._submitted: dict[str, Submitted] = {}
        self._drafts: list[Draft] = []
        self._number = 0
        self._arrived_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    async def open(self) -> None:
        self.batches.folder.mkdir(parents=True, exist_ok=True)
        self._scratch = self._stack.enter_context(scratch_folder(self.batches.folder, "drafts"))
        await self.server.open()
        try:
            for record in self.batches.records(self.name):
                if record.state != "stored":
                    await self._take_up(record)
        except BaseException:
            await self.close()
            raise

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        question = request.question_json()
        samples = range(request.sample, request.sample + count)
        keys = [call_key(self.name, ask_hash(question), sample) for sample in samples]
        return await self.answers(Asked(question, samples, keys, request.role), request, seed)

    async def answers(self, asked: Asked, request: Request, seed: int) -> Sequence[Completion]:
        """The answers to one request, stored already. Raises EngineError, BatchPending."""
        if self._stopped:
            raise Stopped(STOPPED)
        custom_id = asked.custom_id
        if custom_id not in self._waiting:
            stored = [completion for key in asked.keys if (completion := self.calls.find(key))]
            if len(stored) == len(asked.keys):  # collected since the driver looked
                return stored
            future = asyncio.get_running_loop().create_future()
            self._waiting[custom_id] = Waiting(asked, request, seed, future)
            if custom_id not in self._claims:
                self._gather(self._waiting[custom_id])
            self._arrived_at = time.monotonic()
            if self._task is None or self._task.done():
                self._task = asyncio.get_running_loop().create_task(self._work())
        return await asyncio.shield(self._waiting[custom_id].future)

    def answered_before(self, request: Request) -> None: ...

    def stop(self) -> None:
        """Leave everything as it is; batches go on at their server."""
        if self._submitted and self._waiting and not self._stopped:
            print(f"{self.standing_text()}; run the same command again to collect them", file=sys.stderr, flush=True)
        self._stopped = True
        if self._task:
            self._task.cancel()
        self._fail(Stopped(STOPPED))

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._stack.close()
        await self.server.close()

    def standing(self) -> BatchProgress | None:
        """What waits at the server; None where nothing does."""
        return progress_of(self.name, self._submitted.values()) if self._waiting else None

    def standing_text(self) -> str:
        return in_words(self.name, self.server.address, list(self._submitted.values()))

    async def _work(self) -> None:
        """Submit, look and collect until nobody waits."""
        try:
            while self._waiting:
                quiet = self._is_quiet()
                for draft in list(self._drafts if quiet else self._drafts[:-1]):
                    self._drafts.remove(draft)
                    await self._submit(draft)
                if quiet and isinstance(self.server, ByHand):
                    raise self.server.pending(self.name)
                leaves = quiet and not self.limits.wait
                for submitted in list(self._submitted.values()):
                    if self._is_due(submitted, leaves):
                        await self._look(submitted)
                if leaves and self._is_quiet() and not self._drafts and self._waiting:
                    raise BatchPending(f"{self.standing_text()}; run the same command again to collect them")
                await asyncio.sleep(TICK_S)
        except SynthmillError as error:
            self._fail(error)
        except Exception as error:
            self._fail(EngineError(f"batches of {self.name} broke with {type(error).__name__}: {error}"))

    def _is_quiet(self) -> bool:
        """Whether no request comes before a batch is answered."""
        return time.monotonic() - self._arrived_at >= QUIET_S and not self.busy()

    def _is_due(self, submitted: Submitted, leaves: bool) -> bool:
        """Whether to look at a batch now. A run that does not wait leaves what it submits to the next one, and leaves
        only after a last look at what earlier ones submitted: the first may have been too early for it.
        """
        if not self.limits.wait and not submitted.is_earlier:
            return False
        return leaves or time.monotonic() >= submitted.next_look

    def _gather(self, waiting: Waiting) -> None:
        asked = waiting.asked
        line = self.server.line(asked.custom_id, dict(self.form.body(waiting.request, waiting.seed, len(asked.keys))))
        if not self._drafts or not self._drafts[-1].has_room(line, self.limits):
            self._number += 1
            self._drafts.append(Draft(self._scratch / str(self._number)))
        self._drafts[-1].add(line, asked)

    async def _submit(self, draft: Draft) -> None:
        name = draft.close(self.name, self.server.address)
        by_hand = isinstance(self.server, ByHand)
        record = BatchRecord(
            handle=f"{name}-by-hand" if by_hand else self.batches.free_handle(name),
            engine=self.name,
            address=self.server.address,
            engine_settings=self.settings.model_dump(mode="json", exclude={"batch"}, exclude_defaults=True),
            requests=len(draft.custom_ids),
            made_at=time.time(),
            run=self.calls.origin.get("run", ""),
        )
        with self._lock(record):
            record = self.batches.keep(record, draft.folder)
            known = {other.batch_id for other in self.batches.records()}
            requests = self.batches.path(record, REQUESTS)
            record = await self.server.submit(record, requests, self.batches.write, known)
        self._watch(record, draft.custom_ids)
        if not by_hand:
            print(
                f"{self.name}: submitted {record.requests:,} requests as {record.batch_id} to {record.address}",
                file=sys.stderr,
                flush=True,
            )

    def _watch(self, record: BatchRecord, custom_ids: Iterable[str], is_earlier: bool = False) -> None:
        self._claims.update(dict.fromkeys(custom_ids, record.handle))
        pause = min(FIRST_LOOK_S, self.limits.poll_s)
        self._submitted[record.handle] = Submitted(record, is_earlier, pause_s=pause)

    async def _take_up(self, record: BatchRecord) -> None:
        """Go on with a batch of an earlier run."""
        if record.address != self.server.address:
            if record.address:
                asked = self.server.address or "no server"
                print(
                    f"{self.name}: {record.requests:,} requests are in the batch {record.batch_id} at "
                    f"{record.address}, and {asked} is asked now",
                    file=sys.stderr,
                )
            return
        if not record.address:
            return  # by hand: the same requests make the same file
        with self._lock(record) as ours:
            if ours and record.state in ("written", "uploaded"):
                record = self.batches.read(record.handle)
                if record.state == "uploaded":
                    others = {other.batch_id for other in self.batches.records()}
                    if submitted := await self.server.find(record, others):
                        record = self.batches.write(submitted)
                if record.state in ("written", "uploaded"):
                    self.batches.forget(record)
                    return
        self._watch(record, (asked.custom_id for asked in self.batches.asked(record)), is_earlier=True)
        if record.state == "ended":
            await self._collect(self._submitted[record.handle])

    async def _look(self, submitted: Submitted) -> None:
        """Look at a batch, and collect it where it has ended."""
        submitted.pause_s = min(self.limits.poll_s, submitted.pause_s * SLOWER)
        submitted.record = self.batches.read(submitted.record.handle)
        if submitted.record.state == "submitted":
            submitted.standing = await self.server.look(submitted.record)
        if submitted.standing.ended or submitted.record.state in ("ended", "stored"):
            await self._collect(submitted)
        submitted.next_look = time.monotonic() + submitted.pause_s

    async def _collect(self, submitted: Submitted) -> None:
        """Store a batch's answers and hand them on, unless another run does so now."""
        with self._lock(submitted.record) as ours:
            if not ours:
                return
            record = self.batches.read(submitted.record.handle)
            if record.state == "stored":
                collected = self._found_stored(record)
            else:
                if record.state == "submitted":
                    await self.server.fetch(submitted.standing, self.batches.path(record, RESULTS))
                    status = submitted.standing.status
                    record = self.batches.write(record.model_copy(update={"state": "ended", "status": status}))
                collected = self._store(record)
                record = self.batches.finish(record, answered=collected.answered)
        del self._submitted[record.handle]
        claimed = [custom_id for custom_id, handle in self._claims.items() if handle == record.handle]
        for custom_id in claimed:
            del self._claims[custom_id]
        await self._hand_on(record, submitted.standing, collected, claimed)

    def _store(self, record: BatchRecord) -> Collected:
        questions = {asked.custom_id: Question(asked, self.form, self.name) for asked in self.batches.asked(record)}
        with self.batches.path(record, RESULTS).open("rb") as lines:
            collected = collect(lines, self.server.outcome, questions, self.calls, self._waiting.keys())
        self.calls.sync()
        return collected

    def _found_stored(self, record: BatchRecord) -> Collected:
        """What another run has collected."""
        self.calls.refresh()
        collected = Collected(answered=record.answered)
        for custom_id, handle in self._claims.items():
            if handle == record.handle and (waiting := self._waiting.get(custom_id)):
                stored = [self.calls.find(key) for key in waiting.asked.keys]
                if all(stored):
                    collected.completions[custom_id] = [completion for completion in stored if completion]
        return collected

    async def _hand_on(
        self, record: BatchRecord, standing: Standing, collected: Collected, custom_ids: Sequence[str]
    ) -> None:
        """Give rows their answers; ask again for what was not answered. Raises EngineError where that is hopeless."""
        results, unanswered = divide(collected, custom_ids, self._waiting)
        for number in range(0, len(results), RESOLVED_AT_ONCE):
            chunk = results[number : number + RESOLVED_AT_ONCE]
            for waiting, _ in chunk:
                self._waiting.pop(waiting.asked.custom_id, None)
            self._resolve(chunk)
            await asyncio.sleep(0)
        if error := hopeless(record, standing, collected, bool(unanswered)):
            raise error
        lost = []
        for waiting, reason in unanswered:
            waiting.tries += 1
            if waiting.tries < self.limits.tries:
                self._gather(waiting)
            else:
                lost.append(
                    (waiting, failed_completions(len(waiting.asked.keys), f"{reason} ({waiting.tries} batches)"))
                )
        if lost and not results and not collected.answered:
            raise EngineError(
                f"{self.name}: {self.limits.tries} batches answered none of {len(lost):,} requests "
                f"({lost[0][1][0].error}); see to the server, then run the same command again"
            )
        for waiting, _ in lost:
            self._waiting.pop(waiting.asked.custom_id, None)
        self._resolve(lost)
        self._arrived_at = time.monotonic()

    def _fail(self, error: SynthmillError) -> None:
        """Nobody gets an answer: a part whose rows all had one would be sealed."""
        everyone = list(self._waiting.values())
        self._waiting.clear()
        self._drafts.clear()
        for waiting in everyone:
            if not waiting.future.done():
                waiting.future.set_exception(error)

    @staticmethod
    def _resolve(results: Iterable[tuple[Waiting, Sequence[Completion]]]) -> None:
        for waiting, completions in results:
            if not waiting.future.done():
                waiting.future.set_result(completions)

    @contextmanager
    def _lock(self, record: BatchRecord) -> Iterator[bool]:
        """Hold a batch's lock; False where another process holds it."""
        path = self.batches.lock_path(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            yield try_lock(file)
