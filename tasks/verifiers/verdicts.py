"""Verdicts on one answer, or on many on all cores."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from synthmill.schemas.errors import Drop, InputError, MissingExtra
from synthmill.schemas.settings_files import explain
from synthmill.tasks.verifiers.verifier import (
    Verdict,
    Verifier,
    answer_of,
    guarded_verdict,
    missing,
    reference_of,
)
from synthmill.tasks.verifiers.workers import isolated_verdict

RUN_CODE = "SYNTHMILL_RUN_CODE"
TOGETHER = 64
"""Answers to one reference that go to a process together: what it has read of the reference serves all of them."""


class Job(NamedTuple):
    """One answer, without its thinking, and what it is verified against."""

    verifier: Verifier
    answer: str
    reference: str


def verify(name: str, answer: Any, reference: Any = "", *, run_code: bool | None = None, **arguments: Any) -> Verdict:
    """The verdict on one answer: (score from 0 to 1, or None; the reason).

    name: math, exact, choice, json, constraints, code, sql or citation. answer: a text, or a list of messages, the last
    of which counts; its thinking is left out. reference: a text; any other value counts as JSON. run_code: whether
    `code` may run the answer; default: whether SYNTHMILL_RUN_CODE is 1. arguments: the verifier's own. Raises
    InputError for a wrong name or argument, MissingExtra for a library that is not installed.
    """
    may_run = os.environ.get(RUN_CODE) == "1" if run_code is None else run_code
    verifier = verifier_called(name, orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS), may_run)
    try:
        text = answer_of(answer)
    except Drop as error:
        return missing(f"bad_answer: {error.message}")
    return verdict_of(Job(verifier, text, reference_of(reference)))


@lru_cache(1024)
def verifier_called(name: str, arguments: bytes, run_code: bool = False) -> Verifier:
    """A verifier with its arguments as JSON, checked. Raises InputError, MissingExtra."""
    try:
        fields = orjson.loads(arguments or b"{}")
    except orjson.JSONDecodeError as error:
        raise InputError(f"the arguments of verify:{name} are no JSON: {error}") from error
    if not isinstance(fields, Mapping) or "run_code" in fields:
        raise InputError(f"the arguments of verify:{name} are {arguments[:80]!r}; expected its own, by name")
    if name == "code":
        fields = {**fields, "run_code": run_code}
    try:
        verifier = Verifier.model_validate({**Verifier.read_spec(name), **fields})
    except ValidationError as error:
        raise InputError(f"verify:{name}: {explain(error)}") from error
    except ValueError as error:
        raise InputError(str(error)) from error
    verifier.check()
    return verifier


def verifier_fault(name: str, arguments: str) -> str:
    """What is wrong with a verifier and its arguments as JSON; empty for nothing. Raises MissingExtra."""
    try:
        verifier_called(name.removeprefix("verify:"), arguments.encode())
    except MissingExtra:
        raise
    except (InputError, ValueError) as error:
        return str(error)
    return ""


def verdict_of(job: Job) -> Verdict:
    return isolated_verdict(*job) if job.verifier.isolated else guarded_verdict(*job)


def verdicts_of(jobs: Sequence[Job], workers: int) -> list[Verdict]:
    """The verdicts in the order of the jobs; equal ones are made once. workers: at the same time."""
    keys = [(id(job.verifier), job.reference, job.answer) for job in jobs]
    together: dict[tuple[int, str], list[Job]] = defaultdict(list)
    for key, job in dict(zip(keys, jobs, strict=True)).items():
        together[key[:2]].append(job)
    groups = [group[at : at + TOGETHER] for group in together.values() for at in range(0, len(group), TOGETHER)]
    with ThreadPoolExecutor(max(1, min(workers, len(groups)))) as threads:
        verdicts = [verdict for group in threads.map(group_verdicts, groups) for verdict in group]
    ordered = ((id(job.verifier), job.reference, job.answer) for group in groups for job in group)
    by_key = dict(zip(ordered, verdicts, strict=True))
    return [by_key[key] for key in keys]


def group_verdicts(jobs: Iterable[Job]) -> list[Verdict]:
    return [verdict_of(job) for job in jobs]
