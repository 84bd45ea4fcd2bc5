"""A store after a thousand runs: this tree beside an older one (a git worktree that is made and removed), in turn.

    python -m bench.scale [--old COMMIT] [--small] [--only WORD ...]

Prints one table: catalog, look-ups, replay, a run with nothing to do, and datasets of preference pairs. Every
measurement is a process of its own; seconds are medians of --repeats pairs, memory is the peak of the process tree, by
psutil. Ratios hold where the machine is shared; single times do not. --small is a smoke of a minute or two.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

HERE = Path(__file__).parent
ROOT = HERE.parent
OLD = "e561b05"
MIB = 1 << 20
PARTS = ("catalog", "larger_catalog", "lookups", "nothing_to_do", "datasets")


SETTINGS = {
    "policies": [],
    "scorers": [],
    "reward": "reward",
    "cuts": ["max-min"],
    "dedup.layers": ["exact"],
}
LOOK = """
import json, sys, time
try:
    from synthmill.flows.methods import method
    from synthmill.schemas.settings_files import read_settings
    model, plan = method("preferences").settings, method("preferences").plan
except ImportError:  # as version 0.1 had it
    from synthmill.flows.plans import FLOWS
    from synthmill.schemas.settings import read_settings
    model, plan = FLOWS["preferences"]
settings = read_settings(model, None, json.loads(sys.argv[1]))
began = time.perf_counter()
planned = plan(settings)
assert planned.is_done() and planned.made()
print(time.perf_counter() - began)
"""


class Run(NamedTuple):
    """One process: its seconds, the peak of its tree's memory, and what it printed."""

    seconds: float
    peak_mib: float
    out: str


class Line(NamedTuple):
    """One line of the table. before, now: medians, none where the older tree cannot."""

    what: str
    size: str
    unit: str
    before: float | None
    now: float
    more_is_better: bool = False

    def cells(self) -> list[str]:
        ratio = ""
        if self.before and self.now:
            smaller = self.now < self.before and not self.more_is_better
            ratio = f"1/{self.before / self.now:.3g}" if smaller else f"{self.now / self.before:.3g}"
        values = ["" if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in self[3:5]]
        return [self.what, self.size, self.unit, *values, ratio]


def run_in(tree: Path, *command: object, cwd: Path | None = None) -> Run:
    """Run a command with a tree's code; the machine's other load is not taken out."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    began = time.perf_counter()
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=cwd or tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peaks = [0]
    watching = threading.Thread(target=watch, args=(process, peaks), daemon=True)
    watching.start()
    out, err = process.communicate()
    seconds = time.perf_counter() - began
    watching.join()
    if process.returncode:
        raise SystemExit(f"{command} failed in {tree}:\n{out}\n{err}")
    return Run(seconds, peaks[0] / MIB, out)


def watch(process: "subprocess.Popen[str]", peaks: list[int]) -> None:
    """Note the most that a process and its children held at once."""
    try:
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            memory = 0
            for member in (parent, *parent.children(recursive=True)):
                try:
                    memory += member.memory_info().rss
                except psutil.Error:
                    continue
            peaks[0] = max(peaks[0], memory)
            time.sleep(0.05)
    except psutil.Error:
        return


ALIAS = '''"""`synthmill.LAYER` is the LAYER at this tree's top; else an installed checkout would answer to the name."""

import importlib
import importlib.util
import sys


class Layers:
    def find_spec(self, name, path=None, target=None):
        layer = name.removeprefix("synthmill.")
        spec = importlib.util.find_spec(layer) if layer != name else None
        package = spec and spec.submodule_search_locations is not None
        return spec and importlib.util.spec_from_loader(name, self, origin=spec.origin, is_package=package)

    def create_module(self, spec):
        return importlib.import_module(spec.name.removeprefix("synthmill."))

    def exec_module(self, module):
        pass

    def get_code(self, name):
        layer = name.removeprefix("synthmill.")
        return importlib.util.find_spec(layer).loader.get_code(layer)


