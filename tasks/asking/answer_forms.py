"""The form of an answer: new columns as a JSON schema, which may be written in short.

    text, integer, number, boolean      a value
    [easy, medium, hard]                one of these
    {list: text}                        a list
    {type: object, properties: ...}     a struct; its properties may be short, too
    {type: string, maxLength: 400}      any JSON schema; {type: [integer, "null"]} may be null

Engines ignore what they do not know of a schema, so every answer is checked here: types and sizes by pydantic's core,
which takes a microsecond where jsonschema takes a hundred, and by jsonschema where a schema says more than that.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import ValidationError
from pydantic_core import SchemaValidator, core_schema

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.tasks.asking.templates import expected
from synthmill.tasks.recipe import read_json

NULL = "null"
SHORT = {"text": "string", "string": "string", "integer": "integer", "number": "number", "boolean": "boolean"}
ARROW = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
SIZES = {
    "string": {"minLength": "min_length", "maxLength": "max_length"},
    "array": {"minItems": "min_length", "maxItems": "max_length"},
    "number": {"minimum": "ge", "maximum": "le"},
}
PLAIN = {"type", "enum", "anyOf", "properties", "required", "additionalProperties", "items"}
REMARKS = {"title", "description", "default", "examples", "$comment"}
UNUSABLE_KEYWORDS = ("$ref", "$defs", "oneOf", "allOf", "prefixItems", "patternProperties")
LEAST, MOST = -(1 << 63), (1 << 63) - 1  # of int64
LONGER = "[a, b] (one of), {list: text}, or a JSON schema with a type"
HELP = f"text, integer, number, boolean, {LONGER}"


def answer_schema(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of an answer's fields, complete and strict: every field required, and none besides them. Raises
    ValueError that names the field.
    """
    if answer.get("type") == "object" and isinstance(answer.get("properties"), Mapping):
        return full_schema(answer, "")
    if not answer:
        raise ValueError("an answer has at least one field, for instance {summary: text}")
    return full_schema({"type": "object", "properties": answer}, "")


def full_schema(form: Any, place: str) -> dict[str, Any]:
    """The JSON schema that a form is short for."""
    if isinstance(form, str):
        if form not in SHORT:
            raise ValueError(f"{place}: {form!r} is no form of a value; {expected(form, SHORT)}, {LONGER}")
        return {"type": SHORT[form]}
    if isinstance(form, Sequence):
        return one_of(list(form), place)
    if not isinstance(form, Mapping):
        raise ValueError(f"{place}: {form!r} is no form of a value; expected {HELP}")
    if set(form) == {"list"}:
        return {"type": "array", "items": full_schema(form["list"], f"{place}[]")}
    return from_keywords(dict(form), place)


def one_of(values: list[Any], place: str) -> dict[str, Any]:
    """The schema of one of several texts, or of several numbers."""
    kinds = {type(value) for value in values if value is not None}
    if kinds not in ({str}, {int}, {float}, {int, float}):
        raise ValueError(
            f"{place}: {values} are not all texts, or all numbers; write words that YAML reads as something else, "
            "such as yes and no, in quotes"
        )
    name = "string" if kinds == {str} else "integer" if kinds == {int} else "number"
    return {"type": [name, NULL] if None in values else name, "enum": values}


def from_keywords(schema: dict[str, Any], place: str) -> dict[str, Any]:
    """A JSON schema, made complete and strict."""
    if unusable := next((word for word in UNUSABLE_KEYWORDS if word in schema), ""):
        raise ValueError(f"{place}: {unusable} makes no column of one type; expected {HELP}")
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if "anyOf" in schema:
        schema["anyOf"] = [{"type": NULL} if is_null(form) else full_schema(form, place) for form in schema["anyOf"]]
        if "type" in schema or len(schema["anyOf"]) != 2 or {"type": NULL} not in schema["anyOf"]:
            raise ValueError(f"{place}: anyOf is for one form and null; a column has one type")
        return schema
    if "type" not in schema:
        inferred = {"properties": "object", "items": "array"}
        schema |= next(({"type": kind} for word, kind in inferred.items() if word in schema), {})
        schema = {**one_of(list(schema["enum"]), place), **schema} if "enum" in schema else schema
    schema["type"], kind = types_of(schema, place)
    if "enum" in schema:
        one_of(list(schema["enum"]), place)
    if kind == "array":
        if "items" not in schema:
            raise ValueError(f"{place}: a list says what is in it, for instance {{list: text}}")
        schema["items"] = full_schema(schema["items"], f"{place}[]")
    elif kind == "object":
        schema |= object_keywords(schema, place)
    if "pattern" in schema:
        compiled(schema["pattern"], place)
    return schema


def is_null(form: Any) -> bool:
    return form in (None, NULL, {"type": NULL}, {"type": None})


