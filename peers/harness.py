"""Runs one contestant's command against the chat server and measures its whole tree of processes.

CPU seconds are those of every process that the command started, orphans included: this process is their reaper
(PR_SET_CHILD_SUBREAPER), so the kernel adds them up; where a parent ignores its children's ends (Ray's does), the sum
of what was last seen of each. Memory is the largest sum of proportional set sizes, sampled four
times a second. Requests and their times are the server's own (`/stats` of bench/chat_server.py).
"""

import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from bench.dedup import cpu_of, family, private_of

SUBREAPER = 36
SAMPLE_S, LOOK_S, AFTER_KILL_S, ENDING_S = 0.25, 0.01, 2.0, 5.0


class Figures(NamedTuple):
    """What was measured of one command."""

    wall_s: float
    """From its start to its end."""
    first_s: float
    """From its start to its first request; 0 without one."""
    asking_s: float
    """From the first request to the last answer."""
    cpu_s: float
    memory_mib: float
    exit_code: int
    timed_out: bool
    remaining: int
    """Processes that were still there two seconds after a kill -9 of the command."""
    in_flight: int
    """Requests in flight at the kill."""


class Server(NamedTuple):
    """The chat server's address and process."""

    url: str
    """Ends in /v1."""
    pid: int

    def stats(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.root}/stats").json())

    def set(self, **settings: object) -> None:
        httpx.post(f"{self.root}/set", params={name: str(value) for name, value in settings.items()}).raise_for_status()

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")


def become_reaper() -> None:
    """Have orphans below this process become its children, so that their CPU seconds are counted."""
    if ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def measure(
    command: Sequence[str],
    variables: Mapping[str, str],
    folder: Path,
    server: Server,
    limit_s: float,
    kill_at: int = 0,
) -> Figures:
    """Run a command in a folder, its output in log.txt. kill_at: kill -9 it at so many requests."""
    cpu_before = cpu_of_children()
    with (folder / "log.txt").open("a") as log:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env=dict(variables), stdout=log, stderr=log)
    cpu: dict[int, float] = {}
    memory, sampled, timed_out, killed, remaining, in_flight = 0.0, 0.0, False, False, 0, 0
    while process.poll() is None:
        now = time.monotonic()
        if now - sampled >= SAMPLE_S:
            sampled = now
            pids = tree(server)
            memory = max(memory, sum(map(private_of, pids)) / 2**20)
            cpu |= {pid: max(cpu_of(pid), cpu.get(pid, 0.0)) for pid in pids}
        if kill_at and (stats := server.stats())["total"] >= kill_at:
            process.kill()
            killed, in_flight = True, int(stats["in_flight"])
        elif now - started > limit_s:
            timed_out = True
            process.kill()
        time.sleep(LOOK_S)
    wall = time.monotonic() - started
    if killed:
        time.sleep(AFTER_KILL_S)
        remaining = len(tree(server))
    end_orphans(server, 0 if killed or timed_out else ENDING_S)
    stats = server.stats()
    return Figures(
        wall_s=wall,
        first_s=max(0.0, stats["first_s"] - started),
        asking_s=max(0.0, stats["last_s"] - max(started, stats["first_s"])),
        cpu_s=max(cpu_of_children() - cpu_before, sum(cpu.values())),
        memory_mib=memory,
        exit_code=process.returncode,
        timed_out=timed_out,
        remaining=remaining,
        in_flight=in_flight,
    )


def tree(server: Server) -> list[int]:
    """Processes below this one that still run, but the server."""
    return [pid for pid in family() if pid not in (os.getpid(), server.pid) and not is_zombie(pid)]


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def end_orphans(server: Server, patience_s: float) -> None:
    """Wait for what the command left behind, then kill it; reap all of it."""
    until = time.monotonic() + patience_s
    while pids := [pid for pid in family() if pid not in (os.getpid(), server.pid)]:
        for pid in pids:
            if time.monotonic() > until:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(LOOK_S)


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