sys.meta_path.insert(0, Layers())
'''


@contextmanager
def old_tree(commit: str) -> Iterator[Path]:
    """A worktree of an older commit, without this tree's files in it."""
    with tempfile.TemporaryDirectory(prefix="scale-old-") as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(tree), commit], check=True)
        try:
            if not (tree / "synthmill").exists():
                (tree / "synthmill").mkdir()
                (tree / "synthmill" / "__init__.py").write_text(ALIAS)
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def script(name: str) -> list[object]:
    return [sys.executable, "-P", HERE / f"{name}.py"]


class Scale:
    """The trees, a folder to work in, and how much to do."""

    def __init__(self, trees: dict[str, Path], folder: Path, repeats: int, small: bool) -> None:
        self.trees, self.folder, self.repeats, self.small = trees, folder, repeats, small

    def pairs(self, work: Callable[[str, Path], float]) -> tuple[float, float]:
        """Medians of both trees, taken in turn."""
        values: dict[str, list[float]] = {name: [] for name in self.trees}
        for _ in range(self.repeats):
            for name, tree in self.trees.items():
                values[name].append(work(name, tree))
        return statistics.median(values["before"]), statistics.median(values["now"])

    def catalog(self) -> Iterator[Line]:
        artifacts = 200 if self.small else 4_000
        size = f"{artifacts:,} artifacts"

        def ask(name: str, tree: Path, command: str) -> float:
            run = run_in(tree, *script("scale_catalog"), command, self.folder / f"catalog-{name}", artifacts)
            return float(re.findall(r": ([\d.]+) s", run.out)[-1]) if command != "grow" else 0.0

        for name, tree in self.trees.items():
            place = self.folder / f"catalog-{name}"
            run_in(tree, *script("scale_catalog"), "make", place, artifacts, "--drops-every", 1)
        yield Line("catalog from nothing", size, "s", *self.pairs(lambda name, tree: ask(name, tree, "rebuild")))
        yield Line("catalog after one run more", size, "s", *self.pairs(self.grow_first(ask)))
        yield Line("count(*) FROM drops", size, "s", *self.pairs(lambda name, tree: ask(name, tree, "drops")))
        for command in ("ls", "show", "calls"):
            yield Line(
                f"`{command}`, whole command", size, "s", *self.pairs(lambda name, tree, c=command: ask(name, tree, c))
            )

    def larger_catalog(self) -> Iterator[Line]:
        """What only this tree can be asked within a bench's time."""
        artifacts, place = 10_000, self.folder / "catalog-large"
        run_in(ROOT, *script("scale_catalog"), "make", place, artifacts)
        for command in ("ls", "show", "calls"):
            seconds = [run_in(ROOT, *script("scale_catalog"), command, place, artifacts).out for _ in range(4)]
            taken = [float(re.findall(r": ([\d.]+) s", out)[-1]) for out in seconds[1:]]  # the first builds the catalog
            yield Line(f"`{command}`, whole command", f"{artifacts:,} artifacts", "s", None, statistics.median(taken))

    def grow_first(self, ask: Callable[[str, Path, str], float]) -> Callable[[str, Path], float]:
        def work(name: str, tree: Path) -> float:
            ask(name, tree, "grow")
            return ask(name, tree, "rebuild-again")

        return work

    def lookups(self) -> Iterator[Line]:
        answers = 100_000
        most_segments = 8 if self.small else 400
        misses: dict[int, tuple[float, float]] = {}
        for segments in (1, most_segments):
            memory: dict[str, float] = {}

            def ask(name: str, tree: Path, segments: int = segments, memory: dict[str, float] = memory) -> float:
                place = self.folder / f"lookups-{name}-{segments}"
                report = json.loads(run_in(tree, *script("scale_calls"), "lookups", place, segments, answers).out)
                memory[name] = report["bytes_an_answer"]
                return float(report["miss_us"])

            misses[segments] = self.pairs(ask)
            size = f"{segments} x {answers:,} answers"
            yield Line("a look-up that finds nothing", size, "us", *misses[segments])
        yield Line("memory of a worker's look-ups", size, "B/answer", memory["before"], memory["now"])
        before, now = (misses[most_segments][n] / misses[1][n] for n in (0, 1))
        yield Line(f"... {most_segments} segments over one", "", "times", before, now)
        for segments, answers in ((1, 20_000), (4 if self.small else 8, 100_000)):

            def replay(name: str, tree: Path, segments: int = segments, answers: int = answers) -> float:
                place = self.folder / f"replay-{name}-{segments}"
                report = json.loads(run_in(tree, *script("scale_calls"), "replay", place, segments, answers).out)
                return float(report["answers_per_s"])

            size = f"{segments} x {answers:,} answers"
            yield Line("replay of stored answers", size, "1/s", *self.pairs(replay), more_is_better=True)

    def nothing_to_do(self) -> Iterator[Line]:
        """A run of pools with long answers, which asks nobody; then the same command again."""
        pools = 500 if self.small else 6_000
        text = self.folder / "pools.jsonl"
        with text.open("w") as file:
            for n in range(pools):
                answers = [os.urandom(15_000).hex() for _ in range(2)]
                file.write(json.dumps({"prompt": f"question {n}", "answers": answers, "rewards": [0, 1]}) + "\n")
        command = [
            sys.executable,
            "-m",
            "synthmill.flows.cli",
            "run",
            "preferences",
            "--set",
            f"source={text}",
            "--workers",
            0,
        ]
        command += [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={json.dumps(value)}")]

        for name, tree in self.trees.items():
            run_in(tree, *command, cwd=self.place(name))
        run_in(self.trees["now"], *command, cwd=self.place("now"))  # the first check reads and notes every file
        held = sum(path.stat().st_size for path in (self.place("now") / "store" / "parts").rglob("*.parquet"))
        size = f"{held / 1e9:.1f} GB"

        def again(name: str, tree: Path) -> float:
            return run_in(tree, *command, cwd=self.place(name)).seconds

        def find_out(name: str, tree: Path) -> float:
            """Seconds to find out that all is made, twice, as a command does, without its start."""
            settings = json.dumps({"source": str(text), **SETTINGS})
            return float(run_in(tree, sys.executable, "-c", LOOK, settings, cwd=self.place(name)).out.split()[-1])

        yield Line("a run with nothing to do, whole command", size, "s", *self.pairs(again))
        yield Line("... finding that out", size, "s", *self.pairs(find_out))

    def place(self, name: str) -> Path:
        folder = self.folder / f"nothing-{name}"
        folder.mkdir(exist_ok=True)
        return folder

    def datasets(self) -> Iterator[Line]:
        """Of this tree only: version 0.1 held all pairs in memory, 10 GB and more, in functions of other names."""
        for rows in (20_000,) if self.small else (200_000, 1_000_000):
            place = self.folder / f"datasets-{rows}"
            place.mkdir()
            run_in(self.trees["now"], *script("scale_datasets"), "--here", "make", rows, "--folder", place)
            for step in ("write", "export", "report"):
                run = run_in(self.trees["now"], *script("scale_datasets"), "--here", step, rows, "--folder", place)
                yield Line(f"memory to {step} pairs", f"{rows:,} of 2 KB", "MiB", None, run.peak_mib)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", default=OLD)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=PARTS)
    options = parser.parse_args()
    print("| what | size | unit | before | now | now / before |\n|---|---|---|---:|---:|---:|", flush=True)
    with old_tree(options.old) as tree:
        for part in options.only:
            if options.small and part == "larger_catalog":
                continue
            folder = Path(tempfile.mkdtemp(prefix="scale-"))
            try:
                scale = Scale({"before": tree, "now": ROOT}, folder, options.repeats, options.small)
                for line in getattr(scale, part)():
                    print("| " + " | ".join(line.cells()) + " |", flush=True)
            finally:
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
