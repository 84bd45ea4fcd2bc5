"""The project guards itself: imports point down, documents are true, every method has its paper."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from tests.tasks.test_prompts import every_stage

ROOT = Path(__file__).parent.parent
LAYERS = ("schemas", "storage", "tasks", "flows")
ONLY_IN = {
    "prefect": ("flows/",),
    "ray": ("tasks/running/parallel.py", "tasks/running/actors.py"),
    "duckdb": ("storage/",),
    "huggingface_hub": ("storage/",),
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def layer_of(name: str) -> str:
    """The layer that an import is of: `synthmill` itself for what it re-exports; empty for other packages."""
    package, _, rest = name.partition(".")
    return (rest.partition(".")[0] or package) if package == "synthmill" else ""


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_down(layer: str) -> None:
    above = {*LAYERS[LAYERS.index(layer) + 1 :], "synthmill"}
    for path in (ROOT / layer).rglob("*.py"):
        for name in imports(path):
            top, place = name.partition(".")[0], str(path.relative_to(ROOT))
            assert layer_of(name) not in above, f"{place} imports {name}, which lies above it"
            assert top not in ONLY_IN or place.startswith(ONLY_IN[top]), (
                f"{place} imports {name}; only {ONLY_IN[top]} may"
            )


def rooms(layer: str) -> list[set[str]]:
    """The rooms of a layer as ARCHITECTURE.md draws them, the lowest first."""
    [drawn] = re.findall(rf"^{layer}: (.*(?:\n +<- .*)*)$", (ROOT / "ARCHITECTURE.md").read_text(), re.M)
    return [set(floor.split(", ")) for floor in re.split(r"\s+<- ", drawn)]


@pytest.mark.parametrize("layer", ["tasks", "flows"])
def test_rooms_import_rooms_below_them(layer: str) -> None:
    floors = rooms(layer)
    floor_of = {room: number for number, floor in enumerate(floors) for room in floor}
    entries = [path for path in (ROOT / layer).iterdir() if path.name[0] != "_"]
    there = {path.stem for path in entries if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there == floor_of.keys() and len(there) == sum(map(len, floors))
    for path in (ROOT / layer).rglob("*.py"):
        room = path.relative_to(ROOT / layer).parts[0].removesuffix(".py")
        for name in imports(path) if room != "__init__" else ():
            other = name.split(".")[2] if name.startswith(f"synthmill.{layer}.") else room
            assert other == room or floor_of[other] < floor_of[room], f"{path} imports {name}, which lies above it"


def test_every_stage_is_in_the_papers() -> None:
    text = (ROOT / "docs" / "papers.md").read_text()
    headings = set(re.findall(r"^## (\S+)", text, re.M))
    for kind in every_stage():
        assert f"`{kind.name}`" in text, f"docs/papers.md does not mention the stage {kind.name}"
    for path in (
        *(ROOT / "tasks").rglob("*.py"),
        *(ROOT / "tasks").rglob("*.jinja"),
        *(ROOT / "schemas").rglob("*.py"),
    ):
        for anchor in re.findall(r"docs/papers\.md#([\w-]+)", path.read_text()):
            assert anchor in headings, f"{path.name} refers to docs/papers.md#{anchor}, which is not there"


@pytest.mark.parametrize(
    "document",
    [
        *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "AGENTS.md"),
        *(f"docs/{page}.md" for page in ("install", "methods", "settings", "scripting")),
    ],
)
def test_paths_and_commands_in_the_documents_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    for path in re.findall(r"\b(?:docs|examples|bench|flows|tasks|storage|schemas|tests)/[\w./-]*\w", text):
        if "METHOD" not in path:
            assert (ROOT / path).exists(), f"{document} names {path}, which is not there"
    from synthmill.flows.cli import cli

    for command in re.findall(r"^(?:\.venv/bin/)?synthmill ([\w-]+)", text, re.M):
        assert command in cli.commands, f"{document} names `synthmill {command}`, which does not exist"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for target in re.findall(r"`make ([a-z-]+)`", text):
        assert target in targets, f"{document} names `make {target}`, which does not exist"
    for option in re.findall(r"synthmill (?:run|sample) .*", text):
        for flag in re.findall(r"(?<= )(--?[a-z-]+)", option):
            known = {
                name for command in cli.commands.values() for parameter in command.params for name in parameter.opts
            }
            assert flag in known | {"--help"}, f"{document} names {flag}, which no command has"


def test_the_numbers_in_the_documents_come_from_a_bench() -> None:
    text = (ROOT / "docs" / "bench.md").read_text()
    assert not re.search(r"\d[\d,.]* (rows|tokens)/s", (ROOT / "README.md").read_text())
    tables = re.findall(r"<!-- (bench/results/(\w+)\.md) -->\n(.*?)<!-- end -->", text, re.S)
    assert {name for _, name, _ in tables} == {path.stem for path in (ROOT / "bench" / "results").glob("*.md")}
    for path, name, table in tables:
        assert (ROOT / "bench" / f"{name}.py").exists()
        assert table.strip() == (ROOT / path).read_text().strip(), (
            f"docs/bench.md and {path} differ; copy the table over"
        )


def test_files_stay_small() -> None:
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, f"{path} is over 400 lines: is there a second idea in it?"


def test_the_recipes_for_clusters_are_whole() -> None:
    import subprocess

    folder = ROOT / "examples" / "clusters"
    subprocess.run(["bash", "-n", folder / "slurm.sh"], check=True)
    job = yaml.safe_load((folder / "kuberay.yaml").read_text())
    groups = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
    mounts = [container["volumeMounts"] for one in groups for container in one["template"]["spec"]["containers"]]
    assert all([mount["mountPath"] for mount in one] == ["/store"] for one in mounts)
    assert job["spec"]["entrypoint"].startswith("synthmill run ")
