"""Run the command line as users do, in a folder of its own.

A command runs in this process, which has everything loaded already. It gets a process of its own where a test starts
one, or looks at what only a process has: its environment, and what it leaves behind.

Flows run without Prefect, but in tests with the mark `prefect`. Those share one server, which the first of them starts:
a server of its own takes ten seconds. Tests of what a run leaves behind, and of what it writes, have `own_prefect`.
"""

import atexit
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
SHARED_PREFECT = True
UNDER_PREFECT = False


@cache
def prefect_url() -> str:
    """The address of the server that tests share; the server ends with this process."""
    from prefect.settings import PREFECT_API_URL

    from synthmill.flows.serving.server import prefect_server

    until_exit = ExitStack()
    home = until_exit.enter_context(TemporaryDirectory(prefix="prefect-"))
    with patch.dict(os.environ, {"PREFECT_HOME": home}):
        until_exit.enter_context(prefect_server())
    atexit.register(until_exit.close)
    return str(PREFECT_API_URL.value())


def environment(home: Path, **variables: str) -> dict[str, str]:
    """The command's environment: no key, no server, and Prefect's own folder inside the test's."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PREFECT_", "SYNTHMILL_"))
    }
    return {**inherited, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(home / "prefect"), "COLUMNS": "160", **variables}


def needs_server(arguments: Sequence[Any]) -> bool:
    return arguments[0] == "run" and "--no-prefect" not in arguments


def whole(arguments: Sequence[Any]) -> list[str]:
    """A command as it is run here: a flow without Prefect, where the test is not about it."""
    return [*map(str, arguments), *(["--no-prefect"] if needs_server(arguments) and not UNDER_PREFECT else [])]


def start(*command: Any, cwd: Path, **variables: str) -> "subprocess.Popen[str]":
    arguments = whole(command)
    shared = {"PREFECT_API_URL": prefect_url()} if SHARED_PREFECT and needs_server(arguments) else {}
    return subprocess.Popen(
        [sys.executable, "-m", "synthmill.flows.cli", *arguments],
        cwd=cwd,
        env=environment(cwd, **shared, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def synthmill(
    *arguments: Any, cwd: Path, expect: int = 0, apart: bool | None = None, **variables: str
) -> tuple[str, str]:
    """(stdout, stderr) of a command that ends with the expected exit code. apart: in a process of its own; by default
    only where flows have a Prefect server of their own.
    """
    if variables or (not SHARED_PREFECT if apart is None else apart):
        process = start(*arguments, cwd=cwd, **variables)
        out, err = process.communicate(timeout=240)
        code = process.returncode
    else:
        code, out, err = run_in_process(whole(arguments), cwd)
    assert code == expect, f"exit {code}, expected {expect}\n{out}\n{err}"
    return out, err


def run_in_process(arguments: list[str], cwd: Path) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in this process."""
    from synthmill.flows.cli import run_command

    out, err = StringIO(), StringIO()
    with ExitStack() as contexts:
        contexts.enter_context(patch.dict(os.environ, environment(cwd), clear=True))
        if needs_server(arguments):
            from prefect.settings import PREFECT_API_URL, temporary_settings

            contexts.enter_context(temporary_settings({PREFECT_API_URL: prefect_url()}))
        contexts.enter_context(chdir(cwd))
        contexts.enter_context(redirect_stdout(out))
        contexts.enter_context(redirect_stderr(err))
        code = run_command(arguments)
    return code, out.getvalue(), err.getvalue()
