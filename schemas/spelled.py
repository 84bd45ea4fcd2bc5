"""Settings that may also be written as one string."""

from collections.abc import Mapping
from typing import Any

from pydantic import GetJsonSchemaHandler, model_validator

from synthmill.schemas.calls import Frozen


class Spelled(Frozen):
    """Settings that may also be written as one string, alone or as `spec` beside others; forms and schemas say so."""

    @classmethod
    def read_spec(cls, spec: str) -> dict[str, Any]:
        """The settings that the string stands for; raises ValueError that says what was expected."""
        raise TypeError(f"{cls.__name__} must define read_spec(spec)")

    @model_validator(mode="before")
    @classmethod
    def parse(cls, value: Any) -> Any:
        return cls.without_spec(value)

    @classmethod
    def without_spec(cls, value: Any) -> Any:
        """The settings as a mapping, where they are a string or have a `spec`."""
        if isinstance(value, str):
            return cls.read_spec(value)
        if isinstance(value, Mapping) and isinstance(value.get("spec"), str):
            return {
                **cls.read_spec(value["spec"]),
                **{name: setting for name, setting in value.items() if name != "spec"},
            }
        return value

    @classmethod
    def with_spec(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """A reference to the JSON schema, which takes `spec`, too, and needs nothing beside it."""
        reference = handler(core)
        schema = handler.resolve_ref_schema(reference)
        schema["properties"]["spec"] = {"type": "string", "title": "Spec", "description": "the short form"}
        schema.pop("required", None)
        return reference

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, cls.with_spec(core, handler)]}
