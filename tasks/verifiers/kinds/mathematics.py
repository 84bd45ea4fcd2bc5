"""The answer is mathematically equal to the reference, by the library math-verify.

Source: docs/papers.md#verifiers.
"""

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from pydantic import Field

from synthmill.schemas.errors import MissingExtra
from synthmill.tasks.verifiers.verifier import Verdict, Verifier, failed, missing

FORMULA = re.compile(r"\\boxed|\$|\\\(|\\\[")
WHOLE = r"(?:0|[1-9]\d{0,14})"
NUMBER = re.compile(rf"(-?{WHOLE})|(-?{WHOLE}\.\d{{1,6}})|(-?)\\frac\{{({WHOLE})\}}\{{([1-9]\d{{0,14}})\}}", re.A)
"""What is read without math-verify's parser, which takes milliseconds; a test holds the two together."""
FINAL = "####"
"""What GSM8K's references have before their last number."""


class Mathematics(Verifier):
    """The answer's boxed or last formula or number equals the reference (math-verify)."""

    short_forms: ClassVar = ("math",)
    isolated: ClassVar = True

    verifier: Literal["math"] = "math"
    decimals: int = Field(6, ge=0, le=50, description="to which two numbers must agree where one is a decimal")
    strict: bool = Field(True, description="variables have to have the same names, and tuples are no sets")

    def check(self) -> None:
        if find_spec("math_verify") is None:
            raise MissingExtra("verify:math needs the library math-verify; install it: pip install 'synthmill[verify]'")

    def verdict(self, answer: str, reference: str) -> Verdict:
        wanted = formulas_of(reference_formula(reference))
        if not wanted:
            return missing(f"bad_reference: {reference[:80]!r} is no formula or number")
        formulas = extracted(answer)
        if formulas is None:
            return missing(f"unparsed: {answer[-80:]!r} cannot be read as mathematics")
        if not formulas:
            return failed("no_answer: no formula and no number was found")
        equal, fault = self.equal(wanted, formulas)
        if equal:
            return Verdict(1.0)
        if all(isinstance(formula, str) for formula in formulas):
            return missing(f"unparsed: {formulas[0][:80]!r} cannot be read as mathematics")
        return missing(f"not_comparable: {fault}") if fault else failed("not_equal")

    def equal(self, wanted: Sequence[Any], formulas: Sequence[Any]) -> tuple[bool, str]:
        """(whether a pair of them is equal, what went wrong where none is). As math-verify's `verify`, which counts a
        comparison that fails as unequal. Exact numbers are equal where they are the same; math-verify would still
        simplify their difference.
        """
        from sympy import Rational

        if all(isinstance(formula, Rational | str) for formula in (*wanted, *formulas)):
            own, theirs = (
                {part.strip() if isinstance(part, str) else part for part in side} for side in (wanted, formulas)
            )
            return bool((own & theirs) - {""}), ""
        key = comparison_key(wanted, formulas)
        if key is None:
            return compare(wanted, formulas, self.decimals, self.strict)
        return compare_once(ByKey(key, wanted, formulas), self.decimals, self.strict)


class ByKey:
    """Formulas under a key: equal keys are equal formulas, which compare alike."""

    def __init__(self, key: tuple[str, ...], wanted: Sequence[Any], formulas: Sequence[Any]) -> None:
        self.key, self.wanted, self.formulas = key, wanted, formulas

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByKey) and self.key == other.key


@lru_cache(4096)
def compare_once(pair: ByKey, decimals: int, strict: bool) -> tuple[bool, str]:
    return compare(pair.wanted, pair.formulas, decimals, strict)


def compare(wanted: Sequence[Any], formulas: Sequence[Any], decimals: int, strict: bool) -> tuple[bool, str]:
    from math_verify import verify

    fault = ""
    for own in wanted:
        for formula in formulas:
            try:
                if verify(own, formula, decimals, strict=strict, timeout_seconds=None, raise_on_error=True):
                    return True, ""
            except MemoryError:
                raise
            except Exception as error:
                fault = fault or f"{type(error).__name__}: {error}"
    return False, fault


def comparison_key(wanted: Sequence[Any], formulas: Sequence[Any]) -> tuple[str, ...] | None:
    """What a comparison depends on, as texts; None where that cannot be told: sets and chains of relations that are
    math-verify's own keep the order in which they were written, which is in no text of theirs.
    """
    from sympy import MatrixBase, preorder_traversal, srepr

    texts = [str(len(wanted))]
    for formula in (*wanted, *formulas):
        if isinstance(formula, str):
            texts.append(f"text {formula}")
            continue
        if isinstance(formula, MatrixBase):
            return None
        if not all(type(part).__module__.startswith("sympy.") for part in preorder_traversal(formula)):
            return None
        texts.append(srepr(formula))
    return tuple(texts)


def reference_formula(reference: str) -> str:
    """A reference as math-verify reads it: what stands behind GSM8K's ####, and, without any mark of a formula, boxed,
    as verl does it.
    """
    final = reference.rpartition(FINAL)[2].strip()
    return final if FORMULA.search(final) or not final else f"\\boxed{{{final}}}"


@cache
def reader() -> Any:
    """math-verify's `parse`, which in this process holds more formulas, and reads plain numbers without a parser."""
    import math_verify.parser as parser

    parse_latex = parser.parse_latex_cached.__wrapped__

    def read(latex: str) -> Any:
        match = NUMBER.fullmatch(latex)
        return number(match) if match else parse_latex(latex)

    parser.parse_latex_cached = lru_cache(1 << 14)(read)
    return parser.parse


def number(match: re.Match[str]) -> Any:
    """The number that a match of NUMBER is, as math-verify has it."""
    from sympy import Float, Integer, Rational

    whole, decimal, sign, above, below = match.groups()
    if whole:
        return Integer(whole)
    return Float(decimal) if decimal else Rational(int(sign + above), int(below))


@lru_cache(1024)
def formulas_of(reference: str) -> tuple[Any, ...] | None:
    return extracted(reference)


def extracted(text: str) -> tuple[Any, ...] | None:
    """math-verify's reading of a text: the formula, and the text it was read from; or that alone; or nothing. None
    where it fails, which math-verify counts as nothing.
    """
    parse = reader()
    try:
        return tuple(parse(text, parsing_timeout=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:
        return None
