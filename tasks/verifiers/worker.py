"""A process that verifies answers which may hang or take all memory: `python -m synthmill.tasks.verifiers.worker`.

Reads a line of JSON per answer (verifier, answer, reference), writes a line per verdict. Its timers are the kernel's,
with their default action, which is to end the process: they hold inside of C, too, where no handler of Python's runs.
tasks/verifiers/workers.py starts it, and another one where it has ended.
"""

import json
import os
import resource
import select
import signal
import sys
from functools import lru_cache

from synthmill.tasks.verifiers.verifier import Verifier, guarded_verdict

MEMORY_BYTES = 4 << 30
IDLE_S = 60  # without work, after which it ends
SLACK = 6
"""How much longer than its processor time an answer may take by the clock, on a machine that does other work."""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no reply
    for timer in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(timer, signal.SIG_DFL)
    replies.write("\n")  # ready
    while select.select([sys.stdin], [], [], IDLE_S)[0] and (line := sys.stdin.buffer.readline()):
        settings, answer, reference = json.loads(line)
        verifier = verifier_of(settings)
        set_timers(verifier.timeout_s)
        verdict = guarded_verdict(verifier, answer, reference)
        set_timers(0)
        replies.write(json.dumps(verdict) + "\n")


def set_timers(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, SLACK * seconds)


@lru_cache(256)
def verifier_of(settings: str) -> Verifier:
    return Verifier.model_validate_json(settings)


if __name__ == "__main__":
    main()
