"""A script that starts a model of ours needs no main guard, and what it imports stays out of the model's processes."""

import subprocess
import sys
from pathlib import Path

from tests.command import environment

SCRIPT = """
import multiprocessing
import sys

import numba  # a child that has it is one in which vLLM's CPU worker does not start
from synthmill.tasks.engines.spawning import without_main

print("the script runs")
before = __file__, __spec__
with without_main():
    look = "import sys; print('numba' in sys.modules)"
    child = multiprocessing.get_context("spawn").Process(target=exec, args=(look,))
    child.start()
    child.join()
assert (__file__, __spec__) == before
"""


def test_a_spawned_process_does_not_run_the_script_again(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["the script runs", "False"], done.stderr
