"""What a user's file defines: found by name, checked, and loaded once per process and content."""

import re
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from synthmill.schemas.calls import Frozen
from synthmill.schemas.errors import InputError
from synthmill.tasks.frames import FileStage, FrameStage
from synthmill.tasks.prompts import Beside, prompts_beside
from synthmill.tasks.python_files import PythonFile, named_in, read_python_file, read_python_module
from synthmill.tasks.recipe import AnyRecipe, Recipe
from synthmill.tasks.running.outside_functions import Function, read_function

KINDS = "a Recipe, a FrameStage, or a function of a row (dict) or of a frame (pl.DataFrame)"
Definition = Function | type[FrameStage] | type[AnyRecipe]


class Code(NamedTuple):
    """Where a stage's definition is, and what it was when the run was planned. module: where Python finds it by name,
    else empty.
    """

    path: str
    module: str
    name: str
    content: str
    templates: str

    def read(self) -> PythonFile:
        return read_python_module(self.module) if self.module else read_python_file(Path(self.path))


@cache
def loaded(code: Code) -> tuple[PythonFile, Definition]:
    """A user's file, and the class or function in it, once per process. Raises InputError where it cannot be imported,
    or is another than when the run was planned.
    """
    try:
        file = code.read()
    except InputError as error:
        raise InputError(f"{error.message} (on {socket.gethostname()})") from error
    if (file.content, file.templates) != (code.content, code.templates):
        raise InputError(
            f"{file.path} on {socket.gethostname()} is not what it was when this run was planned; run the same command "
            "again, on a cluster with the same file on every node"
        )
    with prompts_beside(Beside(file.path.parent / "prompts", file.templates)):
        module = file.load()
    return file, read_definition(named_in(module, code.name, file.path), code.name, file, vars(module))


def definition(code: Code) -> Definition:
    return loaded(code)[1]


def read_definition(value: Any, name: str, file: PythonFile, scope: Mapping[str, Any]) -> Definition:
    """What a file calls `name`, as a stage's definition. Raises InputError for what is none."""
    place, stage = f"{file.path.name}:{name}", snake_case(name)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", stage):
        raise InputError(f"{place} makes no name for files and tables; use a name of latin letters, digits and _")
    if callable(value) and not isinstance(value, type) and hasattr(value, "__name__"):
        return read_function(value, stage, file)
    for kind, method in ((Recipe, "steps"), (FrameStage, "apply")):
        if isinstance(value, type) and issubclass(value, kind):
            if issubclass(value, FileStage) or inherits(value, kind, method):
                own = "a FileStage" if issubclass(value, FileStage) else f"a {kind.__name__} without {method}"
                raise InputError(f"{place} is {own}; expected {KINDS}")
            if kind is Recipe and not (hasattr(value, "roles") and hasattr(value, "takes")):
                raise InputError(
                    f"{place} is a Recipe that lacks its roles or rows; expected roles and Recipe[In, Out]"
                )
            for attribute, text in (("name", stage), ("version", str(scope.get("__version__", "1")))):
                if not hasattr(value, attribute):
                    setattr(value, attribute, text)
            if not re.fullmatch(r"[a-z][a-z0-9_]*", value.name):
                raise InputError(f"{place} is called {value.name!r}; expected a name such as {stage}")
            return value
    raise InputError(f"{place} is {a_kind_of(value)}; expected {KINDS}")


def inherits(value: type, kind: type, method: str) -> bool:
    """Whether a class defines neither this method nor, for frames, what stands for it."""
    methods = [method, "apply_in_context", "run_on"] if method == "apply" else [method]
    return all(getattr(value, each) is getattr(kind, each) for each in methods)


def a_kind_of(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"


def snake_case(name: str) -> str:
    """`CleanHTML` is clean_html."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return words.strip("_").lower()


def settings_model(code: Code) -> type[Frozen]:
    """The settings that a stage takes."""
    defined = definition(code)
    return defined.settings if isinstance(defined, Function) else defined


@cache
def settings_of(code: Code, settings: str) -> Any:
    """A stage's settings; for a class, the stage itself."""
    with prompts_beside(beside(code)):
        return settings_model(code).model_validate_json(settings)


def beside(code: Code, prompts: Mapping[str, Any] | None = None) -> Beside:
    """The prompts beside the user's file; those named, else all."""
    declared = None if prompts is None else frozenset(prompts)
    return Beside(Path(code.path).parent / "prompts", code.templates, declared)


def version_of(code: Code, defined: Definition) -> str:
    """The version that a class, a function or its module states; 1 where none does."""
    if isinstance(defined, Function):
        scope = getattr(defined.call, "__globals__", {})
        return str(getattr(defined.call, "version", None) or scope.get("__version__", "1"))
    return str(defined.version)
