"""What of a JSON value breaks its schema. Engines ignore much of a schema without a word, so this is asked here.

What engines do enforce (types, required fields, sizes) is cheap for a recipe's own parser to see; a schema that says
more than that is checked whole, which takes about a hundred microseconds.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

PLAIN = {
    *("type", "properties", "required", "additionalProperties", "items", "enum", "anyOf"),
    *("minLength", "maxLength", "minItems", "maxItems", "title", "description", "default", "examples", "$comment"),
}
"""Words that engines enforce, or that say nothing about a value."""
LONGEST_RULE = 120
BREACH = "breached_schema"
"""The reason of a Drop for a call that its tool does not take: it is asked for again with this fault named."""


def breach(value: Any, schema: Mapping[str, Any]) -> str:
    """What breaks the schema first, as `PLACE breaks KEYWORD: RULE`; empty where nothing does."""
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        fault = best_match(validator_of(orjson.dumps(schema)).iter_errors(value))
    except Unresolvable:  # a reference to what is not in the schema: nothing can be said
        return ""
    if fault is None:
        return ""
    place = ".".join(map(str, fault.absolute_path)) or "it"
    if fault.validator in ("required", "additionalProperties", "dependentRequired"):
        return f"{place}: {fault.message[:LONGEST_RULE]}"
    rule = orjson.dumps(fault.validator_value).decode()
    return f"{place} breaks {fault.validator}: {rule[:LONGEST_RULE]}"


@lru_cache(256)
def validator_of(schema: bytes) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(orjson.loads(schema), format_checker=Draft202012Validator.FORMAT_CHECKER)


def says_more(schema: Any) -> bool:
    """Whether a schema has words that some engine ignores."""
    if not isinstance(schema, Mapping):
        return False
    below = [*schema.get("properties", {}).values(), schema.get("items"), *schema.get("anyOf", ())]
    return bool(schema.keys() - PLAIN) or any(map(says_more, below))
