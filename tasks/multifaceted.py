"""Multifaceted system messages (Janus), first form: one preference set and one system message per instruction.

Source: docs/papers.md#multifaceted.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson
from pydantic import Field

from schemas.calls import Completion, Request
from schemas.errors import Drop
from schemas.rows import Instruction, PreferenceSet, SystemMessage, Value
from tasks.prompts import load
from tasks.recipe import Recipe, Steps, ask_until

DIMENSIONS: Mapping[str, str] = {
    "style": "how it is said: clarity, conciseness, format, tone, vividness",
    "background_knowledge": "what the reader already knows: from basic to expert",
    "informativeness": "what it brings: depth, relevance, practicality, creativity, efficiency",
    "harmlessness": "how it avoids harm: accuracy, safety, morality, sensitivity, trustworthiness",
}


def preference_schema(dimensions: Mapping[str, str]) -> dict[str, Any]:
    """The JSON schema of one preference set: an object per dimension, in order, with bounded strings."""
    value = {
        "type": "object",
        "properties": {
            "subdimension": {"type": "string", "minLength": 3, "maxLength": 40},
            "preference": {"type": "string", "minLength": 3, "maxLength": 60},
            "description": {"type": "string", "minLength": 20, "maxLength": 300},
        },
        "required": ["subdimension", "preference", "description"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": dict.fromkeys(dimensions, value),
        "required": list(dimensions),
        "additionalProperties": False,
    }


class PreferenceSets(Recipe[Instruction, PreferenceSet]):
    """Instruction -> one value for each of four dimensions, top-down. An answer that is no such set is asked for again.

    Source: docs/papers.md#multifaceted, step S1.
    """

    name: ClassVar = "preference_sets"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"multifaceted/preference_set": ("dimensions",)}

    attempts: int = Field(3, ge=1)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: Instruction) -> Steps[PreferenceSet]:
        request = Request(
            role="teacher",
            messages=load("multifaceted/preference_set").render(row=row, dimensions=DIMENSIONS),
            sampling=self.sampling,
            schema_=preference_schema(DIMENSIONS),
        )
        values = yield from ask_until(request, self.attempts, parse_values)
        return PreferenceSet.child_of(row, self.name, values=values)


def parse_values(said: Completion) -> tuple[Value, ...]:
    """Read one value per dimension; raises Drop that says what is wrong."""
    if said.finish_reason == "length":
        raise Drop("bad_preference_set: cut at max_tokens")
    try:
        found = orjson.loads(said.text)
        values = tuple(
            Value(dimension=dimension, **{field: " ".join(found[dimension][field].split()) for field in FIELDS})
            for dimension in DIMENSIONS
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Drop(f"bad_preference_set: {type(error).__name__}: {error}") from error
    if empty := [value.dimension for value in values if not value.description]:
        raise Drop(f"bad_preference_set: empty description for {', '.join(empty)}")
    return values


FIELDS = ("subdimension", "preference", "description")


LONGEST_SYSTEM_MESSAGE = 1400  # characters; the paper's are 682 to 1,370
CHARS_PER_TOKEN = 3  # at least, in prose: so the message ends before max_tokens cuts it


def system_message_schema(max_tokens: int) -> dict[str, Any]:
    """JSON, so that nothing but the message comes back: small models like to introduce it."""
    longest = max(60, min(LONGEST_SYSTEM_MESSAGE, CHARS_PER_TOKEN * max_tokens))
    return {
        "type": "object",
        "properties": {"system_message": {"type": "string", "minLength": 40, "maxLength": longest}},
        "required": ["system_message"],
        "additionalProperties": False,
    }


class SystemMessages(Recipe[PreferenceSet, SystemMessage]):
    """Preference set -> a system message written from its four descriptions only. A system message the instruction
    came with is replaced. Source: docs/papers.md#multifaceted, step S2.
    """

    name: ClassVar = "system_messages"
    version: ClassVar = "1"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"multifaceted/system_message": ("descriptions",)}

    attempts: int = Field(3, ge=1)

    def requests_per_row(self) -> int:
        return self.attempts

    def steps(self, row: PreferenceSet) -> Steps[SystemMessage]:
        messages = load("multifaceted/system_message").render(
            row=row, descriptions=[value.description for value in row.values]
        )
        schema = system_message_schema(self.sampling.max_tokens)
        request = Request(role="teacher", messages=messages, sampling=self.sampling, schema_=schema)
        system = yield from ask_until(request, self.attempts, parse_system_message)
        return SystemMessage.child_of(row, self.name, system=system)


def parse_system_message(said: Completion) -> str:
    """Read the system message out of its JSON; raises Drop that says what is wrong."""
    if said.finish_reason == "length":
        raise Drop("bad_system_message: cut at max_tokens")
    try:
        system = " ".join(orjson.loads(said.text)["system_message"].split())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Drop(f"bad_system_message: {type(error).__name__}: {error}") from error
    if not system:
        raise Drop("empty_system_message")
    return system
