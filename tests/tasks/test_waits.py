"""When to come back, from every header that says it; who waits; and a pace that keeps to what a server allows."""

import asyncio
import time
from typing import Any

import pytest

from synthmill.flows.terminal.progress import Reporter, clock
from synthmill.schemas.progress import Progress, Waiting
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.chat_server import ChatServer
from synthmill.tasks.engines.engine import make_engine
from synthmill.tasks.engines.pace import Pace, Paced
from synthmill.tasks.engines.waits import wait_s
from synthmill.tasks.running.sharing import sum_progress
from tests.odd_server import odd_server, refused, said
from tests.tasks.test_engines import asked

NOW = 1_790_000_000.0  # 2026-09-21T14:13:20Z


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "9999999"}, 600),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:50 GMT"}, 30),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "nonsense"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"x-ratelimit-reset-requests": "1s"}, 1),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360),
        ({"x-ratelimit-reset-requests": "120ms"}, 0.12),
        ({"x-ratelimit-reset-requests": "1m30.5s"}, 90.5),
        ({"x-ratelimit-reset-requests": "1h2m"}, 600),
        ({"x-ratelimit-reset-requests": "7"}, 7),
        ({"x-ratelimit-reset-requests": str(NOW + 9)}, 9),
        ({"x-ratelimit-reset-requests": str(int((NOW + 9) * 1000))}, 9),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "20s"}, 20),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "4000",
                "x-ratelimit-reset-tokens": "20s",
            },
            1,
        ),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "1s"}, None),
        ({"x-ratelimit-remaining-tokens": "-1", "x-ratelimit-reset-tokens": "0"}, 0),
        (
            {
                "anthropic-ratelimit-output-tokens-remaining": "0",
                "anthropic-ratelimit-output-tokens-reset": "2026-09-21T14:13:45Z",
            },
            25,
        ),
        ({"anthropic-ratelimit-requests-reset": "2026-09-21T16:13:21+02:00"}, 1),
        ({"retry-after": "3", "anthropic-ratelimit-requests-reset": "2026-09-21T14:20:00Z"}, 3),
    ],
)
def test_when_to_come_back(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_s(headers, NOW) == (None if seconds is None else pytest.approx(seconds, abs=0.002))


def test_who_waits_is_on_the_progress_line() -> None:
    waiting = Waiting(requests=3, until=time.time() + 60, reason="429: Rate limit reached")
    reports = [Progress(rows=2, waiting={"openai:m": waiting}), Progress(rows=1, waiting={"openai:m": waiting})]
    reporter = Reporter("answers", 10, quiet=True)
    reporter(sum_progress([*reports, Progress(rows=4)]))
    assert f"6 requests wait until {clock(waiting.until)} (429: Rate limit reached)" in reporter.line()
    reporter(Progress(waiting={"openai:m": waiting}, silent_s={"openai:m": 90.0, "other": 80.0}))
    assert "openai:m has not answered" not in reporter.line() and "other has not answered" in reporter.line()


def test_an_engine_says_which_requests_wait_and_why() -> None:
    async def run(url: str) -> tuple[Any, Any]:
        engine = make_engine(EngineSettings.model_validate(f"openai:odd@{url}"))
        assert isinstance(engine, ChatServer)
        await engine.open()
        asking = [asyncio.create_task(engine.complete(asked(f"{n}"), 1, 1)) for n in range(4)]
        await asyncio.sleep(0.5)
        waiting = engine.waits.summary()
        engine.stop()
        await asyncio.gather(*asking)
        await engine.close()
        return waiting, engine.waits.summary()

    with odd_server(lambda body: refused("Rate limit reached", 429, {"x-ratelimit-reset-tokens": "1m0s"})) as server:
        waiting, afterwards = asyncio.run(run(server.url))
    assert (waiting.requests, waiting.reason) == (4, "429: Rate limit reached")
    assert 50 < waiting.until - time.time() < 80
    assert afterwards is None


class Bucket:
    """A server's limit of so many a minute, which it counts within short times."""

    def __init__(self, per_minute: float, burst: float) -> None:
        self.rate, self.burst = per_minute / 60, burst
        self.level, self.at = burst, time.monotonic()

    def take(self, amount: float) -> bool:
        now = time.monotonic()
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < amount:
            return False
        self.level -= amount
        return True


TOKENS = 12  # of an answer of `said`, with its prompt


@pytest.mark.parametrize(
    ("requests", "tokens"), [(6000, 1_000_000), (1_000_000, 6000 * TOKENS)], ids=["requests", "tokens"]
)
def test_a_pace_that_a_server_allows_is_learned_and_kept(requests: int, tokens: int) -> None:
    count, in_flight = 600, 16
    limits = {"x-ratelimit-limit-requests": str(requests), "x-ratelimit-limit-tokens": str(tokens)}
    buckets = {"requests": Bucket(requests, 20), "tokens": Bucket(tokens, 20 * TOKENS)}
    refusals = 0

    def answer(body: dict[str, Any]) -> Any:
        from aiohttp import web

        nonlocal refusals
        if buckets["requests"].take(1) and buckets["tokens"].take(TOKENS):
            return web.json_response(said(), headers=limits)
        refusals += 1
        return refused("Rate limit reached", 429, {**limits, "retry-after-ms": "100"})

    async def run(url: str) -> float:
        """Requests a second, of the next hundred."""
        engine = make_engine(EngineSettings.model_validate({"spec": f"openai:odd@{url}", "concurrency": in_flight}))
        await engine.open()
        assert isinstance(engine, Paced)
        numbers = iter(range(count))

        async def ask() -> None:
            for n in numbers:
                [completion] = await engine.complete(asked(f"{n}"), 1, 1)
                assert completion.error is None

        await asyncio.gather(*(ask() for _ in range(in_flight)))
        waits = [engine.pace.turn()[0] for _ in range(101)]
        await engine.close()
        return 100 / (waits[-1] - waits[0])

    with odd_server(answer) as server:
        pace = asyncio.run(run(server.url))
    assert refusals < in_flight, refusals
    assert 0.9 * 6000 / 60 <= pace <= 6000 / 60, (pace, refusals)


def test_workers_that_share_a_key_share_its_pace() -> None:
    alone, shared = Pace(), Pace()
    shared.sharers = 4
    for pace in (alone, shared):
        pace.learn({"x-ratelimit-limit-requests": "600", "x-ratelimit-limit-tokens": "-1"})
        assert pace.is_limited
        waits = [pace.turn()[0] for _ in range(11)]
        assert waits == sorted(waits)
        assert waits[-1] == pytest.approx(pace.sharers / 0.97, abs=0.2)
    assert alone.reason() == "the server allows 600 requests a minute"
