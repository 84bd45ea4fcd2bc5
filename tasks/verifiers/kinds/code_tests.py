"""The answer's Python code passes tests. It runs only where a setting allows that.

Source: docs/papers.md#verifiers.
"""

from typing import ClassVar, Literal

from pydantic import Field

from synthmill.schemas.calls import Frozen
from synthmill.tasks.texts.code_blocks import code_in
from synthmill.tasks.verifiers.kinds.exact import texts_in
from synthmill.tasks.verifiers.sandbox import run
from synthmill.tasks.verifiers.verifier import Verdict, Verifier, failed, missing, share_of


class Case(Frozen):
    """What a program reads, and what it has to print."""

    input: str = ""
    output: str


class CodeTests(Verifier):
    """The answer's last block of Python passes the tests: statements that raise nothing, or inputs and outputs."""

    short_forms: ClassVar = ("code",)

    verifier: Literal["code"] = "code"
    run_code: bool = Field(False, description="whether the answers' code may run on this machine at all")
    tests: tuple[str, ...] = Field((), description="Python statements; default: the reference, as one test")
    cases: tuple[Case, ...] = Field((), description="{input, output}: the answer is a program")
    memory_mb: int = Field(1024, ge=64, le=1 << 20, description="of each process")
    partial: bool = Field(False, description="the share of the tests that pass")

    def verdict(self, answer: str, reference: str) -> Verdict:
        if not self.run_code:
            return missing("not_allowed: it would run the answer's code; set run_code to allow that")
        tests = self.tests or (() if self.cases else tuple(texts_in(reference)))
        if not tests and not self.cases:
            return missing("no_tests: expected `tests`, `cases`, or tests as the reference")
        code = code_in(answer, "python", "py", "python3")
        if not code.strip():
            return failed("no_code: the answer is empty")
        cases = [case.model_dump() for case in self.cases]
        ran = run(code, tests, cases, self.timeout_s, self.memory_mb)
        if ran.faults is None:
            return missing(ran.reason)
        faults = [f"test {number}: {fault}" for number, fault in enumerate(ran.faults, 1) if fault]
        return share_of(faults, len(ran.faults), self.partial)
