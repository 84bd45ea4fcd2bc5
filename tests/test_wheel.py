"""The wheel: what is in it, and that it works where nothing of this checkout can be seen."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from email import message_from_bytes
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import polars as pl
import pytest

from synthmill import tasks
from tests.command import ROOT, environment
from tests.conftest import ChatServer, prompts, write_jsonl

LAYERS = ("schemas", "storage", "tasks", "flows")


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `python -m hatchling` runs: that of the dev extra, else a folder with hatchling."""
    if find_spec("hatchling"):
        return dict(os.environ)
    folder = str(tmp_path_factory.mktemp("hatchling"))
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "hatchling"], check=True)
    return {**os.environ, "PYTHONPATH": folder}


@pytest.fixture(scope="module")
def built(builder: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, env=builder, check=True)
    return folder


@pytest.fixture(scope="module")
def home(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, what it depends on, and other people's packages `tasks` and `storage`.

    A line of a .pth file is put on the path, but .pth files behind it are not read: so this checkout, which they name,
    is not seen. pip runs before that line is written, and finds no other synthmill to replace.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", *built.glob("*.whl")], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    for name in ("tasks", "storage"):
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text("OWNER = 'somebody else'")
    return folder


def run(home: Path, program: str, *arguments: Any, cwd: Path) -> str:
    """The output of a program of the virtual environment, run as its user does."""
    variables = {name: value for name, value in environment(cwd).items() if name != "PYTHONPATH"}
    command = [home / "bin" / program, *map(str, arguments)]
    ended = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=120)
    assert not ended.returncode, ended.stderr
    return ended.stdout


def files_of(wheel: Path) -> list[str]:
    return sorted(name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name)


def test_the_wheel_holds_every_file_of_the_layers_once(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    files = [path.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("*") if path.is_file()]
    tree = [f"synthmill/{path}" for path in files if "__pycache__" not in path.parts]
    assert files_of(wheel) == sorted([*tree, "synthmill/__init__.py", "synthmill/py.typed", "synthmill/stages.py"])
    assert {".jinja", ".css", ".js", ".yaml"} < {Path(name).suffix for name in tree}


def test_a_wheel_made_of_the_sdist_is_the_same(built: Path, builder: dict[str, str], tmp_path: Path) -> None:
    [wheel], [sdist] = built.glob("*.whl"), built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [project] = tmp_path.iterdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"]
    subprocess.run(command, cwd=project, env=builder, check=True)
    assert files_of(tmp_path / "dist" / wheel.name) == files_of(wheel)


def test_users_choose_their_build_of_torch(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    name_and_version = "-".join(wheel.name.split("-")[:2])
    metadata = message_from_bytes(ZipFile(wheel).read(f"{name_and_version}.dist-info/METADATA"))
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "embedded",
        "cpu",
        "gpu",
        "providers",
        "verify",
        "documents",
        "docs",
        "dev",
    }
    assert not any(line.startswith(("torch", "vllm")) for line in metadata.get_all("Requires-Dist") if ";" not in line)


def test_an_installed_synthmill_lives_beside_a_foreign_package_of_a_layers_name(home: Path, tmp_path: Path) -> None:
    code = (
        "import storage, tasks, synthmill.tasks.cuts.rules\n"
        "from importlib.metadata import entry_points\n"
        "[plugin] = entry_points(group='vllm.general_plugins', name='synthmill_die_with_parent')\n"
        "print(tasks.OWNER, storage.OWNER, plugin.load().__module__, synthmill.tasks.cuts.rules.__file__, sep='\\n')"
    )
    *names, file = run(home, "python", "-c", code, cwd=tmp_path).splitlines()
    assert names == ["somebody else", "somebody else", "synthmill.tasks.engines.vllm_engine"]
    assert Path(file).is_relative_to(home)


def test_the_installed_command_works_in_any_folder(home: Path, tmp_path: Path, server: ChatServer) -> None:
    assert run(home, "synthmill", "--help", cwd=tmp_path).startswith("Usage: synthmill ")
    assert run(home, "synthmill", "--version", cwd=tmp_path).startswith("synthmill, version ")
    pools = [{"id": n, "prompt": f"Why {n}?", "answers": ["Because.", "So."], "rewards": [n, 9]} for n in range(9)]
    write_jsonl(tmp_path / "pools.jsonl", pools)
    run(home, "synthmill", "pairs", "pools.jsonl", "--rule", "max-min", "--out", "pairs.jsonl", cwd=tmp_path)
    assert pl.read_ndjson(tmp_path / "pairs.jsonl")["chosen"].to_list() == ["So."] * 9
    write_jsonl(tmp_path / "prompts.jsonl", prompts(3))
    settings = ("--set", "source=prompts.jsonl", "--set", f"engines.teacher={server.spec}")
    plan = run(home, "synthmill", "run", "synthesize", *settings, "--dry-run", cwd=tmp_path)
    assert "checked: templates, stage inputs, engines, input, store." in plan


@pytest.mark.prefect
def test_prefect_loads_an_installed_flow_by_its_entrypoint(home: Path, tmp_path: Path) -> None:
    code = (
        "from prefect.flows import load_flow_from_entrypoint\n"
        "print(load_flow_from_entrypoint('synthmill.flows.deployed:self_rip').name)"
    )
    assert run(home, "python", "-c", code, cwd=tmp_path) == "self-rip\n"


def test_kernels_find_a_place_where_nothing_else_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "elsewhere")  # so that it is put back
    tasks.find_place_for_kernels()
    assert os.environ["NUMBA_CACHE_DIR"] == "elsewhere"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    tasks.find_place_for_kernels()
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setattr(tasks, "writable", lambda folder: False)
    tasks.find_place_for_kernels()
    assert Path(os.environ["NUMBA_CACHE_DIR"]).is_dir()
