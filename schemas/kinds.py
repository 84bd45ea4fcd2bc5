"""Settings of one kind out of several: a union of classes, found by listing the modules of a package.

A new kind is one new module in that package. No other file names it.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Self

from pydantic import GetJsonSchemaHandler, ModelWrapValidatorHandler, model_serializer, model_validator
from pydantic_core import PydanticUndefined
from pydantic_core.core_schema import SerializationInfo, SerializerFunctionWrapHandler

from synthmill.schemas.errors import InputError
from synthmill.schemas.nearest import did_you_mean
from synthmill.schemas.spelled import Spelled


class UnionSettings(Spelled):
    """The base of a union. It names the `package`; validating it gives an instance of the kind that the input names.

    The base declares the field that its `discriminator` names, as str. A kind is a subclass with
    `kind: Literal["its name"] = "its name"`, or what else that field is called, with its own fields, and perhaps short
    forms of its own. A field of this type is annotated with SerializeAsAny, else only the base's fields are written.
    """

    package: ClassVar[str]
    """Whose modules define the kinds."""
    noun: ClassVar[str]
    """What error texts call one of them."""
    discriminator: ClassVar[str]
    """The field that names the kind."""
    short_forms: ClassVar[tuple[str, ...]] = ()
    """What `from_spec` reads, for error texts and help; default: the kind."""

    @classmethod
    def own_kind(cls) -> str:
        """This class's kind; empty for a base."""
        default = cls.model_fields[cls.discriminator].default
        return default if isinstance(default, str) else ""

    @classmethod
    def kinds(cls) -> dict[str, type[Self]]:
        """The classes of all kinds under this one, by kind, in the order of the package's modules."""
        path = tuple(importlib.import_module(cls.package).__path__)
        return {name: kind for name, kind in kinds_in(cls.package, path).items() if issubclass(kind, cls)}

    @classmethod
    def from_spec(cls, spec: str) -> dict[str, Any] | None:
        """The fields that a short form stands for; None for a short form of another kind."""
        return {} if spec == cls.own_kind() else None

    @classmethod
    def read_spec(cls, spec: str) -> dict[str, Any]:
        for name, kind in cls.kinds().items():
            fields = kind.from_spec(spec)
            if fields is not None:
                return {cls.discriminator: name, **fields}
        hint = did_you_mean(spec, cls.kinds())
        raise ValueError(f"no {cls.noun} is called {spec!r}{hint}; expected {cls.spellings()}")

    @classmethod
    def spellings(cls) -> str:
        """The short forms of all kinds: words first, addresses last."""
        forms = [form for name, kind in cls.kinds().items() for form in kind.short_forms or (name,)]
        *first, last = sorted(forms, key=lambda form: (":" in form, "://" in form))
        return f"{', '.join(first)} or {last}" if first else last

    @model_validator(mode="wrap")
    @classmethod
    def as_its_kind(cls, settings: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        settings = cls.without_spec(settings)
        if not isinstance(settings, Mapping):
            return handler(settings)
        if cls.own_kind():
            return handler(cls.own_fields(settings))
        name = settings.get(cls.discriminator)
        kind = cls.kinds().get(str(name))
        if kind is None:
            hint = did_you_mean(str(name), cls.kinds())
            fault = f"there is no {cls.discriminator}" if name is None else f"no {cls.noun} is called {name!r}{hint}"
            raise ValueError(f"{fault}; expected {cls.spellings()}")
        return kind.model_validate(settings)

    @classmethod
    def own_fields(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings without the fields of other kinds, which records of older versions hold at their defaults: those
        of today, or nothing for a field that its kinds require today. A record has a `name`, be it empty.

        Raises ValueError for a field of another kind that is set, and for one of its own that is missing.
        """
        kind = cls.own_kind()
        for name, field in cls.model_fields.items():
            if field.is_required() and not settings.get(name):
                raise ValueError(f"{kind} needs {name}")
        fields, is_record = {}, "name" in settings
        for name, value in settings.items():
            owners = {} if name in cls.model_fields else fields_called(name, cls.package)
            if not owners:
                fields[name] = value
            elif not is_record or (
                value not in owners.values() and not (value in (None, "") and PydanticUndefined in owners.values())
            ):
                raise ValueError(f"{name} means nothing to {kind}; it belongs to {', '.join(owners)}")
        return fields

    @model_serializer(mode="wrap")
    def keep_kind(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """The kind is written even where defaults are left out: without it nothing could be read again."""
        fields: dict[str, Any] = handler(self)
        return {self.discriminator: self.own_kind(), **fields} if info.exclude_defaults else fields

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        if cls.own_kind():
            return cls.with_spec(core, handler)
        kinds = [handler(kind.__pydantic_core_schema__) for kind in cls.kinds().values()]
        described = f"One {cls.noun}. May be written as {cls.spellings()}; with settings beside it in `spec`."
        return {"title": cls.__name__, "description": described, "anyOf": [{"type": "string"}, *kinds]}


class KindSettings(UnionSettings):
    """The base of a union whose kinds are named by a field `kind`."""

    discriminator: ClassVar[str] = "kind"

    kind: str


@cache
def kinds_in(package: str, path: tuple[str, ...]) -> dict[str, type[Any]]:
    """Every class with a kind that a module under `path` defines, by kind."""
    kinds: dict[str, type[Any]] = {}
    for listed in pkgutil.iter_modules(path):
        try:
            module = importlib.import_module(f"{package}.{listed.name}")
        except Exception as error:
            raise InputError(f"{package}.{listed.name} cannot be imported: {type(error).__name__}: {error}") from error
        classes = [value for value in vars(module).values() if isinstance(value, type)]
        for value in classes:
            kind = value.own_kind() if issubclass(value, UnionSettings) and value.__module__ == module.__name__ else ""
            if kind in kinds:
                raise InputError(f"{module.__name__} and {kinds[kind].__module__} both define {kind}; rename one")
            if kind:
                kinds[kind] = value
    return kinds


def fields_called(name: str, package: str) -> dict[str, Any]:
    """The kinds that have a field of this name, with its default in each; PydanticUndefined where it is required."""
    path = tuple(importlib.import_module(package).__path__)
    kinds = kinds_in(package, path).items()
    return {kind: cls.model_fields[name].default for kind, cls in kinds if name in cls.model_fields}
