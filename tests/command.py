"""Run the command line as users do: a process of its own, in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def environment(home: Path, **more: str) -> dict[str, str]:
    """What the command sees: no key, no server, and Prefect's own folder inside the test's."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PREFECT_", "SYNTHMILL_"))
    }
    return {**kept, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(home / "prefect"), "COLUMNS": "160", **more}


def start(*arguments: Any, cwd: Path, **more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        cwd=cwd,
        env=environment(cwd, **more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def synthmill(*arguments: Any, cwd: Path, expect: int = 0, **more: str) -> tuple[str, str]:
    """(stdout, stderr) of a command that ends with the expected exit code."""
    process = start(*arguments, cwd=cwd, **more)
    out, err = process.communicate(timeout=240)
    assert process.returncode == expect, f"exit {process.returncode}, expected {expect}\n{out}\n{err}"
    return out, err
