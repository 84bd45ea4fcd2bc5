"""Verifying answers: `verify:math` on pools against math-verify called one by one, and tests of code on all cores.

    python -m bench.verifiers [--answers 10000] [--programs 200]

Pools of 16 answers of some hundred characters, no two of them equal: half are right, in several forms (a fraction, a
decimal, terms in another order), the others make one of a few mistakes. 60 % of the problems have a number as their
answer, 15 % a fraction, 15 % a polynomial, 10 % a set. A second row has a problem for each answer, so that nothing is
shared. math-verify is called as its README has it, `verify(parse(reference), parse(answer))`, in this process. Verdicts
are compared where ours has a number. Ours includes the start of its processes.
"""

import argparse
import random
import time
from collections.abc import Iterator
from typing import NamedTuple

from synthmill.tasks.cores import threads
from synthmill.tasks.verifiers.verdicts import Job, verdicts_of, verifier_called
from synthmill.tasks.verifiers.workers import end_idle

POOL = 16
STEPS = (
    "We look at what is asked, and write it as an equation with the unknown on one side.",
    "Subtracting $7$ from both sides and dividing by $2$ gives $x = {n}$ for this step.",
    "The sum of the first terms is $1 + 2 + 3 = 6$, which we need later.",
    "Since the triangle is right, $a^2 + b^2 = c^2$ holds, and so the second side is known.",
)


class Problem(NamedTuple):
    """A reference, ways to write it, and wrong answers."""

    reference: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]


def problem(draw: random.Random) -> Problem:
    [kind] = draw.choices(("number", "fraction", "polynomial", "set"), (60, 15, 15, 10))
    a, b = draw.randint(2, 900), draw.randint(2, 9)
    if kind == "number":
        return Problem(str(a), (str(a), f"{a}.0"), (str(a + 1), str(2 * a), str(-a)))
    if kind == "fraction":
        return Problem(
            rf"\frac{{{a}}}{{{b}}}",
            (rf"\frac{{{a}}}{{{b}}}", f"{a}/{b}", rf"\dfrac{{{2 * a}}}{{{2 * b}}}"),
            (f"{b}/{a}", str(a)),
        )
    if kind == "polynomial":
        return Problem(f"{b}x^2+{a}", (f"{a}+{b}x^2", f"{b}x^2 + {a}"), (f"{b}x+{a}", f"{b}x^2-{a}"))
    return Problem(rf"\{{{b},{a}\}}", (rf"\{{{a},{b}\}}", rf"\{{{b}, {a}\}}"), (rf"\{{{b}\}}", rf"\{{{a},{b + 1}\}}"))


def pools(answers: int, per_problem: int) -> Iterator[tuple[str, str]]:
    """(reference, answer)."""
    draw = random.Random(0)
    for start in range(0, answers, per_problem):
        posed = problem(draw)
        for number in range(start, min(answers, start + per_problem)):
            final = draw.choice(posed.right if draw.random() < 0.5 else posed.wrong)
            steps = " ".join(draw.choice(STEPS).format(n=draw.randint(1, 99)) for _ in range(4))
            yield posed.reference, rf"{steps} This is try {number}. The answer is $\boxed{{{final}}}$."


def bare(pairs: list[tuple[str, str]]) -> list[bool]:
    from math_verify import parse, verify

    return [verify(parse(rf"\boxed{{{reference}}}"), parse(answer)) for reference, answer in pairs]


def compare_math(answers: int, per_problem: int, name: str) -> None:
    pairs = list(pools(answers, per_problem))
    verifier = verifier_called("math", b"{}")
    started = time.monotonic()
    verdicts = verdicts_of([Job(verifier, answer, reference) for reference, answer in pairs], threads())
    ours = time.monotonic() - started
    end_idle()
    started = time.monotonic()
    expected = bare(pairs)
    one_by_one = time.monotonic() - started
    missing = sum(verdict.score is None for verdict in verdicts)
    numbers = [(verdict.score, own) for verdict, own in zip(verdicts, expected, strict=True)]
    differ = sum(score is not None and bool(score) != own for score, own in numbers)
    right = sum(expected) / len(expected)
    print(
        f"| {name} | {len(pairs):,} | {right:.0%} | {one_by_one:.1f} | {ours:.1f} | {ours / one_by_one:.2f} "
        f"| {differ} | {missing} |",
        flush=True,
    )


def compare_code(programs: int) -> None:
    code = "def f(n):\n    return sum(i * i for i in range(n)) + {n}"
    verifier = verifier_called("code", b"{}", True)
    test = "assert f(200_000) > 0"
    seconds = []
    for workers in (1, threads()):
        jobs = [Job(verifier, code.format(n=n), test) for n in range(programs)]
        started = time.monotonic()
        verdicts = verdicts_of(jobs, workers)
        seconds.append(time.monotonic() - started)
        assert all(verdict.score == 1 for verdict in verdicts), verdicts[0]
    print("\n| tests of code | programs | on one core, s | on all, s | ratio |\n|---|---:|---:|---:|---:|")
    print(f"| {threads()} cores | {programs:,} | {seconds[0]:.1f} | {seconds[1]:.1f} | {seconds[1] / seconds[0]:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--programs", type=int, default=200)
    options = parser.parse_args()
    print("| verify:math | answers | right | one by one, s | ours, s | ratio | other verdicts | missing |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    compare_math(options.answers, POOL, f"pools of {POOL}")
    compare_math(options.answers // 10, 1, "every problem once")
    compare_code(options.programs)


if __name__ == "__main__":
    main()
