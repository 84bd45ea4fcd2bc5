"""How what was spent is said: tokens with what came from a cache or was thinking, and what was wasted."""

from collections.abc import Iterable, Mapping

Counters = Mapping[str, float]
"""Numbers by the names of schemas/usage.py, and `sent`, `reused`, `failed` where requests were counted."""
WASTED = {"asked_again": "asked again", "repeated": "repeated", "failed": "failed"}
"""What was paid for, or at least sent, and gave no row anything."""


def added_up(tables: Iterable[Counters]) -> dict[str, float]:
    """The sums of counters, by name."""
    sums: dict[str, float] = {}
    for counters in tables:
        for name, number in counters.items():
            sums[name] = sums.get(name, 0) + number
    return sums


def count_text(counters: Counters, name: str) -> str:
    """`1,234`; with ~ before it where tokens of some answers are estimates."""
    return f"{'~' if counters.get('estimated') else ''}{int(counters.get(name, 0)):,}"


def tokens_in(counters: Counters) -> str:
    """`1,234 (1,000 cached, 100 written to the cache)`."""
    return with_shares(
        counters, "prompt_tokens", {"cached_tokens": "cached", "cache_written_tokens": "written to the cache"}
    )


def tokens_out(counters: Counters) -> str:
    """`1,234 (800 thinking)`."""
    return with_shares(counters, "completion_tokens", {"thinking_tokens": "thinking"})


def with_shares(counters: Counters, name: str, shares: Mapping[str, str]) -> str:
    details = [f"{int(number):,} {word}" for share, word in shares.items() if (number := counters.get(share, 0))]
    return count_text(counters, name) + (f" ({', '.join(details)})" if details else "")


def wasted(counters: Counters) -> str:
    """`3 asked again, 1 failed`; empty where nothing was."""
    return ", ".join(f"{int(number):,} {word}" for name, word in WASTED.items() if (number := counters.get(name, 0)))


def money_text(money: float) -> str:
    """Money to the cent; small sums to the first digits that say something."""
    return f"{money:,.2f}" if money >= 1 or money == 0 else f"{money:.4f}"
