"""The attempts at one request: how often it was tried, when the next one goes out, and when to give up."""

import time

from synthmill.tasks.engines.transport import NO_ANSWER, Headers
from synthmill.tasks.engines.waits import backoff, pause_s, wait_s

TIMEOUT_RETRIES = 2  # a request that times out three times, while others are answered, would do so again
BUSY = (429, 503, 529)


class Attempts:
    """How often one request was tried, and whether it is time to give up."""

    def __init__(self, retries: int) -> None:
        self.retries = retries
        self.waits = self.failures = self.timeouts = 0
        self.failing_since = 0.0

    def pause_after(self, status: int, data: bytes, headers: Headers) -> float | None:
        """Count a failed attempt; returns the seconds until the next one, or None where no retry changes anything."""
        self.failing_since = self.failing_since or time.monotonic()
        told_s = wait_s(headers) if headers else None
        if status in BUSY:
            self.waits += 1
            return pause_s(self.waits, told_s)
        if status in (0, 200, 408, 409, 425) or 500 <= status < 600:
            self.failures += 1
            self.timeouts += status == 0 and data.startswith(NO_ANSWER)
            return max(told_s or 0.0, backoff(self.failures))
        return None

    @property
    def exhausted(self) -> bool:
        too_often = self.waits > self.retries * 4 or self.failures > self.retries
        return too_often or self.timeouts > TIMEOUT_RETRIES

    def __str__(self) -> str:
        return f"{self.failures + self.waits} attempts in {time.monotonic() - self.failing_since:.0f} s"
