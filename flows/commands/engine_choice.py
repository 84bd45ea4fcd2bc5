"""The engine of a command that asks one: its short form, and what --engine-option and --auto-drop say beside it."""

from collections.abc import Mapping
from typing import Any

from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.settings_files import read_settings


def chosen_engine(spec: str, concurrency: int, chosen: Mapping[str, Any], auto_drop: bool) -> EngineSettings:
    """The engine of a command. chosen: by the keys of --engine-option. Raises InputError."""
    settings: dict[str, Any] = {"spec": spec, "concurrency": concurrency}
    if auto_drop:
        settings["auto_drop"] = True
    for name, value in chosen.items():
        is_setting = name.partition(".")[0] in EngineSettings.model_fields
        settings[name if is_setting else f"options.{name}"] = value
    return read_settings(EngineSettings, None, settings)
