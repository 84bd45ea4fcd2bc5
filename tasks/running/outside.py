"""A stage from outside the tree: `FILE.py:NAME`, or `PACKAGE.MODULE:NAME`.

    stage: ./mine.py:Clean                            # a Recipe or a FrameStage; its fields are the settings
    {stage: ./mine.py:shorten, most: 100}             # a function; its parameters but the first are the settings

    def shorten(row: dict, most: int = 80) -> dict | None:        # a row: None or Drop("reason") drops it
        return {**row, "text": row["text"][:most]}

    def longest(frame: pl.DataFrame, count: int = 10):            # a frame, part by part; `whole: true` for all rows
        kept = frame.sort("length").tail(count)
        return kept, frame.join(kept, on="id", how="anti").select("id", reason=pl.lit("short"))

A stage's key covers the text of its file, of the modules beside the file that it imports, and of the prompts that it
declares, which stand in `prompts/` beside it. Modules that are installed, or imported by a name made at run time, are
in no key: give the stage another `version` when they change.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from synthmill.schemas.calls import Frozen
from synthmill.schemas.errors import InputError
from synthmill.schemas.nearest import did_you_mean
from synthmill.schemas.settings_files import explain
from synthmill.tasks.prompts import prompts_beside
from synthmill.tasks.python_files import PythonFile, read_python_file, read_python_module
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.running.job import Stage
from synthmill.tasks.running.outside_definitions import Code, beside, definition, settings_model
from synthmill.tasks.running.outside_stages import OutsideFrames, OutsideRecipe

FORM = re.compile(r"(?P<place>.+?):(?P<name>[^\W\d]\w*)")


def is_outside(spec: str) -> bool:
    """Whether a stage's name is a place outside the tree; no name of ours has a colon."""
    return ":" in spec or spec.endswith(".py")


def load_stage(spec: str, fields: Mapping[str, Any], folder: Path | None = None) -> Stage:
    """A user's stage with its settings. folder: what a relative path begins in; by default the working folder.

    Raises InputError, in one line, where the file or the name is not there, the file cannot be imported, what it names
    is no stage, or does not take these settings.
    """
    code = find_code(spec, folder)
    model = settings_model(code)
    place = f"{Path(code.path).name}:{code.name}"
    if unknown := [name for name in fields if name not in model.model_fields]:
        names = list(model.model_fields)
        takes = f"it takes {', '.join(names)}" if names else "it takes no settings"
        raise InputError(f"{place} has no setting {unknown[0]}{did_you_mean(unknown[0], names)}; {takes}")
    try:
        with prompts_beside(beside(code)):
            settings = model.model_validate(dict(fields))
    except ValidationError as error:
        raise InputError("; ".join(f"{place}: {line}" for line in explain(error).splitlines())) from None
    try:
        if isinstance(settings, Recipe):
            return OutsideRecipe.of(code, settings)
        return OutsideFrames.of(code, settings)
    except ValueError as error:  # pydantic's, for what JSON cannot say
        raise InputError(f"{place}: a setting cannot be written as JSON: {' '.join(str(error).split())}") from None


def stage_settings(spec: str, folder: Path | None = None) -> type[Frozen]:
    """The settings that a user's stage takes, as the fields of a model. Raises InputError as `load_stage`."""
    return settings_model(find_code(spec, folder))


def find_code(spec: str, folder: Path | None = None) -> Code:
    """Where a stage is, with its content as it is now. Raises InputError where it is not there, or no stage."""
    form = FORM.fullmatch(spec.strip())
    if form is None:
        raise InputError(f"{spec!r} names no stage; expected ./FILE.py:NAME or PACKAGE.MODULE:NAME")
    file = find_file(form["place"], folder or Path())
    code = Code(str(file.path), file.installed, form["name"], file.content, file.templates)
    definition(code)
    return code


def find_file(place: str, folder: Path) -> PythonFile:
    if place.endswith(".py") or "/" in place:
        return read_python_file(folder / Path(place).expanduser())
    if not all(step.isidentifier() for step in place.split(".")):
        raise InputError(f"{place!r} is neither ./FILE.py nor a module's name")
    return read_python_module(place)
