"""An answer's code, run with its tests in a process under limits.

docs/verifiers.md says what the limits hold, and what they are no protection against.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import NamedTuple

from synthmill.tasks.verifiers.sandbox_child import NO_VERDICT
from synthmill.tasks.verifiers.verifier import TIME_OVER

CHILD = Path(__file__).with_name("sandbox_child.py")
WALL = 3
"""How much longer than its processor time it may take by the clock, on a machine that does other work."""
START_S = 5


class Ran(NamedTuple):
    """faults: per test or case what went wrong, empty where nothing did; None where it did not end. reason: why not.
    closed: what the kernel closed: network, processes, disk, files.
    """

    faults: Sequence[str] | None
    reason: str = ""
    closed: Sequence[str] = ()


def run(code: str, tests: Sequence[str], cases: Sequence[Mapping[str, str]], timeout_s: float, memory_mb: int) -> Ran:
    """Run code, then every test in its names; or, with cases, as a program whose output is compared."""
    with TemporaryDirectory(prefix="synthmill-code-") as folder, TemporaryFile() as report:
        job = {"code": code, "tests": tests, "cases": cases, "timeout_s": timeout_s, "memory_mb": memory_mb}
        job |= {"folder": folder, "nonce": secrets.token_hex(16), "report_fd": report.fileno()}
        process = subprocess.Popen(
            [sys.executable, "-I", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(report.fileno(),),
            start_new_session=True,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"},
        )
        try:
            process.communicate(json.dumps(job).encode(), timeout=WALL * timeout_s + START_S)
        except subprocess.TimeoutExpired:
            return Ran(None, f"{TIME_OVER}: over {timeout_s:g} s")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        report.seek(0)
        written = report.read()
    if not written:
        return Ran(None, "sandbox_error: the process that runs tests ended before it could report")
    return outcome_of(json.loads(written), timeout_s)


def outcome_of(report: Mapping[str, Sequence[str]], timeout_s: float) -> Ran:
    """What was reported; a test that went beyond a limit is no test that failed."""
    faults, closed = report["faults"], report["closed"]
    over = next((name for name in NO_VERDICT if name in faults), "")
    if over:
        return Ran(None, over + (f": over {timeout_s:g} s" if over == TIME_OVER else ""), closed)
    return Ran(faults, "", closed)
