"""How the form of an answer is asked of a server, from the strictest way to the weakest.

json_schema     the server holds the model to the schema
json_object     the server holds the model to JSON; the schema is told in the prompt
tool            a forced call of a function whose parameters are the schema; its arguments are the answer
none            the schema is told in the prompt, and what comes back is read leniently

Servers ignore parts of a schema without a word, so recipes check every answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from synthmill.schemas.calls import Request
from synthmill.schemas.settings import EngineSettings, Structure
from synthmill.schemas.texts import loads

LADDER: tuple[Structure, ...] = ("json_schema", "json_object", "tool", "none")
AUTO = "auto"
TOOL = "answer"
TOLD = "Answer with one JSON object and nothing else. It must satisfy this JSON schema:\n{schema}"
PLAIN, STRICT, PORTABLE = range(3)
"""How a schema is written: as the recipe wrote it; with all fields required and no further ones; and with nothing but
the words that every server knows."""
PORTABLE_WORDS = {
    *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs"),
    *("description", "title"),
}
NULL = {"type": "null"}


def answer_schema(request: Request) -> dict[str, Any] | None:
    """The JSON schema to ask for; a choice becomes an object with one enumerated field, which every server supports."""
    if request.choice:
        return {
            "type": "object",
            "properties": {"choice": {"type": "string", "enum": list(request.choice)}},
            "required": ["choice"],
            "additionalProperties": False,
        }
    return dict(request.schema_) if request.schema_ else None


def structure_of(settings: EngineSettings) -> Structure:
    """The way that an engine's settings ask for, also by a response_format among their options."""
    for structure in LADDER:
        if settings.structure in (structure, f"{AUTO}:{structure}"):
            return structure
    if "response_format" not in settings.options:
        return "json_schema"
    asked = settings.options["response_format"]
    kind = asked.get("type") if isinstance(asked, Mapping) else None
    return "none" if asked is None else "json_object" if kind == "json_object" else "json_schema"


def structured_fields(structure: Structure, schema: dict[str, Any], written: int) -> dict[str, Any]:
    """The fields of a request that ask for a schema. written: PLAIN, STRICT or PORTABLE."""
    if structure == "json_object":
        return {"response_format": {"type": "json_object"}}
    if structure == "json_schema":
        form = {"name": "answer", "strict": True, "schema": rewritten(schema, written)}
        return {"response_format": {"type": "json_schema", "json_schema": form}}
    if structure == "tool":
        function = {"name": TOOL, "description": "Gives the answer.", "parameters": rewritten(schema, written)}
        return {
            "tools": [{"type": "function", "function": function}],
            "tool_choice": {"type": "function", "function": {"name": TOOL}},
        }
    return {}


def with_schema_told(messages: list[dict[str, Any]], schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Messages whose last one ends with the schema."""
    instruction = TOLD.format(schema=orjson.dumps(schema).decode())
    *before, last = messages
    return [*before, {**last, "content": f"{last['content']}\n\n{instruction}"}]


def with_form_told(request: Request, schema: Mapping[str, Any]) -> Request:
    """A request whose last message ends with the schema."""
    *before, last = request.messages
    content = f"{last.content}\n\n{TOLD.format(schema=orjson.dumps(schema).decode())}"
    return request.model_copy(update={"messages": (*before, last.model_copy(update={"content": content}))})


def rewritten(schema: dict[str, Any], written: int) -> dict[str, Any]:
    """A schema as it is sent."""
    return schema if written == PLAIN else closed(schema, portable=written == PORTABLE)


def closed(schema: Any, *, portable: bool) -> Any:
    """A schema whose objects have all their fields and no others; a field that may lack may be null. portable: without
    words that some server does not know. A schema is thereby asked for more narrowly, never more widely, but for the
    words left out.
    """
    if not isinstance(schema, Mapping):
        return schema
    form = {name: value for name, value in schema.items() if not portable or name in PORTABLE_WORDS}
    if isinstance(fields := schema.get("properties"), Mapping):
        required = schema.get("required", ())
        inner = {name: closed(field, portable=portable) for name, field in fields.items()}
        form["properties"] = {name: field if name in required else or_null(field) for name, field in inner.items()}
        form["required"] = list(fields)
        form["additionalProperties"] = False
    elif schema.get("type") == "object":
        form |= {"properties": {}, "required": [], "additionalProperties": False}
    if "items" in form:
        form["items"] = closed(form["items"], portable=portable)
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(branches := form.get(word), Sequence):
            form[word] = [closed(branch, portable=portable) for branch in branches]
    for word in ("$defs", "definitions"):
        if isinstance(named := form.get(word), Mapping):
            form[word] = {name: closed(part, portable=portable) for name, part in named.items()}
    return form


def or_null(schema: Any) -> Any:
    return schema if takes_null(schema) else {"anyOf": [schema, NULL]}


def takes_null(schema: Any) -> bool:
    """Whether a schema plainly takes null."""
    if not isinstance(schema, Mapping):
        return True
    kinds = schema.get("type")
    if kinds == "null" or (isinstance(kinds, list) and "null" in kinds) or None in schema.get("enum", ()):
        return True
    return any(takes_null(branch) for branch in schema.get("anyOf", ()))


def without_nulls(text: str, schema: Mapping[str, Any]) -> str:
    """An answer to a closed schema as one to the schema itself: without the nulls of fields that may lack."""
    try:
        value = loads(text)
    except ValueError:
        return text
    stripped = stripped_of_nulls(value, [schema])
    return text if stripped == value else orjson.dumps(stripped).decode()


def stripped_of_nulls(value: Any, schemas: Sequence[Any]) -> Any:
    """schemas: those that the value may be an instance of."""
    forms = [form for schema in schemas for form in alternatives(schema)]
    if isinstance(value, list):
        return [stripped_of_nulls(member, [form["items"] for form in forms if "items" in form]) for member in value]
    if not isinstance(value, dict):
        return value
    fitting = [form for form in forms if value.keys() <= form.get("properties", {}).keys()]
    kept = {}
    for name, member in value.items():
        fields = [form["properties"][name] for form in fitting]
        may_lack = [name not in form.get("required", ()) for form in fitting]
        if member is None and fields and all(may_lack) and not any(map(takes_null, fields)):
            continue
        kept[name] = stripped_of_nulls(member, fields)
    return kept


def alternatives(schema: Any) -> Iterator[Mapping[str, Any]]:
    """A schema, or the branches of its anyOf."""
    if isinstance(schema, Mapping):
        if branches := schema.get("anyOf"):
            for branch in branches:
                yield from alternatives(branch)
        else:
            yield schema
