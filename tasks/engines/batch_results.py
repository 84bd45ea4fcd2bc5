"""Results of a batch into the call store, under the keys that single calls would have."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import EngineRefused
from synthmill.storage.batches import Asked
from synthmill.storage.calls import CallStore
from synthmill.tasks.engines.batch_servers import Outcome
from synthmill.tasks.engines.refusals import MALFORMED, ErrorAnswer

ANSWERS_PER_WRITE = 64


class Form(Protocol):
    """How a model's requests are written and its replies are read; engines for single calls know both."""

    name: str

    def body(self, request: Request, seed: int, count: int) -> dict[str, object]: ...

    def read(self, request: Request, reply: bytes, count: int) -> Sequence[Completion]:
        """Raises ErrorAnswer, or what MALFORMED names, where it is no answer."""


@dataclass
class Collected:
    """What a batch's results came to. completions: of the requests that are waited for. failures: by custom id."""

    answered: int = 0
    known: int = 0
    duplicates: int = 0
    foreign: int = 0
    malformed: int = 0
    completions: dict[str, Sequence[Completion]] = field(default_factory=dict)
    failures: dict[str, Outcome] = field(default_factory=dict)
    refused: EngineRefused | None = None


@dataclass(frozen=True)
class Question:
    """What was asked of whom. run: that asked, where it is another than the store's."""

    asked: Asked
    form: Form
    engine: str
    run: str = ""

    def facts(self) -> dict[str, Any]:
        """What is stored beside its answers."""
        asked = self.asked
        facts = {"engine": self.engine, "role": asked.role, "stage": asked.stage, "step": asked.step, "batch": True}
        facts |= {"asked_again": True} if asked.asked_again else {}
        return facts | ({"run": self.run} if self.run else {})


def collect(
    lines: Iterable[bytes],
    outcome_of: Callable[[bytes], Outcome],
    questions: Mapping[str, Question],
    calls: CallStore,
    wanted: Collection[str],
) -> Collected:
    """Store every answer of a batch. questions: by custom id. wanted: the custom ids whose completions are returned.

    An answer that the store has already is not stored again. A line that is no result, one of another batch, and a
    second one for a request are counted.
    """
    collected = Collected()
    seen: set[str] = set()
    for line in lines:
        if not line.strip():
            continue
        try:
            outcome = outcome_of(line)
        except MALFORMED:
            collected.malformed += 1
            continue
        question = questions.get(outcome.custom_id)
        if question is None:
            collected.foreign += 1
        elif outcome.custom_id in seen:
            collected.duplicates += 1
        else:
            seen.add(outcome.custom_id)
            store_outcome(outcome, question, calls, collected, wanted)
            if len(seen) % ANSWERS_PER_WRITE == 0:
                calls.flush()
    calls.flush()
    return collected


def store_outcome(
    outcome: Outcome, question: Question, calls: CallStore, collected: Collected, wanted: Collection[str]
) -> None:
    asked = question.asked
    custom_id = outcome.custom_id
    if outcome.reply is None:
        collected.failures[custom_id] = outcome
        return
    try:
        completions = question.form.read(asked.request(), outcome.reply, len(asked.keys))
    except EngineRefused as refused:
        collected.refused = refused
        return
    except ErrorAnswer as error:
        collected.failures[custom_id] = Outcome(custom_id, error=f"{error.reason}: an answer without any", again=True)
        return
    except MALFORMED as error:
        fault = f"engine_error: the answer is no chat completion ({type(error).__name__}: {error})"
        collected.failures[custom_id] = Outcome(custom_id, error=fault, again=True)
        return
    collected.answered += 1
    stored = [calls.find(key) for key in asked.keys]
    collected.known += all(stored)
    facts = question.facts()
    for key, sample, completion, earlier in zip(asked.keys, asked.samples, completions, stored, strict=True):
        if earlier is None or not all(stored):
            repeated = earlier is not None  # its group was asked anew, and costs
            calls.add(key, asked.ask, asked.question, completion, repeated, sample=sample, **facts)
    if custom_id in wanted:
        collected.completions[custom_id] = [
            earlier or completion for earlier, completion in zip(stored, completions, strict=True)
        ]
