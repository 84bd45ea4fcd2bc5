"""No process is left behind: whatever this one started dies with it, even when it is killed with -9.

A small watcher, in a session of its own, waits for this process to end and then kills every process that carries our
mark in its environment (Ray's agents outlive a killed driver by a minute otherwise). Linux only; elsewhere this module
does nothing.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

MARK = "SYNTHMILL_GUARD"

WATCH = """
import os, select, signal, sys, time
owner, mark = int(sys.argv[1]), sys.argv[2].encode()
def marked():
    pids = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (os.getpid(), owner):
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if mark in file.read() and open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[0] != "Z":
                        pids.append(int(name))
            except OSError:
                pass
    return pids
if os.getppid() == owner:
    poll = select.poll()
    poll.register(os.pidfd_open(owner), select.POLLIN)
    poll.poll()
quiet = 0
until = time.monotonic() + 20
while quiet < 3 and time.monotonic() < until:
    pids = marked()
    quiet = 0 if pids else quiet + 1
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    time.sleep(0.1)
"""


@contextmanager
def guarded() -> Iterator[None]:
    """Mark every process that is started in this context; enter it before starting any. What the user starts
    afterwards, in a notebook say, carries no mark. Marked processes still die when this one ends.
    """
    if not hasattr(os, "pidfd_open") or not Path("/proc/self/environ").exists() or is_guarded():
        yield
        return
    before = os.environ.get(MARK)
    os.environ[MARK] = watched_mark(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(MARK, None)
        if before is not None:
            os.environ[MARK] = before


@cache
def watched_mark(pid: int) -> str:
    """This process's mark; the first call starts the watcher."""
    mark = f"{pid}:{secrets.token_hex(8)}"
    subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", WATCH, str(pid), f"{MARK}={mark}"],
        env={name: value for name, value in os.environ.items() if name != MARK},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return mark


def is_guarded() -> bool:
    """Whether this very process has a watcher; a mark that it inherited belongs to its parent's."""
    return os.environ.get(MARK, "").partition(":")[0] == str(os.getpid())
