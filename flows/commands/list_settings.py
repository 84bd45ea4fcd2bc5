"""`synthmill run FLOW --settings`: every setting of a flow."""

from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from synthmill.flows.terminal.tables import table
from synthmill.schemas.kinds import UnionSettings
from synthmill.schemas.settings_files import written_name


def show_settings(model: type[BaseModel]) -> None:
    """Every setting by its dotted name, with default and meaning."""
    from rich.console import Console
    from rich.text import Text

    lines = table()
    for column in ("setting", "default", "meaning"):
        lines.add_column(column, overflow="fold", no_wrap=column == "setting")
    for name, default, meaning in settings_of(model):
        lines.add_row(Text(name), Text(default), Text(meaning))
    Console(emoji=False).print(lines)


def settings_of(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted name, default, meaning) of every field, nested ones included."""
    if issubclass(model, UnionSettings):
        meaning = f"{', '.join(model.kinds())}; or all in one string: {model.spellings()}"
        yield before + model.discriminator, "", meaning
    for owners, name, field in fields_of(model):
        types = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        inner = next((kind for kind in types if issubclass(kind, BaseModel)), None)
        default = "" if field.is_required() or inner else str(field.get_default(call_default_factory=True))
        if inner is None or name == "engines":
            yield (
                before + written_name(name, field),
                "" if name == "engines" else default,
                owners + (field.description or ""),
            )
        if inner is not None:
            yield from settings_of(
                inner, f"{before}{'engines.ROLE' if name == 'engines' else written_name(name, field)}."
            )


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, str, FieldInfo]]:
    """(owners, name, field). owners: the kinds of a union that have the field, as a prefix; empty where all have it."""
    if not issubclass(model, UnionSettings):
        yield from (("", name, field) for name, field in model.model_fields.items())
        return
    kinds = model.kinds()
    fields: dict[tuple[str, str | None], list[str]] = {}
    for kind, settings in kinds.items():
        for name, field in settings.model_fields.items():
            fields.setdefault((name, field.description), []).append(kind)
    for (name, _), owners in fields.items():
        if name != model.discriminator:
            prefix = "" if len(owners) == len(kinds) else f"{', '.join(owners)}: "
            yield prefix, name, kinds[owners[0]].model_fields[name]
