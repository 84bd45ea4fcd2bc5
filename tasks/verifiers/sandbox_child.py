"""Runs an answer's code and its tests under limits: `python -I sandbox_child.py`, one JSON job on stdin.

A process of its own (sandbox.py starts it), which imports nothing of the project. It closes what the kernel lets it
close (network, processes, files), forks, and lets the child run the answer; the report goes to a pipe of its own.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
PDEATHSIG, NO_NEW_PRIVS = 1, 38
LINUX = sys.platform == "linux"
OVER = 99  # the exit code of a program that took too much memory
FILE_MB, FOLDER_MB, MOST_FILES, MOST_OPEN = 16, 64, 4096, 64
READS, FILE_RIGHTS = 0b1101, 0b1100000000000111
"""Landlock's rights: execute, read a file, list a folder; and those that a single file can have."""
RIGHTS_BY_ABI = (0, 13, 14, 15, 15, 16)
NO_VERDICT = ("timed_out", "memory_over", "output_over", "killed")
"""Limits that were met: whether the tests would pass is not known."""
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/random")


def main() -> None:
    """Three processes: this one waits; its child is the first of its namespace, and reports; that one's children run
    what the answer wrote, and cannot reach the report.
    """
    job = json.loads(sys.stdin.buffer.read())
    os.chdir(job["folder"])
    set_limits(job)
    closed = close_what_can_be(job["folder"])
    if child := os.fork():
        os.waitpid(child, 0)
        return
    if LINUX:
        LIBC.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        closed += ["files"] if allow_paths(job["folder"]) else []
        LIBC.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
    faults = run_cases(job) if job["cases"] else run_tests(job)
    os.write(job["report_fd"], json.dumps({"faults": faults, "closed": closed}).encode())


def set_limits(job: dict[str, Any]) -> None:
    memory, file_bytes, seconds = job["memory_mb"] << 20, FILE_MB << 20, max(1, int(job["timeout_s"] + 0.999))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_OPEN, MOST_OPEN))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it


def close_what_can_be(folder: str) -> list[str]:
    """Namespaces of its own for network, processes and mounts, as far as the kernel gives them: what was closed."""
    if not LINUX:
        return []
    user, group = os.getuid(), os.getgid()
    if LIBC.unshare(NEWUSER | NEWNET | NEWPID | NEWIPC | NEWNS):
        return ["network"] if LIBC.unshare(NEWUSER | NEWNET) == 0 else []
    closed = ["network", "processes"]
    with suppress(OSError):
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"{user} {user} 1")
        write("/proc/self/gid_map", f"{group} {group} 1")
        size = f"size={FOLDER_MB}m,nr_inodes={MOST_FILES},mode=0700".encode()
        private = LIBC.mount(b"none", b"/", None, (1 << 14) | (1 << 18), None) == 0  # recursive, private
        if private and LIBC.mount(b"tmpfs", folder.encode(), b"tmpfs", 6, size) == 0:  # no devices, no set-uid
            os.chdir(folder)
            closed.append("disk")
    return closed


def write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123
        file.write(text)


def allow_paths(folder: str) -> bool:
    """Landlock: reads only of Python and the system's libraries, writes only in the folder, no TCP."""
    abi = LIBC.syscall(444, None, 0, 1)
    if abi < 1 or LIBC.prctl(NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    rights = (1 << RIGHTS_BY_ABI[min(abi, len(RIGHTS_BY_ABI) - 1)]) - 1
    handled = (ctypes.c_uint64 * 3)(rights, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    ruleset = LIBC.syscall(444, handled, 24 if abi >= 6 else 16 if abi >= 4 else 8, 0)
    readable = {*SYSTEM, sys.prefix, sys.base_prefix, *sys.path, str(Path(sys.executable).resolve().parent)}
    rules = [(path, READS) for path in readable] + [(folder, rights), ("/dev/null", rights)]
    for path, allowed in rules:
        with suppress(OSError):
            place = os.open(path, os.O_PATH)
            allowed &= rights if Path(path).is_dir() else FILE_RIGHTS & rights
            LIBC.syscall(445, ruleset, 1, PathRule(allowed, place), 0)
            os.close(place)
    return ruleset >= 0 and bool(LIBC.syscall(446, ruleset, 0) == 0)


def PathRule(allowed: int, place: int) -> Any:
    return ctypes.create_string_buffer(allowed.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder), 12)


def run_tests(job: dict[str, Any]) -> list[str]:
    """The answer, then every test in its names: a fault per test, empty for one that passes."""
    results = os.memfd_create("results") if LINUX else os.open("results", os.O_RDWR | os.O_CREAT, 0o600)
    child = os.fork()
    if not child:
        os.close(job["report_fd"])
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        names: dict[str, Any] = {"__name__": "__main__"}
        fault = attempt(job["code"], "answer", names)
        faults = [fault or attempt(test, f"test {number}", names) for number, test in enumerate(job["tests"], 1)]
        os.write(results, job["nonce"].encode() + json.dumps(faults).encode())
        os._exit(0)
    if fault := ending(os.waitpid(child, 0)[1]):
        return [fault] * len(job["tests"])
    size = os.fstat(results).st_size
    nonce, _, written = os.pread(results, min(size, 1 << 20), 0).partition(job["nonce"].encode())
    forged = nonce or not written or size > 1 << 20
    return ["forged_or_missing_results"] * len(job["tests"]) if forged else list(json.loads(written))


def attempt(code: str, name: str, names: dict[str, Any]) -> str:
    """What running the code raised; empty for nothing."""
    try:
        exec(compile(code, name, "exec"), names)
    except MemoryError:
        return "memory_over"
    except BaseException as error:  # an answer may raise SystemExit
        with suppress(BaseException):
            return f"{type(error).__name__}: {error}"[:200]
        return type(error).__name__
    return ""


def ending(status: int) -> str:
    """How a child ended that did not end well; empty for one that did."""
    number = os.waitstatus_to_exitcode(status)
    over = dict(zip((-signal.SIGXCPU, OVER, -signal.SIGXFSZ, -signal.SIGKILL), NO_VERDICT, strict=True))
    name = signal.Signals(-number).name if number < 0 else f"exit code {number}"
    return over.get(number, f"crashed: {name}") if number else ""


def run_cases(job: dict[str, Any]) -> list[str]:
    """The answer as a program, once for each input: what is wrong with what it prints, empty for nothing."""
    faults: list[str] = []
    for case in job["cases"]:
        write("stdin", case["input"])
        child = os.fork()
        if not child:
            os.close(job["report_fd"])
            run_program(job["code"])
        if (fault := ending(os.waitpid(child, 0)[1])) in NO_VERDICT:
            return [fault]
        with open("stdout", errors="replace") as file:  # noqa: PTH123
            printed = file.read()
        differs = in_lines(printed) != in_lines(case["output"])
        faults.append(fault or (f"printed {printed[:100]!r}" if differs else ""))
    return faults


def run_program(code: str) -> None:
    """In a forked child: never returns."""
    for number, name, mode in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        os.dup2(os.open(name, mode, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    status = 0
    try:
        exec(compile(code, "answer", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except MemoryError:
        status = OVER
    except BaseException:
        status = 1
    with suppress(BaseException):
        sys.stdout.flush()
    os._exit(status & 255)


def in_lines(text: str) -> list[str]:
    """Lines without the spaces at their ends, and without empty ones at the end of all."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


if __name__ == "__main__":
    main()
