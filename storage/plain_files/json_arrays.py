"""The members of a JSON array, one at a time, so that a file may be larger than memory."""

import io
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from synthmill.schemas.texts import DECODER, loads

BLOCK = 1 << 20  # characters
NUMERIC = ("", *"+-.0123456789eE")
BETWEEN = re.compile(r"[ \t\n\r]*")


class ArrayReader:
    """Reads one JSON document from a file of bytes. Raises ValueError where it is no JSON."""

    def __init__(self, file: IO[bytes]) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        self._buffer, self._at, self._ended = "", 0, False

    def members(self) -> Iterator[Any]:
        """The array's members; a document that is no array is its own only member, as `Whole`."""
        if self._next() != "[":
            yield Whole(self._value())
        else:
            self._at += 1
            while self._next() != "]":
                yield self._value()
                if self._next() == ",":
                    self._at += 1
                    if self._next() == "]":
                        raise ValueError(f"a comma before the array's end, after {self._buffer[: self._at][-40:]!r}")
                elif self._next() != "]":
                    raise ValueError(f"no comma before {self._buffer[self._at : self._at + 40]!r}")
            self._at += 1
        if self._next():
            raise ValueError(f"more after the document's end: {self._buffer[self._at : self._at + 40]!r}")

    def _next(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            self._at = BETWEEN.match(self._buffer, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at : self._at + 1]

    def _value(self) -> Any:
        """The value that begins here."""
        self._next()
        while True:
            try:
                _, end = DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            if self._buffer[end : end + 1] in NUMERIC and self._more():  # a number may go on
                continue
            start, self._at = self._at, end
            return loads(self._buffer[start:end])  # as a line of JSONL is read

    def _more(self) -> bool:
        """Read on; at least as much as is waiting, so that a long value is not tried again for every block."""
        if self._ended:
            return False
        waiting = self._buffer[self._at :]
        block = self._text.read(max(BLOCK, len(waiting)))
        self._buffer, self._at, self._ended = waiting + block, 0, not block
        return bool(block)


class Whole:
    """A document that is no array."""

    def __init__(self, value: Any) -> None:
        self.value = value
