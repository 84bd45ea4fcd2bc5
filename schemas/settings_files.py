"""Reading settings: a YAML file, overrides by dotted name, and faults in readers' terms."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo

from synthmill.schemas.calls import Frozen
from synthmill.schemas.errors import InputError
from synthmill.schemas.nearest import did_you_mean
from synthmill.schemas.secrecy import SECRET_NAME

Settings = TypeVar("Settings", bound=Frozen)


def read_settings(model: type[Settings], file: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """Settings from a YAML file and overrides by dotted name. Raises InputError, one line per fault."""
    values = {} if file is None else read_yaml(file)
    for name, value in overrides.items():
        *path, last = name.split(".")
        place = values
        for step in path:
            if not isinstance(place.get(step), dict):
                place[step] = {} if place.get(step) is None else {"spec": place[step]}
            place = place[step]
        place[last] = value
    try:
        settings = model.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, file, names=model.model_fields)) from error
    if faults := [*booleans_as_numbers(values, settings.model_dump())]:
        raise InputError((f"{file}: " if file else "") + "\n".join(faults))
    return settings


def yaml_fault(error: Exception) -> str:
    """What is wrong with a YAML file, with the line where it was noticed."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return " ".join(str(error).split())
    begun = getattr(error, "context_mark", None)
    context = f" ({error.context}, from line {begun.line + 1})" if begun else ""  # type: ignore[attr-defined]
    return f"line {mark.line + 1}: {problem}{context}"


def written_name(name: str, field: FieldInfo) -> str:
    """What a file calls a setting: its alias, where it has one."""
    alias = field.validation_alias or field.alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else str(alias or name)


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file of settings. Raises InputError, also for a name that stands twice: the first would be lost."""
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML's own, but for names that stand twice."""

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        names = [loader.construct_object(name) for name, _ in node.value]
        for number, name in enumerate(names):
            if isinstance(name, str) and name != "<<" and name in names[:number]:
                line = node.value[number][0].start_mark.line + 1
                raise ValueError(f"{name} stands twice, the second time in line {line}; rename one of them")
        loader.flatten_mapping(node)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), Loader) or {}
    except FileNotFoundError as error:
        raise InputError(
            f"{file} is not there; expected a YAML file of settings, for instance examples/synthesize.yaml"
        ) from error
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise InputError(f"{file} is not valid YAML: {yaml_fault(error)}") from error
    if not isinstance(values, dict):
        raise InputError(
            f"{file} holds {type(values).__name__}; expected a mapping of settings such as `source: prompts.jsonl`"
        )
    return values


def booleans_as_numbers(value: Any, read: Any, place: str = "") -> Iterator[str]:
    """Where settings say true or false and a number is expected, for which pydantic takes 1 or 0."""
    if isinstance(value, bool) and isinstance(read, int | float) and not isinstance(read, bool):
        yield f"{place}: expected a number (found {str(value).lower()})"
    elif isinstance(value, dict) and isinstance(read, dict):
        for name in value.keys() & read.keys():
            yield from booleans_as_numbers(value[name], read[name], f"{place}.{name}" if place else str(name))
    elif isinstance(value, list) and isinstance(read, list | tuple) and len(value) == len(read):
        for number, item in enumerate(value):
            yield from booleans_as_numbers(item, read[number], f"{place}.{number}")


NO_SETTING = "no such setting; `synthmill run FLOW --settings` lists all"


MUST_BE_SET = "must be set"


def explain(
    error: ValidationError, file: Path | None = None, unknown: str = NO_SETTING, names: Iterable[str] = ()
) -> str:
    """A validation error in readers' terms: which setting, what was found, what was expected. unknown: what to say of a
    name that no setting has; names: those that there are.
    """
    lines = []
    for fault in error.errors(include_url=False):
        where = ".".join(str(step) for step in fault["loc"] if step != "[key]")
        value = fault.get("input")
        secret = "secret" in fault["msg"] or any(SECRET_NAME.search(str(step)) for step in fault["loc"])
        hidden = secret or fault["type"] == "missing" or isinstance(value, dict | list)
        input_shown = "" if hidden else f" (found {value!r:.80})"
        hint = did_you_mean(where, names)
        message = {"extra_forbidden": unknown + hint, "missing": MUST_BE_SET}.get(fault["type"], fault["msg"])
        lines.append(f"{where + ': ' if where else ''}{message.removeprefix('Value error, ')}{input_shown}")
    return (f"{file}: " if file else "") + "\n".join(lines)
