"""The engine of a command that asks one: its short form, and what the options beside --engine say of it."""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.settings_files import read_settings


def chosen_engine(
    spec: str, concurrency: int, chosen: Mapping[str, Any], auto_drop: bool, thinking: str | None = None
) -> EngineSettings:
    """The engine of a command. chosen: by the keys of --engine-option. Raises InputError."""
    settings: dict[str, Any] = {"spec": spec, "concurrency": concurrency}
    if auto_drop:
        settings["auto_drop"] = True
    if thinking:
        settings["thinking.spec"] = thinking
    for name, value in chosen.items():
        is_setting = name.partition(".")[0] in EngineSettings.model_fields
        settings[name if is_setting else f"options.{name}"] = value
    return read_settings(EngineSettings, None, settings)
