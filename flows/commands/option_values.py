"""What stands behind an option: KEY=VALUE."""

from typing import Any

from synthmill.schemas.errors import InputError


def engine_choices(texts: tuple[str, ...]) -> dict[str, Any]:
    """The keys and values of --engine-option."""
    return dict(split_set(text, "--engine-option", "top_p=null") for text in texts)


def split_set(text: str, option: str = "--set", example: str = "answers.count=8") -> tuple[str, Any]:
    """KEY=VALUE; the value is YAML, or plain text where it is none."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"{option} {text!r} is not KEY=VALUE; expected for instance {option} {example}")
    if not value:
        return name, ""
    try:
        return name, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        return name, value
