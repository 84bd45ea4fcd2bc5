"""The answer keeps to constraints that can be counted: lengths, keywords, forms, languages.

Source: docs/papers.md#verifiers (IFEval).
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from synthmill.schemas.errors import InputError
from synthmill.schemas.settings_files import explain
from synthmill.tasks.verifiers import instruction_counts as counts
from synthmill.tasks.verifiers import instruction_forms as forms
from synthmill.tasks.verifiers.ifeval import from_ifeval
from synthmill.tasks.verifiers.verifier import Verdict, Verifier, missing, share_of

Constraint = Annotated[
    counts.Words
    | counts.Sentences
    | counts.Paragraphs
    | counts.Lines
    | counts.Characters
    | counts.Bullets
    | counts.Highlights
    | counts.Placeholders
    | counts.Sections
    | counts.CapitalWords
    | counts.Letter
    | counts.Keyword
    | forms.Keywords
    | forms.Forbidden
    | forms.StartsWith
    | forms.EndsWith
    | forms.ParagraphStart
    | forms.Postscript
    | forms.Title
    | forms.Quoted
    | forms.Json
    | forms.Uppercase
    | forms.Lowercase
    | forms.NoCommas
    | forms.Language
    | forms.Options
    | forms.Divided,
    Field(discriminator="check"),
]


def as_constraint(value: Any) -> Any:
    """A constraint without parameters may be written as its name."""
    return {"check": value} if isinstance(value, str) else value


ConstraintList = tuple[Annotated[Constraint, BeforeValidator(as_constraint)], ...]


class Constraints(Verifier):
    """The answer keeps to every constraint: of `constraints`, of IFEval's lists, or of the reference, a JSON list."""

    short_forms: ClassVar = ("constraints",)

    verifier: Literal["constraints"] = "constraints"
    constraints: ConstraintList = Field((), description="{check: words, at_least: 50}, {check: no_commas}, ...")
    instruction_id_list: tuple[str, ...] = Field((), description="IFEval's names of constraints")
    kwargs: tuple[dict[str, Any], ...] = Field((), description="IFEval's parameters, one mapping a name")
    partial: bool = Field(False, description="the share of the constraints that it keeps to")

    def check(self) -> None:
        self.own_constraints()

    def own_constraints(self) -> ConstraintList:
        """Raises InputError for a name or a parameter of IFEval's that is unknown."""
        if not self.instruction_id_list:
            return self.constraints
        parameters = self.kwargs or ({},) * len(self.instruction_id_list)
        if len(parameters) != len(self.instruction_id_list):
            raise InputError(f"{len(self.instruction_id_list)} instructions have {len(parameters)} kwargs")
        translated = [
            from_ifeval(name, values) for name, values in zip(self.instruction_id_list, parameters, strict=True)
        ]
        return (*self.constraints, *constraints_in(orjson.dumps(translated).decode()))

    def verdict(self, answer: str, reference: str) -> Verdict:
        constraints = self.own_constraints() or (constraints_in(reference) if reference.strip() else ())
        if not constraints:
            return missing("no_constraints: expected `constraints`, or a JSON list of them as the reference")
        if not answer.strip():
            return share_of(["empty_answer"] * len(constraints), len(constraints), self.partial)
        faults = [fault for constraint in constraints if (fault := constraint.fault(answer))]
        return share_of([f"breaks_{fault}" for fault in faults], len(constraints), self.partial)


@lru_cache(4096)
def constraints_in(text: str) -> ConstraintList:
    """A list of constraints from JSON. Raises InputError."""
    try:
        loaded = orjson.loads(text)
        return TypeAdapter(ConstraintList).validate_python([loaded] if isinstance(loaded, Mapping) else loaded)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{text[:80]!r} is no list of constraints: {error}") from error
    except ValidationError as error:
        raise InputError(f"constraints: {explain(error)}") from error
