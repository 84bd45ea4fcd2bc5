"""Users' Python files, imported by path: stages from outside the tree, scorers, worlds.

A file's content is its own, and that of the modules beside it that it imports, directly or through others. They are
imported together as a package that is named by this content: another version is another package, two folders never mix
their modules, and what runs is what was hashed. `import words` finds `words.py` beside the file, as for a script.
"""

import ast
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from hashlib import blake2b
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import content_hash

PACKAGE = "synthmill_outside_"
MAIN_PACKAGE = "__main__"
"""What a file `__init__.py` is called within its folder."""
INSTALLED = {"site-packages", "dist-packages"}
"""Folders whose modules are no part of a file's content."""


class Module(NamedTuple):
    """A module of a user's: its file and its text."""

    path: Path
    text: bytes

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


class PythonFile(NamedTuple):
    """A user's file as it was read. modules: itself and what it imports from beside it, by dotted name within its
    folder; main: its own name there. templates: the hash of the prompts in `prompts/` beside it; empty for none.
    installed: its name for an import, where it is a module that Python finds.
    """

    path: Path
    main: str
    modules: Mapping[str, Module]
    templates: str
    installed: str

    @property
    def content(self) -> str:
        """The hash of its text and that of the modules beside it. Its own name is not in it."""
        names = {name: "" if name == self.main else name for name in self.modules}
        return content_hash(sorted([names[name], checksum(module.text)] for name, module in self.modules.items()))

    @property
    def package(self) -> str:
        return PACKAGE + content_hash([str(self.path), self.content, self.templates])[:16]

    def load(self) -> ModuleType:
        """The module, imported once per content. Raises InputError, in one line, for whatever goes wrong."""
        try:
            if self.installed:
                module = import_module(self.installed)
                if imported_contents.setdefault(self.installed, self.content) != self.content:
                    raise ImportError("it has changed since this process imported it; start a new one")
                return module
            with finder_lock:
                if not any(isinstance(finder, BesideFinder) for finder in sys.meta_path):
                    sys.meta_path.insert(0, BesideFinder())
                loaded_files[self.package] = self
            return import_module(f"{self.package}.{self.main}")
        except (Exception, SystemExit) as error:
            raise InputError(f"{self.path} cannot be imported: {fault_of(error, self)}") from error


imported_contents: dict[str, str] = {}
loaded_files: dict[str, PythonFile] = {}
finder_lock = threading.Lock()


def checksum(text: bytes) -> str:
    return blake2b(text, digest_size=16).hexdigest()


def read_python_file(path: Path, *, beside: bool = True) -> PythonFile:
    """Read a file, and the modules beside it that it imports (`beside`). Raises InputError where it is not there."""
    path = path.expanduser().resolve()
    if path.suffix != ".py":
        raise InputError(f"{path} is no Python file; expected FILE.py")
    main = MAIN_PACKAGE if path.stem == "__init__" else path.stem.replace(".", "_")
    beside = beside and INSTALLED.isdisjoint(path.parts)
    modules = read_modules(path, main, "" if beside else None)
    return PythonFile(path, main, modules, templates_hash(path) if beside else "", "")


def read_python_module(name: str) -> PythonFile:
    """Read a module that Python finds by its name. Raises InputError where it finds none."""
    try:
        spec = find_spec(name)
    except (Exception, SystemExit) as error:  # its packages are imported on the way
        raise InputError(f"the module {name} cannot be imported: {type(error).__name__}: {error}") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise InputError(
            f"there is no module {name} in Python's path; install it, name its folder in PYTHONPATH, or write its file "
            "as ./FILE.py"
        )
    path = Path(spec.origin)
    prefix = name if spec.submodule_search_locations else name.rpartition(".")[0]
    main = MAIN_PACKAGE if path.stem == "__init__" else path.stem
    beside = prefix or (None if INSTALLED.intersection(path.parts) else "")
    return PythonFile(path, main, read_modules(path, main, beside), templates_hash(path), name)


