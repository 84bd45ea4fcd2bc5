"""Users' Python files beside a dataset: its stages, scorers and method from outside the tree, with their prompts, so
that what the card says of making it again works where these files are not.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from synthmill.schemas.own_methods import VARIABLE
from synthmill.tasks.python_files import (
    MAIN_PACKAGE,
    PythonFile,
    checksum,
    read_modules,
    read_python_file,
    templates_hash,
)
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.outside_definitions import Code, loaded

PLACE = re.compile(r"(?P<kind>python:)?(?P<file>[^:\n]+\.py):(?P<name>[^\W\d]\w*)")
METHODS = "synthmill.flows.methods"
FOLDER = PurePath("code")
"""Where they lie: `datasets` takes a file at the top that is called as the dataset for a script, and refuses it."""
OWN_FACTS = ("command", "code", "modules")
"""What a dataset says of a user's code: how its method is run, the hash of every file, that of installed modules."""


@dataclass
class OwnFiles:
    """Files by the names that they have beside a dataset.

    command: how a method from outside is run; modules: stages that Python finds by name, by the hash of their content;
    read: stages' files as they were loaded, by path.
    """

    command: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    read: Mapping[str, PythonFile] = field(default_factory=dict)

    @classmethod
    def of(cls, method: "OwnFiles | None", steps: Iterable[Planned]) -> "OwnFiles":
        """A method's files, and what is known of its steps'."""
        codes = [code for step in steps if isinstance(code := getattr(step.stage, "code", None), Code)]
        return cls(
            method.command if method else "",
            dict(method.files) if method else {},
            {code.module: code.content for code in codes if code.module},
            {code.path: loaded(code)[0] for code in codes if not code.module},
        )

    def named_in(self, settings: Any) -> Any:
        """Settings that name files by their places beside the dataset; the files that they name are taken in."""
        if isinstance(settings, dict):
            return {name: self.named_in(value) for name, value in settings.items()}
        if isinstance(settings, list):
            return [self.named_in(value) for value in settings]
        form = PLACE.fullmatch(settings) if isinstance(settings, str) else None
        if form is None or not (path := Path(form["file"]).expanduser()).is_file():
            return settings
        file = self.read.get(str(path.resolve())) or read_python_file(path, beside=False)  # of a scorer, loaded alone
        is_inside = not form["file"].startswith(("/", "~")) and ".." not in path.parts
        folder = self.add(file, FOLDER / path.parent if is_inside else FOLDER)
        return f"{form['kind'] or ''}./{folder / path.name}:{form['name']}"

    def add(self, file: PythonFile, folder: PurePath) -> PurePath:
        """Take in a file, and what is beside it; its folder, another one where other files have their names there."""
        texts = dict(texts_of(file))
        for place in (folder, *(FOLDER / f"{file.path.stem}-{number}" for number in range(2, 100))):
            placed = {str(place / name): text for name, text in texts.items()}
            if all(self.files.get(name, text) == text for name, text in placed.items()):
                break
        self.files |= placed
        return place

    @property
    def facts(self) -> dict[str, Any]:
        """What the dataset says of them: nothing where there are none."""
        hashes = {name: checksum(text)[:12] for name, text in sorted(self.files.items())}
        values = self.command, hashes, {name: content[:12] for name, content in self.modules.items()}
        return {name: value for name, value in zip(OWN_FACTS, values, strict=True) if value}


def texts_of(file: PythonFile) -> Iterator[tuple[str, bytes]]:
    """A file, the modules beside it and the templates in `prompts/`, by their paths within its folder."""
    folder = file.path.parent
    for module in file.modules.values():
        yield str(module.path.relative_to(folder)), module.text
    if file.templates and file.templates == templates_hash(file.path):
        for path in sorted((folder / "prompts").rglob("*.jinja")):
            yield str(path.relative_to(folder)), path.read_bytes()


def method_files(path: Path, function: str, steps: Iterable[Planned]) -> OwnFiles:
    """A method's file or folder from outside the tree, what it shares with others of its folder, and the prompts that
    its steps name. Raises InputError.
    """
    is_folder = path.name == "__init__.py"
    folder, name = (path.parents[1], path.parent.name) if is_folder else (path.parent, path.stem)
    modules = read_modules(path, MAIN_PACKAGE, f"{METHODS}.{name}" if is_folder else METHODS).values()
    files = {module.path: module.text for module in modules}
    if is_folder:
        files |= {shared: shared.read_bytes() for shared in sorted(folder.glob("_*.py"))}
    for prompt in sorted({name for step in steps for name in getattr(step.stage, "prompts", ())}):
        if (template := folder / "prompts" / f"{prompt}.jinja").is_file():
            files[template] = template.read_bytes()
    run = f"synthmill run ./{FOLDER / path.name}" + (f":{function}" if function != "plan" else "")
    command = f"{VARIABLE}={FOLDER} synthmill run {name.replace('_', '-')}" if is_folder else run
    return OwnFiles(command, {str(FOLDER / file.relative_to(folder)): text for file, text in files.items()})
