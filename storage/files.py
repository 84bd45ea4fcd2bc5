"""Writing files so that a reader, after a crash or a power cut, sees the whole file or none of it."""

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

import orjson

from synthmill.schemas.errors import StoreError

ABANDONED_S = 24 * 3600


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then fsync, rename, and fsync the folder.

    Raises StoreError when the store cannot be written.
    """

    def fill(temporary: Path) -> Path:
        write(temporary)
        return path

    write_then_name(path, fill)


def write_then_name(near: Path, write: Callable[[Path], Path]) -> Path:
    """As write_atomically, for a file whose name depends on its content: `write` fills the temporary file, which lies
    beside `near`, and returns the final path.
    """
    temporary = near.with_name(f".{near.name}.{secrets.token_hex(6)}.tmp")
    try:
        near.parent.mkdir(parents=True, exist_ok=True)
        path = write(temporary)
        sync(temporary)
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        raise StoreError(
            f"cannot write {near}: {error.strerror or error}; free space or choose another --store"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return path


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    write_bytes(path, data)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomically(path, write)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file atomically."""
    write_bytes(path, text.encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of the store; raises StoreError for a damaged or foreign file."""
    try:
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing; run the same command again to make it anew") from error
    except (ValueError, OSError) as error:
        raise StoreError(
            f"{path} is damaged ({error}); delete it and run the same command again, nothing is asked twice"
        ) from error
    if not isinstance(value, dict):
        raise StoreError(
            f"{path} is not a synthmill file: expected a JSON object, found {type(value).__name__}; move it away"
        )
    return value


@contextmanager
def scratch_folder(folder: Path, purpose: str) -> Iterator[Path]:
    """A temporary folder in `folder`, deleted afterwards, with those that killed processes left over a day ago."""
    for abandoned in folder.glob(f".{escape(purpose)}.*.tmp"):
        if time.time() - abandoned.stat().st_mtime > ABANDONED_S:
            shutil.rmtree(abandoned, ignore_errors=True)
    temporary = folder / f".{purpose}.{secrets.token_hex(6)}.tmp"
    try:
        temporary.mkdir(parents=True)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path, waiting: Callable[[], None], every_s: float = 0.5) -> Iterator[None]:
    """Hold a lock between processes; the kernel frees that of a dead process. waiting: called every `every_s` seconds
    while another process holds it; it may raise. Raises StoreError.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}; see to that, then run it again") from error
        with file:
            while not try_lock(file):
                waiting()
                time.sleep(every_s)
            if same_file(path, file):  # else `sweep_lock` has deleted it meanwhile
                yield
                return


def try_lock(file: Any) -> bool:
    """Try to lock an open file; returns whether we hold the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def same_file(path: Path, file: Any) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def sweep_lock(path: Path) -> None:
    """Delete a lock's file, unless a process holds the lock."""
    with suppress(OSError), path.open("a") as file:
        if try_lock(file):
            path.unlink()


def sync(path: Path) -> None:
    """Make a file's content, or a folder's renames, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
