"""Content hashes: the one way in which synthmill names things by what they are."""

from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

BLOCK = 1 << 20


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
    """Hash a whole file (about 1 GB/s); blocks are read so that memory stays small."""
    seen = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            seen.update(block)
    return seen.hexdigest()


def file_fingerprint(path: Path, samples: int = 64) -> str:
    """Identify a large file by its size and `samples` evenly spaced 64 KB blocks, first and last included."""
    size = path.stat().st_size
    seen = blake2b(str(size).encode(), digest_size=8)
    with path.open("rb") as file:
        for n in range(samples):
            file.seek(max(0, (size - (1 << 16)) * n // (samples - 1)))
            seen.update(file.read(1 << 16))
    return seen.hexdigest()
