"""`synthmill.stages` lists every stage there is, and says so to type checkers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import synthmill
from synthmill import stages
from synthmill.flows.making.stage_list import stage_named, stages_by_name
from synthmill.flows.python.stage_classes import stage_modules
from tests.tasks.test_prompts import every_stage

FILE = Path(stages.__file__)
BLOCK = re.compile(r"(?<=if TYPE_CHECKING:\n).*?(?=\n\n\n)", re.S)


def block() -> str:
    """What type checkers read."""
    classes = sorted((kind.__module__, kind.__name__) for kind in set(every_stage()))
    return "\n".join(f"    from {module} import {name} as {name}" for module, name in classes)


def test_the_list_has_every_stage_and_finds_it_without_importing_the_others() -> None:
    classes = {kind.__name__: kind for kind in every_stage()}
    assert stage_modules() == {name: kind.__module__ for name, kind in classes.items()}
    assert dir(stages) == sorted(classes)
    assert all(getattr(stages, name) is kind for name, kind in classes.items())
    with pytest.raises(AttributeError, match="no stage is called Answer; there are "):
        _ = stages.Answer  # type: ignore[attr-defined]


def test_a_stage_that_is_named_is_imported_alone() -> None:
    assert all(stage_named(name) is kind for name, kind in stages_by_name().items())
    code = "import sys; from synthmill.flows.making.stage_list import stage_named; stage_named('ask')"
    code = f"{code}; print({{'numba', 'scipy', 'aiohttp', 'jsonschema', 'duckdb'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_type_checkers_see_the_same_list() -> None:
    if os.environ.get("SYNTHMILL_LOCK"):
        FILE.write_text(BLOCK.sub(lambda _: block(), FILE.read_text()))
    [found] = BLOCK.findall(FILE.read_text())
    assert found == block(), "run SYNTHMILL_LOCK=1 pytest tests/flows/test_stages_list.py"


def test_the_package_imports_nothing_until_it_is_asked() -> None:
    heavy = "{'polars', 'pyarrow', 'pydantic', 'prefect', 'ray', 'torch', 'numba', 'datasets'}"
    code = f"import sys, synthmill; from synthmill import stages; print({heavy} & set(sys.modules)); dir(synthmill)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    code = "import sys; from synthmill import Session, run; print({'prefect', 'ray', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_what_the_package_promises_is_there() -> None:
    source = Path(synthmill.__file__).read_text()
    promised = re.findall(r"^    from \S+ import (\w+) as \w+$", source, re.M)
    assert sorted(promised) == dir(synthmill)
    assert all(getattr(synthmill, name).__name__.rpartition(".")[2] == name for name in promised)
    with pytest.raises(AttributeError, match=r"'synthmill' has no attribute 'Sesion'; it has .*Session"):
        _ = synthmill.Sesion  # type: ignore[attr-defined]
