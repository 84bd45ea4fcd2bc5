"""The answer is JSON that a schema allows, or that equals the reference.

Source: docs/papers.md#verifiers.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import BeforeValidator, Field

from synthmill.tasks.texts.code_blocks import code_in
from synthmill.tasks.verifiers.verifier import Verdict, Verifier, failed, missing, reference_of


class JsonAnswers(Verifier):
    """The answer, or its last block of code, is JSON that the reference, a JSON schema, allows."""

    short_forms: ClassVar = ("json",)
    isolated: ClassVar = True  # a pattern of a schema may take for ever

    verifier: Literal["json"] = "json"
    expected: Literal["schema", "value"] = Field("schema", description="what the reference is; value: it must be equal")
    json_schema: Annotated[str, BeforeValidator(reference_of)] = Field(
        "", description="a JSON schema, instead of a reference"
    )
    bare: bool = Field(False, description="nothing may stand around the JSON, no block of code either")

    def verdict(self, answer: str, reference: str) -> Verdict:
        try:
            wanted = orjson.loads(self.json_schema or reference)
        except orjson.JSONDecodeError as error:
            return missing(f"bad_reference: no JSON: {error}")
        try:
            value = orjson.loads(answer if self.bare else code_in(answer, "json"))
        except orjson.JSONDecodeError as error:
            return failed(f"not_json: {error}")
        if self.expected == "value":
            return Verdict(1.0) if same(value, wanted) else failed("not_equal")
        return check(value, wanted)


def check(value: Any, schema: Any) -> Verdict:
    """Whether a schema allows a value. One that refers to what is not in it cannot say."""
    from jsonschema import SchemaError
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        fault = best_match(validator_of(orjson.dumps(schema)).iter_errors(value))
    except SchemaError as error:
        return missing(f"bad_reference: no JSON schema: {error.message}")
    except Unresolvable as error:
        return missing(f"bad_reference: its schema refers to {error.ref}, which is not in it")
    if fault is None:
        return Verdict(1.0)
    place = ".".join(map(str, fault.absolute_path)) or "it"
    return failed(f"breaks_schema: {place}: {fault.message}")


@lru_cache(256)
def validator_of(schema: bytes) -> Any:
    """A validator of the draft that the schema names, which fetches nothing. Raises SchemaError."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    loaded = orjson.loads(schema)
    kind = validator_for(loaded, default=Draft202012Validator)
    kind.check_schema(loaded)
    return kind(loaded, registry=Registry(), format_checker=kind.FORMAT_CHECKER)


def same(first: Any, second: Any) -> bool:
    """JSON's equality: 1 is 1.0, and true is not 1; the order of an object's fields says nothing."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same(value, second[name]) for name, value in first.items())
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
