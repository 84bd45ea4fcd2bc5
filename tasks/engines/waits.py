"""When to come back: what servers say of it in headers, our own back-off, and who waits at the moment.

`wait_s` reads Retry-After (seconds or an HTTP date), retry-after-ms, x-ratelimit-reset-requests and -tokens (1s, 6m0s,
120ms, seconds, an epoch), and anthropic-ratelimit-*-reset (RFC 3339).
"""

import math
import random
import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Protocol, runtime_checkable

from synthmill.schemas.progress import Waiting

BACKOFF_S, MOST_BACKOFF_S = 0.5, 60.0
MOST_WAIT_S = 600.0
EPOCH_FROM = 1e9  # a number from here on is a time, not a duration; from 1e12 on in milliseconds
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
COUNTED = ("requests", "tokens", "input-tokens", "output-tokens")
NAMES = tuple(
    (f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}") for what in ("requests", "tokens")
) + tuple((f"anthropic-ratelimit-{what}-remaining", f"anthropic-ratelimit-{what}-reset") for what in COUNTED)


def wait_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds until a server wants to be asked again, ten minutes at most; None where it does not say.

    headers: names in lower case. now: seconds since 1970. Of several limits, those count that have nothing left (or do
    not say what is left), and of these the last to return.
    """
    now = time.time() if now is None else now
    if (milliseconds := number_in(headers.get("retry-after-ms", ""))) is not None:
        return bounded(milliseconds / 1000)
    if (seconds := moment_s(headers.get("retry-after", ""), now)) is not None:
        return bounded(seconds)
    resets = []
    for remaining, reset in NAMES:
        left = number_in(headers.get(remaining, ""))
        seconds = moment_s(headers.get(reset, ""), now)
        if seconds is not None and (left is None or left < 1):
            resets.append(seconds)
    return bounded(max(resets)) if resets else None


def moment_s(text: str, now: float) -> float | None:
    """Seconds from now on to what a header says: a duration, an epoch, an HTTP date or RFC 3339; None for none."""
    text = text.strip()
    if not text:
        return None
    if (number := number_in(text)) is not None:
        if number >= EPOCH_FROM * 1000:
            return number / 1000 - now
        return number - now if number >= EPOCH_FROM else number
    if "".join(match[0] for match in DURATION.finditer(text)) == text:
        return sum(float(amount) * UNITS_S[unit] for amount, unit in DURATION.findall(text))
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(text)
        except ValueError:
            continue
        return moment.timestamp() - now if moment.tzinfo else None
    return None


def number_in(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def bounded(seconds: float) -> float:
    return min(max(0.0, seconds), MOST_WAIT_S)


def backoff(attempt: int) -> float:
    return min(MOST_BACKOFF_S, BACKOFF_S * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.5)


def pause_s(attempt: int, told_s: float | None) -> float:
    """How long to wait before the next attempt: never shorter than told, and not all requests equally long."""
    return backoff(attempt) if told_s is None else told_s * random.uniform(1, 1.25) + BACKOFF_S / 10


class Waits:
    """The requests of an engine that wait between two attempts: how many, until when, and for which reason."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}
        self._numbers = count()
        self.reason = ""

    def begin(self, seconds: float, reason: str) -> int:
        """Note a wait; returns its number, for `end`."""
        number = next(self._numbers)
        self._until[number] = time.time() + seconds
        self.reason = reason
        return number

    def end(self, number: int) -> None:
        self._until.pop(number, None)

    def summary(self) -> Waiting | None:
        if not self._until:
            return None
        return Waiting(requests=len(self._until), until=max(self._until.values()), reason=self.reason)


@runtime_checkable
class Waiter(Protocol):
    """An engine that says who waits."""

    name: str
    waits: Waits


def waiting_at(engines: Iterable[object]) -> dict[str, Waiting]:
    """Who waits at which engine, by its name."""
    waiters = (engine for engine in engines if isinstance(engine, Waiter))
    summaries = ((waiter.name, waiter.waits.summary()) for waiter in waiters)
    return {name: summary for name, summary in summaries if summary}
