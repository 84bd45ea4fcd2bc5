"""Content hashes: the one way in which synthmill names things by what they are."""

import time
from hashlib import blake2b
from io import RawIOBase
from pathlib import Path
from typing import Any

import orjson

BLOCK = 1 << 20
SETTLED_NS = 100_000_000


def digest(value: Any, *, size: int = 16) -> bytes:
    """Hash any JSON-like value (keys sorted) to `size` bytes."""
    return blake2b(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), digest_size=size).digest()


def content_hash(value: Any) -> str:
    """Hash any JSON-like value to 32 hexadecimal digits."""
    return digest(value).hex()


def child_id(parent_id: str, place: str | int) -> str:
    """Derive a row's id from its parent's id and its place under it: 24 hexadecimal digits."""
    return blake2b(f"{parent_id}/{place}".encode(), digest_size=12).hexdigest()


def file_checksum(path: Path) -> str:
    """Hash a whole file (about 1 GB/s), block by block, so that memory stays small. A file that this process has
    hashed and nobody has changed since is not read again.
    """
    witness = file_witness(path)
    if (cached := _checksums.get(str(path))) and cached[0] == witness:
        return cached[1]
    hasher = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    remember_checksum(path, witness, hasher.hexdigest())
    return hasher.hexdigest()


Witness = tuple[int, int, int, int]
_checksums: dict[str, tuple[Witness, str]] = {}


def file_witness(path: Path) -> Witness:
    """(size, mtime in ns, ctime in ns, inode): it changes when anybody writes to the file or replaces it."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def remember_checksum(path: Path, witness: Witness, checksum: str) -> None:
    """Cache a file's checksum for this process. A file that was written a moment ago is not cached: another write
    within a tick of the file system's clock would leave its times unchanged.
    """
    if time.time_ns() - max(witness[1], witness[2]) > SETTLED_NS:
        _checksums[str(path)] = witness, checksum


def file_fingerprint(path: Path, samples: int = 64) -> str:
    """Identify a large file by its size and `samples` evenly spaced 64 KB blocks, first and last included."""
    size = path.stat().st_size
    hasher = blake2b(str(size).encode(), digest_size=8)
    with path.open("rb") as file:
        for n in range(samples):
            file.seek(max(0, (size - (1 << 16)) * n // (samples - 1)))
            hasher.update(file.read(1 << 16))
    return hasher.hexdigest()


class HashedBytes(RawIOBase):
    """A file of which only the hash of its bytes is kept."""

    def __init__(self) -> None:
        self.digest = blake2b(digest_size=16)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)
