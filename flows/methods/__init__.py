"""The methods: every file and every folder here is one, and so are those of the folders that SYNTHMILL_METHODS names.

A method's name is its file's, its help the first line of its docstring. Its function `plan` takes its settings and
returns its plan. Nothing registers a method: this listing reads the files, and imports the one that runs. A path names
a file that stands elsewhere, `./mine.py`, or another function than `plan` in it, `./mine.py:my_method`.
"""

import ast
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, wraps
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from synthmill.schemas.errors import InputError, SynthmillError
from synthmill.schemas.nearest import did_you_mean
from synthmill.schemas.own_methods import VARIABLE, own_folders

if TYPE_CHECKING:
    from synthmill.flows.making.plan import Plan
    from synthmill.schemas.settings import RunSettings

SCHEMAS = Path(__file__).parents[2] / "schemas"
NARROWED = ("engines",)  # a method names its roles
__path__ += map(str, own_folders())


class Method(NamedTuple):
    """A method as its file says it. about: the first line of its docstring; fault: why it cannot be used, or empty;
    function: what returns its plan.
    """

    name: str
    path: Path
    about: str = ""
    fault: str = ""
    function: str = "plan"

    @property
    def plan(self) -> "Callable[[Any], Plan]":
        """The function that plans a run. Raises InputError for a file that cannot be imported; what it returns, for
        anything that goes wrong in it but a clear error.
        """
        with self.faults_named("it cannot be imported"):
            function: Callable[[Any], Plan] = getattr(import_file(self.path), self.function)

        @wraps(function)
        def plan(settings: Any) -> "Plan":
            with self.faults_named("its plan failed"):
                planned = function(settings)
                if self.name not in (getattr(planned, "flow", None), getattr(planned, "method", None)):
                    raise TypeError(f"{self.function} must return a Plan called {self.name!r}")
                return planned if Path(__file__).parent in self.path.parents else self.with_files(planned)

        return plan

    def with_files(self, plan: "Plan") -> "Plan":
        """A plan with the files of its method, which stands outside the tree, as they are now."""
        from synthmill.flows.pages.own_files import method_files

        return replace(plan, own_files=method_files(self.path, self.function, plan.stages))

    @contextmanager
    def faults_named(self, what: str) -> Iterator[None]:
        """Turn what a method's file raises into one line that names the place."""
        try:
            yield
        except SynthmillError:
            raise
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            raise InputError(f"{self.path}: {what}: {type(error).__name__}: {error} ({place})") from error

    @property
    def settings(self) -> "type[RunSettings]":
        """What the function takes. Raises InputError where it says nothing of settings."""
        from synthmill.schemas.settings import RunSettings

        kind = next(iter(get_type_hints(self.plan).values()), None)
        if not isinstance(kind, type) or not issubclass(kind, RunSettings):
            raise InputError(
                f"{self.path}: the parameter of {self.function} is no RunSettings; expected a subclass of it"
            )
        return kind


def identifier(name: str) -> str:
    """A method's name as Python and Prefect write it."""
    return name.replace("-", "_")


@cache
def methods() -> dict[str, Method]:
    """Every method by name, those that cannot be used too, in the order of their names."""
    listed: dict[str, Method] = {}
    for folder in own_folders():
        if not folder.is_dir():
            listed[folder.name] = Method(folder.name, folder, fault=f"there is no such folder ({VARIABLE})")
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


def module_name(path: Path) -> str:
    """The name by which workers import a method's file."""
    return f"{__name__}.{identifier(name_of(path))}"


def import_file(path: Path) -> ModuleType:
    """A method's file, by the name that workers import it by."""
    name = module_name(path)
    folder = path.parents[1] if path.name == "__init__.py" else path.parent
    module = sys.modules.get(name)
    if str(folder) in __path__:
        return import_module(name)
    if module is None or module.__file__ != str(path):
        spec = spec_from_file_location(name, path)
        assert spec and spec.loader
        module = sys.modules[name] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


def read_method(path: Path, function: str = "plan") -> Method:
    """What a file says of its method, without running it."""
    name = name_of(path) if function == "plan" else function.replace("_", "-")
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError) as error:
        return Method(name, path, fault=f"it cannot be read: {error}")
    about = (ast.get_docstring(tree) or "").partition("\n")[0].strip().rstrip(".")
    return Method(name, path, about, fault_of(tree, about, function), function)


def fault_of(tree: ast.Module, about: str, function: str) -> str:
    """Why a file is no method; empty where it is one."""
    plans = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    if not about:
        return "it has no docstring; its first line is the method's help"
    if len(plans) != 1:
        return f"it has {len(plans)} functions called {function}; expected one, which takes the settings"
    parameters = plans[0].args.args
    annotation = parameters[0].annotation if len(parameters) == 1 else None
    if annotation is None:
        return f"its {function} has no parameter with a type; expected {function}(settings: SETTINGS) -> Plan"
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
    """What every run's settings have, and those of every run that publishes, read without importing pydantic."""
    places = (("settings.py", "RunSettings"), ("dedup_settings.py", "PublishSettings"))
    return set[str]().union(*(fields_in(ast.parse((SCHEMAS / file).read_bytes()), name) for file, name in places))


def method_and_file(flow: str) -> tuple[str, Path | None, dict[str, Any]]:
    """What is to run: a method's name, the file that holds its settings, if that is what was named, and the settings
    that follow from the file's name.
    """
    if not flow.endswith((".yaml", ".yml")):
        return flow, None, {}
    from synthmill.schemas.settings_files import read_yaml

    file = Path(flow)
    return "pipeline", file, {} if "name" in read_yaml(file) else {"name": pipeline_name(file)}


def pipeline_name(file: Path) -> str:
    """What a pipeline is called whose file says no name."""
    return re.sub(r"\W+", "-", file.stem)


def method(name: str) -> Method:
    """A method by its name or its file's path. Raises InputError where there is none, or it cannot be used."""
    listed = methods()
    entry = method_of_file(name) if name.endswith(".py") or ".py:" in name else listed.get(name)
    if entry is None:
        names = [name for name, entry in listed.items() if not entry.fault]
        hint = did_you_mean(name, names)
        raise InputError(
            f"no method is called {name!r}{hint}; expected one of {', '.join(names)}, or a file as ./FILE.py"
        )
    if entry.fault:
        raise InputError(f"{entry.path} is no method: {entry.fault}")
    return entry


def method_of_file(spec: str) -> Method:
    """The method in FILE.py or FILE.py:FUNCTION. Its folder becomes one of SYNTHMILL_METHODS for this run, so that
    workers find its file and its prompts.
    """
    file, _, function = spec.partition(".py:")
    path = Path(f"{file.removesuffix('.py')}.py").expanduser().resolve()
    if not path.is_file():
        raise InputError(f"there is no file {path}; expected a method's file, as ./FILE.py or ./FILE.py:FUNCTION")
    if path.name == "__init__.py":
        raise InputError(f"{path} is a folder's; name the folder above it in {VARIABLE}, and run {name_of(path)}")
    entry = read_method(path, function or "plan")
    others = [each for each in methods().values() if each.path != path]
    taken = [each for each in others if each.name == entry.name or module_name(each.path) == module_name(path)]
    if taken:
        return entry._replace(fault=f"{taken[0].path} has the same name; rename one of them")
    if path.parent not in own_folders():
        earlier = os.environ.get(VARIABLE, "")
        os.environ[VARIABLE] = os.pathsep.join(filter(None, (earlier, str(path.parent))))
    return entry
