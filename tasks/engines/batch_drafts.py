"""Files of requests while they grow, so that no batch is held in memory."""

from pathlib import Path
from typing import Any

from synthmill.schemas.batch_settings import BatchSettings
from synthmill.schemas.hashing import content_hash
from synthmill.storage.batches import QUESTIONS, REQUESTS, Asked


class Draft:
    """One batch in the making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._requests = (folder / REQUESTS).open("wb")
        self._questions = (folder / QUESTIONS).open("wb")
        self.custom_ids: list[str] = []
        self._bytes = 0

    def has_room(self, line: bytes, limits: BatchSettings) -> bool:
        if not self.custom_ids:
            return True
        return len(self.custom_ids) < limits.requests and self._bytes + len(line) <= limits.megabytes * 1e6

    def add(self, line: bytes, asked: Asked) -> None:
        self._requests.write(line)
        self._questions.write(asked.line())
        self.custom_ids.append(asked.custom_id)
        self._bytes += len(line)

    def close(self, *named: Any) -> str:
        """End the files; returns a hash of what is asked and of `named`, whatever the order was."""
        self._requests.close()
        self._questions.close()
        return content_hash([*named, sorted(self.custom_ids)])[:16]