def read_modules(path: Path, main: str, prefix: str | None) -> dict[str, Module]:
    """A file, and the modules of its folder that it imports, directly or through others, by dotted name.

    prefix: what absolute names of those begin with; None for a file that is read alone.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}; expected a Python file")
    modules: dict[str, Module] = {}
    waiting = [(main, path)]
    while waiting:
        name, file = waiting.pop()
        if name in modules:
            continue
        try:
            modules[name] = Module(file, file.read_bytes())
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from error
        if prefix is not None:
            for imported in imported_names(modules[name], name, prefix):
                waiting += [(module, place) for module, place in places_of(imported, path.parent) if module != main]
    return modules


def imported_names(module: Module, name: str, prefix: str) -> Iterator[str]:
    """Dotted names within the folder that a module may import; a text that is no Python imports none."""
    try:
        tree = ast.parse(module.text)
    except (SyntaxError, ValueError):
        return
    package = name.split(".") if module.is_package else name.split(".")[:-1]
    package = [step for step in package if step != MAIN_PACKAGE]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = node.level - 1
            if above > len(package):
                continue
            base = [*package[: len(package) - above], *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)
            continue
        else:
            continue
        for each in names:
            if not prefix:
                yield each
            elif each.startswith(f"{prefix}."):
                yield each.removeprefix(f"{prefix}.")


def places_of(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The modules of a folder on the way of a dotted name, and their files; packages need their `__init__.py`."""
    steps = name.split(".")
    if steps[0] == "synthmill" or steps[0] in sys.builtin_module_names:
        return
    for count in range(1, len(steps) + 1):
        place = folder.joinpath(*steps[:count])
        package, file = place / "__init__.py", place.with_name(place.name + ".py")
        if package.is_file():
            yield ".".join(steps[:count]), package
        elif file.is_file():
            yield ".".join(steps[:count]), file
            return
        else:
            return


def templates_hash(path: Path) -> str:
    """The hash of the templates in `prompts/` beside a file; empty where there are none."""
    folder = path.parent / "prompts"
    texts = sorted([str(file.relative_to(folder)), checksum(file.read_bytes())] for file in folder.rglob("*.jinja"))
    return content_hash(texts) if texts else ""


class BesideFinder(MetaPathFinder, Loader):
    """Finds the modules of files that were read, each within its own package."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if (file := loaded_files.get(package)) is None:
            return None
        if not name:
            return ModuleSpec(package, self, is_package=True)
        if (module := file.modules.get(name)) is None:
            return None
        inside = [str(module.path.parent)] if module.is_package and name != file.main else None
        return spec_from_file_location(fullname, module.path, loader=self, submodule_search_locations=inside)

    def exec_module(self, module: ModuleType) -> None:
        package, _, name = module.__name__.partition(".")
        if name:
            file = loaded_files[package]
            source = file.modules[name]
            tree = WithinPackage(package, file).visit(ast.parse(source.text, str(source.path)))
            exec(compile(ast.fix_missing_locations(tree), str(source.path), "exec", dont_inherit=True), vars(module))


class WithinPackage(ast.NodeTransformer):
    """Lets absolute imports of modules beside a file name them within their package."""

    def __init__(self, package: str, file: PythonFile) -> None:
        self.package = package
        self.names = {name.partition(".")[0] for name in file.modules}

    def visit_Import(self, node: ast.Import) -> Any:
        statements: list[ast.stmt] = []
        for alias in node.names:
            top = alias.name.partition(".")[0]
            inside = f"{self.package}.{alias.name}"
            if top not in self.names:
                names = [alias]
            elif alias.asname or alias.name == top:
                names = [ast.alias(inside, alias.asname or top)]
            else:  # `import kit.words` binds `kit`
                names = [ast.alias(inside, f"_{self.package}"), ast.alias(f"{self.package}.{top}", top)]
            statements.append(ast.copy_location(ast.Import(names), node))
        return statements

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if node.level == 0 and node.module and node.module.partition(".")[0] in self.names:
            node.module = f"{self.package}.{node.module}"
        return node


def fault_of(error: BaseException, file: PythonFile) -> str:
    """TypeName: message (FILE:LINE), in one line; the place is the last one in the user's file or beside it."""
    message = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    paths = {str(module.path) for module in file.modules.values()}
    own = [frame for frame in frames if frame.filename in paths] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else file.path.name
    if isinstance(error, SyntaxError) and error.filename:
        message, place = error.msg, f"{Path(error.filename).name}:{error.lineno}"
    return f"{type(error).__name__}: {message} ({place})" if message else f"{type(error).__name__} ({place})"


def named_in(module: ModuleType, name: str, path: Path) -> Any:
    """What a module calls `name`. Raises InputError with the nearest names where there is nothing of that name."""
    if name in vars(module):
        return vars(module)[name]
    names = [each for each, value in vars(module).items() if not each.startswith("_") and is_of(value, module)]
    near = get_close_matches(name, names, 3, 0.5) or names[:8]
    raise InputError(
        f"{path} has no {name}; " + (f"it has {', '.join(near)}" if near else "it defines no function and no class")
    )


def is_of(value: Any, module: ModuleType) -> bool:
    """Whether a function or class was made in a module."""
    return callable(value) and getattr(value, "__module__", None) == module.__name__