def types_of(schema: Mapping[str, Any], place: str) -> tuple[str | list[str], str]:
    """A schema's `type` as JSON schema writes it, and the one that is not null."""
    named = schema.get("type")
    names = [NULL if name is None else SHORT.get(str(name), str(name)) for name in as_list(named)]
    kinds = [name for name in names if name != NULL]
    known = {*ARROW, "array", "object"}
    if len(kinds) != 1 or kinds[0] not in known:
        description = f"the type {named!r}" if "type" in schema else f"{sorted(schema)} without a type"
        raise ValueError(
            f"{place}: {description} makes no column of one type; expected {HELP}; fields within a field stand under "
            "{type: object, properties: ...}"
        )
    return (kinds[0] if len(names) == 1 else names), kinds[0]


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def object_keywords(schema: Mapping[str, Any], place: str) -> dict[str, Any]:
    """What makes an object's schema strict: its fields, all of them required, and no others."""
    fields = schema.get("properties")
    if not isinstance(fields, Mapping) or not fields:
        raise ValueError(f"{place or 'answer'}: an object says which fields it has, under `properties`")
    if schema.get("additionalProperties", False) is not False:
        raise ValueError(f"{place or 'answer'}: additionalProperties is always false here: a struct's fields are known")
    names = [str(name) for name in fields]
    if set(schema.get("required", names)) != set(names):
        raise ValueError(
            f"{place or 'answer'}: every field is required; write {{type: [string, 'null']}} for one that may lack"
        )
    full = {str(name): full_schema(form, f"{place}.{name}".lstrip(".")) for name, form in fields.items()}
    return {"properties": full, "required": names, "additionalProperties": False}


def compiled(pattern: Any, place: str) -> re.Pattern[str]:
    """A regular expression. Raises ValueError."""
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"{place}: {pattern!r} is no regular expression: {error}") from error


def without_null(schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], str, bool]:
    """A complete schema without null, its type, and whether it may be null."""
    if "anyOf" in schema:
        inner = next(form for form in schema["anyOf"] if form != {"type": NULL})
        return inner, without_null(inner)[1], True
    kinds = as_list(schema["type"])
    return schema, next(kind for kind in kinds if kind != NULL), NULL in kinds


def arrow_of(schema: Mapping[str, Any]) -> pa.DataType:
    """The type of a column of such values."""
    inner, kind, _ = without_null(schema)
    if kind == "array":
        return pa.list_(arrow_of(inner["items"]))
    if kind == "object":
        return pa.struct(fields_of(inner))
    return ARROW[kind]


def fields_of(schema: Mapping[str, Any]) -> list[pa.Field]:
    """An object's fields as columns."""
    return [pa.field(name, arrow_of(form)) for name, form in schema["properties"].items()]


def core_of(schema: Mapping[str, Any]) -> Any:
    """What pydantic's core checks of a complete schema; integers fit into 64 bits."""
    inner, kind, nullable = without_null(schema)
    sizes: dict[str, Any] = {own: inner[word] for word, own in SIZES.get(kind, {}).items() if word in inner}
    core: Any
    if "enum" in inner and kind != "number":
        core = core_schema.literal_schema([value for value in inner["enum"] if value is not None])
    elif kind == "string":
        core = core_schema.str_schema(strict=True, **sizes)
    elif kind == "integer":
        core = core_schema.int_schema(strict=True, ge=LEAST, le=MOST)
    elif kind == "number":
        core = core_schema.float_schema(strict=True, allow_inf_nan=False, **sizes)
    elif kind == "boolean":
        core = core_schema.bool_schema(strict=True)
    elif kind == "array":
        core = core_schema.list_schema(core_of(inner["items"]), strict=True, **sizes)
    else:
        fields = {name: core_schema.typed_dict_field(core_of(form)) for name, form in inner["properties"].items()}
        core = core_schema.typed_dict_schema(fields, strict=True, extra_behavior="forbid")
    return core_schema.nullable_schema(core) if nullable else core


def says_more(schema: Mapping[str, Any]) -> bool:
    """Whether a schema says something that pydantic's core was not told."""
    inner, kind, _ = without_null(schema)
    words = set(inner) - PLAIN - REMARKS - SIZES.get(kind, {}).keys()
    below = [inner["items"]] if kind == "array" else inner["properties"].values() if kind == "object" else ()
    enumerated = "enum" in inner and (kind == "number" or len(set(inner)) > 2)
    return bool(words) or enumerated or any(map(says_more, below))


class AnswerForm:
    """A complete schema with what reads and checks its answers."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """Raises ValueError where it is no JSON schema."""
        from jsonschema import Draft202012Validator, SchemaError

        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            place = ".".join(str(step) for step in error.absolute_path if step != "properties")
            raise ValueError(f"{place}: this is no JSON schema: {error.message[:200]}") from error
        self.schema = schema
        self.fields = fields_of(schema)
        self._types = SchemaValidator(core_of(schema))
        checker = Draft202012Validator.FORMAT_CHECKER
        self._rest = Draft202012Validator(schema, format_checker=checker) if says_more(schema) else None

    def read(self, completion: Completion) -> dict[str, Any]:
        """The fields of an answer. Raises Drop: bad_answer, with the first fault."""
        answer = read_json(completion, "bad_answer")
        try:
            fields: dict[str, Any] = self._types.validate_python(answer)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            raise Drop(f"bad_answer: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
        for breach in self._rest.iter_errors(answer) if self._rest else ():
            place = ".".join(map(str, breach.absolute_path))
            raise Drop(f"bad_answer: {place}: it breaks {breach.validator}: {breach.validator_value}")
        return fields
