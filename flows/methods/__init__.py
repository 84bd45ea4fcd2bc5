"""The methods: every file and every folder here is one, and so are those of the folders that SYNTHMILL_METHODS names.

A method's name is its file's, its help the first line of its docstring. Its function `plan` takes its settings and
returns its plan. Nothing registers a method: this listing reads the files, and imports the one that runs.
"""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from schemas.errors import InputError
from schemas.own_methods import own_folders

if TYPE_CHECKING:
    from flows.making.plan import Plan
    from schemas.settings import RunSettings

SETTINGS = Path(__file__).parents[2] / "schemas" / "settings.py"
NARROWED = ("engines",)  # a method names its roles
__path__ += map(str, own_folders())


class Method(NamedTuple):
    """A method as its file says it. about: the first line of its docstring; fault: why it cannot be used, or empty."""

    name: str
    path: Path
    about: str = ""
    fault: str = ""

    @property
    def plan(self) -> "Callable[[Any], Plan]":
        """The function that plans a run. Importing it may raise whatever the file raises."""
        function: Callable[[Any], Plan] = import_module(f"flows.methods.{identifier(self.name)}").plan
        return function

    @property
    def settings(self) -> "type[RunSettings]":
        """What the function takes. Raises InputError where it says nothing of settings."""
        from schemas.settings import RunSettings

        kind = next(iter(get_type_hints(self.plan).values()), None)
        if not isinstance(kind, type) or not issubclass(kind, RunSettings):
            raise InputError(f"{self.path}: the parameter of plan is no RunSettings; expected a subclass of it")
        return kind


def identifier(name: str) -> str:
    """A method's name as Python and Prefect write it."""
    return name.replace("-", "_")


@cache
def methods() -> dict[str, Method]:
    """Every method by name, those that cannot be used too, in the order of their names."""
    listed: dict[str, Method] = {}
    for path in sorted(files(), key=lambda path: identifier(name_of(path))):
        method = read_method(path)
        if earlier := listed.get(method.name):
            method = earlier._replace(fault=f"{path} has the same name; rename one of them")
        listed[method.name] = method
    return listed


def files() -> Iterator[Path]:
    """The files of methods: `NAME.py`, or `NAME/__init__.py`."""
    for folder in map(Path, __path__):
        for path in folder.glob("*.py"):
            if not path.name.startswith("_"):
                yield path
        yield from folder.glob("[!_]*/__init__.py")


def name_of(path: Path) -> str:
    return (path.parent.name if path.name == "__init__.py" else path.stem).replace("_", "-")


def read_method(path: Path) -> Method:
    """What a file says of its method, without running it."""
    name = name_of(path)
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError) as error:
        return Method(name, path, fault=f"it cannot be read: {error}")
    about = (ast.get_docstring(tree) or "").partition("\n")[0].strip().rstrip(".")
    return Method(name, path, about, fault_of(tree, about))


def fault_of(tree: ast.Module, about: str) -> str:
    """Why a file is no method; empty where it is one."""
    plans = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "plan"]
    if not about:
        return "it has no docstring; its first line is the method's help"
    if len(plans) != 1:
        return f"it has {len(plans)} functions called plan; expected one, which takes the settings"
    parameters = plans[0].args.args
    annotation = parameters[0].annotation if len(parameters) == 1 else None
    if annotation is None:
        return "its plan has no parameter with a type; expected plan(settings: SETTINGS) -> Plan"
    shadowed = fields_in(tree, ast.unparse(annotation)) & run_fields() - set(NARROWED)
    if shadowed:
        return f"its settings redefine {', '.join(sorted(shadowed))}, which every run has; rename the field"
    return ""


def fields_in(tree: ast.Module, name: str) -> set[str]:
    """The annotated fields of a class in a file; a ClassVar is none."""
    kind = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    fields = [node for node in kind.body if isinstance(node, ast.AnnAssign)] if kind else []
    fields = [field for field in fields if "ClassVar" not in ast.unparse(field.annotation)]
    return {field.target.id for field in fields if isinstance(field.target, ast.Name)}


@cache
def run_fields() -> set[str]:
    """What every run's settings have, read without importing pydantic."""
    return fields_in(ast.parse(SETTINGS.read_bytes()), "RunSettings")


def method(name: str) -> Method:
    """A method by its name. Raises InputError where there is none, or it cannot be used."""
    listed = methods()
    known = listed.get(name)
    if known is None:
        names = ", ".join(name for name, known in listed.items() if not known.fault)
        raise InputError(f"no method is called {name!r}; expected one of {names}")
    if known.fault:
        raise InputError(f"{known.path} is no method: {known.fault}")
    return known
