"""`synthmill batch write|read`: the requests of a run in a file, and their results in the call store."""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthmill.flows.commands.existing_store import existing_store
from synthmill.flows.commands.run import read_run, run_flow
from synthmill.schemas.batch_settings import BatchSettings
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.batches import Batches, BatchRecord
from synthmill.storage.calls import CallStore
from synthmill.tasks.engines.batch_forms import BY_HAND, form_of
from synthmill.tasks.engines.batch_results import Collected, Question, collect
from synthmill.tasks.engines.batch_servers import openai_outcome

REASONS_SHOWN = 5


def write_requests(flow: str, config: Path | None, overrides: Mapping[str, Any], out: Path) -> None:
    """Run a flow, without Prefect, whose servers are asked by hand. Raises BatchPending where requests were written."""
    flow, settings = read_run(flow, config, overrides)
    engines = dict(settings.engines)
    for role, engine in engines.items():
        if engine.kind == BY_HAND:
            batch = engine.batch or settings.batch or BatchSettings()
            engines[role] = engine.model_copy(update={"batch": batch.model_copy(update={"file": out})})
    if not any(engine.batch for engine in engines.values()):
        raise InputError(
            f"none of the engines takes requests from a file; expected one of the kind {BY_HAND}, for instance "
            "engines.teacher=openai:MODEL@http://127.0.0.1:8000/v1, where MODEL is what `vllm run-batch` serves"
        )
    run_flow(flow, settings.model_copy(update={"engines": engines}), prefect=False)
    print(f"the run is done, and nothing is left to ask; {out} was not written", file=sys.stderr)


def read_results(results: Path, place: Path) -> None:
    """Store the answers of a file of results, and say what was not usable. Raises InputError."""
    store = existing_store(place)
    batches = Batches(store.root)
    written = [record for record in batches.records() if not record.address and record.state != "stored"]
    if not written:
        raise InputError(f"{store.root} waits for no results; write requests first, with `synthmill batch write`")
    questions = questions_of(batches, written)
    calls = CallStore(store.calls)
    try:
        with results.open("rb") as lines:
            collected = collect(lines, openai_outcome, questions, calls, ())
        calls.sync()
        done = [record for record in written if is_answered(batches, record, calls)]
    finally:
        calls.close()
    for record in done:
        batches.finish(record, answered=record.requests)
    report(collected, len(questions), results)


def questions_of(batches: Batches, records: list[BatchRecord]) -> dict[str, Question]:
    """What the results may answer, by custom id."""
    questions: dict[str, Question] = {}
    for record in records:
        form = form_of(EngineSettings.model_validate(record.engine_settings))
        for asked in batches.asked(record):
            questions[asked.custom_id] = Question(asked, form, record.engine, record.run)
    return questions


def is_answered(batches: Batches, record: BatchRecord, calls: CallStore) -> bool:
    return all(calls.find(key) is not None for asked in batches.asked(record) for key in asked.keys)


def report(collected: Collected, waiting: int, results: Path) -> None:
    """What came of the file. Raises InputError where nothing in it was ours."""
    new = collected.answered - collected.known
    parts = [f"{new:,} requests answered, of {waiting:,} that were written"]
    for count, what in (
        (collected.known, "answered before"),
        (len(collected.failures), "failed"),
        (collected.duplicates, "lines for a request that had one"),
        (collected.foreign, "lines of other requests"),
        (collected.malformed, "lines that are no results"),
    ):
        if count:
            parts.append(f"{count:,} {what}")
    print("; ".join(parts), file=sys.stderr)
    reasons = Counter(outcome.error for outcome in collected.failures.values())
    for reason, count in reasons.most_common(REASONS_SHOWN):
        print(f"  {count:,} failed: {reason}", file=sys.stderr)
    if collected.refused:
        raise collected.refused
    if not collected.answered and not collected.failures:
        raise InputError(
            f"{results} has no result of a request that this store has written; expected lines of `vllm run-batch` or "
            "of an output file of OpenAI's Batch API, with our custom_id"
        )
    print("run the same command again: it finds these answers, and asks or writes what is left", file=sys.stderr)
