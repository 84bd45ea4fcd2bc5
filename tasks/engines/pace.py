"""A pace that keeps to what a server allows a minute: learned from its headers, requests and tokens apart.

Servers say how many requests and tokens they allow (x-ratelimit-limit-*), and how many are left
(x-ratelimit-remaining-*). Requests then go out evenly spread, also within the minute, because some servers count by
the second. A refusal in spite of that, as where others use the same key, slows the pace for a while.
"""

import time
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from synthmill.tasks.engines.waits import number_in

SHARE = 0.97  # of what is allowed: clocks differ
LENIENCY_S = 0.05  # how far a request may go out before its turn, so that late ones do not cost the rate
SLOWER, RECOVERY = 0.8, 1.01
LIMITS = {
    "requests": ("x-ratelimit-limit-requests", "anthropic-ratelimit-requests-limit"),
    "tokens": ("x-ratelimit-limit-tokens", "anthropic-ratelimit-tokens-limit"),
}
LEARNED_OVER = 0.1  # weight of the latest answer in the mean of tokens


class Meter:
    """One limit: how much a minute, and from when on the next may go out."""

    def __init__(self) -> None:
        self.per_minute = 0.0
        self.free_at = 0.0

    def reserve(self, amount: float, now: float, factor: float) -> float:
        """Take up `amount`; returns the seconds until it may go out."""
        if not self.per_minute:
            return 0.0
        begins = max(self.free_at, now - LENIENCY_S)
        self.free_at = begins + 60 * amount / (self.per_minute * factor)
        return begins - now

    def correct(self, amount: float, factor: float) -> None:
        """Take up what a request used more than was thought, or give back what it used less."""
        if self.per_minute:
            self.free_at += 60 * amount / (self.per_minute * factor)


class Pace:
    """When the next request may go out. sharers: how many workers use the same key."""

    def __init__(self) -> None:
        self.sharers = 1
        self.is_limited = False
        self._meters = {what: Meter() for what in LIMITS}
        self._tokens = 0.0
        self._slowness = 1.0
        self._slowed_at = 0.0

    @property
    def _factor(self) -> float:
        return SHARE * self._slowness / self.sharers

    def turn(self) -> tuple[float, float]:
        """(seconds to wait before the next request goes out, tokens that were taken up for it)."""
        now = time.monotonic()
        amounts = {"requests": 1.0, "tokens": self._tokens}
        waits = [meter.reserve(amounts[what], now, self._factor) for what, meter in self._meters.items()]
        return max(0.0, *waits), self._tokens

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take a server's limits from its headers."""
        for what, names in LIMITS.items():
            for name in names:
                limit = number_in(headers.get(name, ""))
                if limit is not None and limit > 0:
                    self._meters[what].per_minute = limit
                    self.is_limited = True

    def count(self, tokens: int, reserved: float) -> None:
        """Count an answer's tokens, prompt included. reserved: what was taken up when it was asked for."""
        self._meters["tokens"].correct(tokens - reserved, self._factor)
        self._tokens += (LEARNED_OVER if self._tokens else 1.0) * (tokens - self._tokens)
        self._slowness = min(1.0, self._slowness * RECOVERY)

    def slow_down(self) -> None:
        """After a refusal in spite of the pace; those of one moment count once."""
        now = time.monotonic()
        if now - self._slowed_at > 1:
            self._slowness *= SLOWER
            self._slowed_at = now

    def reason(self) -> str:
        allowed = [f"{meter.per_minute:,.0f} {what}" for what, meter in self._meters.items() if meter.per_minute]
        return f"the server allows {' and '.join(allowed)} a minute"


@runtime_checkable
class Paced(Protocol):
    """An engine that keeps to a pace."""

    pace: Pace


def share_pace(engine: object, sharers: int) -> None:
    """Let an engine keep to its share of what its server allows, where others use the same key."""
    if isinstance(engine, Paced):
        engine.pace.sharers = sharers
