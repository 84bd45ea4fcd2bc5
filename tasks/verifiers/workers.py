"""Processes that verify answers, and are ended where one hangs.

A pipe and a process of our own: multiprocessing would run the user's script again in each of them, and its pools wait
for ever for a job whose process was killed.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from queue import Empty, SimpleQueue

from synthmill.schemas.errors import SynthmillError
from synthmill.tasks.verifiers.verifier import MEMORY_OVER, TIME_OVER, Verdict, Verifier, missing
from synthmill.tasks.verifiers.worker import SLACK

START_S = 120  # for its imports, on a busy machine
GRACE_S = 5
SEEN_DEAD_S = 0.5
MODULE = "synthmill.tasks.verifiers.worker"
idle: SimpleQueue["Worker"] = SimpleQueue()


class Worker:
    """One process, used by one thread at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if self.reply(START_S) is None:
            self.end()
            raise SynthmillError(f"the process that verifies answers did not start; try: {sys.executable} -m {MODULE}")

    def verdict(self, verifier: Verifier, answer: str, reference: str) -> Verdict | None:
        """A verdict; None where the process has ended, or must be."""
        assert self.process.stdin
        line = json.dumps((verifier.model_dump_json(), answer, reference)).encode() + b"\n"
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except OSError:
            return None
        reply = self.reply(SLACK * verifier.timeout_s + GRACE_S)
        return Verdict(*json.loads(reply)) if reply else None

    def reply(self, within_s: float) -> bytes | None:
        """The next line; None where there is none in this time."""
        assert self.process.stdout
        poll = select.poll()  # select() itself refuses descriptors from 1,024 on
        poll.register(self.process.stdout, select.POLLIN)
        readable = poll.poll(within_s * 1000)
        return (self.process.stdout.readline() or None) if readable else None

    def end(self, patience_s: float = 0) -> int | None:
        """Ends the process: how it had ended before, as subprocess has it; None where it had to be killed."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_s)
        status = self.process.poll()
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        return status


def isolated_verdict(verifier: Verifier, answer: str, reference: str) -> Verdict:
    """The verdict of a process of its own; missing where it takes too long, too much memory, or dies."""
    while True:
        worker = idle_worker() or Worker()
        try:
            verdict = worker.verdict(verifier, answer, reference)
        except BaseException:  # Ctrl-C: a reply may be on its way
            worker.end()
            raise
        if verdict is not None:
            idle.put(worker)
            return verdict
        status = worker.end(SEEN_DEAD_S)
        if status != 0:  # else it went when it had waited long enough, just before
            return missing(why_ended(status, verifier.timeout_s))


def why_ended(status: int | None, timeout_s: float) -> str:
    if status in (None, -signal.SIGPROF, -signal.SIGALRM):
        return f"{TIME_OVER}: over {timeout_s:g} s"
    if status == -signal.SIGKILL:
        return f"{MEMORY_OVER}: the process was killed"
    assert status is not None
    return f"verifier_died: {signal.Signals(-status).name if status < 0 else f'exit code {status}'}"


def idle_worker() -> Worker | None:
    """A process that waits for work; None where there is none."""
    while True:
        try:
            worker = idle.get_nowait()
        except Empty:
            return None
        if worker.process.poll() is None:
            return worker
        worker.end()


def end_idle() -> None:
    while worker := idle_worker():
        worker.end()


def forget_idle() -> None:
    """In a forked child, whose parent goes on using them."""
    global idle
    idle = SimpleQueue()


atexit.register(end_idle)
os.register_at_fork(after_in_child=forget_idle)
