"""The way to a server: keep-alive, every framing of an answer, and a reply of status 0 for everything that is none."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from synthmill.tasks.engines.aiohttp_transport import Aiohttp
from synthmill.tasks.engines.transport import TOO_LARGE, PlainHttp, Reply, make_transport

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def talk(
    *answers: bytes | None, requests: int = 1, timeout_s: float = 5, use: str = "plain", between: float = 0
) -> tuple[list[Reply], int]:
    """Post to a server that gives these bytes to its 1st, 2nd, ... request (None: closes); (replies, connections)."""
    connections = 0
    waiting = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                answer = waiting.pop(0)
                for piece in (answer or b"").split(b"~"):  # ~: a pause on the wire
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.02)
                if answer is None or b"close" in answer or (b"Length" not in answer and b"chunked" not in answer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    async def run() -> list[Reply]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"
        made = (
            make_transport(url, {"X": "y"}, timeout_s) if use == "plain" else Aiohttp(url, {"X": "y"}, timeout_s, None)
        )
        replies = []
        for _ in range(requests):
            replies.append(await made.post(b"{}"))
            await asyncio.sleep(between)
        await made.close()
        server.close()
        return replies

    return asyncio.run(run()), connections


@pytest.mark.parametrize("use", ["plain", "aiohttp"])
def test_connections_are_kept_alive_and_opened_again_when_closed(use: str) -> None:
    assert talk(GOOD, GOOD, GOOD, requests=3, use=use) == ([(200, b"hello", {})] * 3, 1)
    closing = GOOD.replace(b"Content", b"Connection: close\r\nContent")
    assert talk(closing, GOOD, requests=2, use=use) == ([(200, b"hello", {})] * 2, 2)


@pytest.mark.parametrize("use", ["plain", "aiohttp"])
@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-~Length: 5\r\n\r\nhe~llo", (200, b"hello", {})),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n~3\r\nllo\r\n0\r\n\r\n",
            (200, b"hello", {}),
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nhe~llo", (200, b"hello", {})),
        (b"HTTP/1.1 429 Slow\r\nretry-after: 2\r\nContent-Length: 0\r\n\r\n", (429, b"", {"retry-after": "2"})),
        (b"HTTP/1.1 308 Moved\r\nLocation: https://x\r\nContent-Length: 0\r\n\r\n", (308, b"", {})),
    ],
)
def test_every_framing_of_an_answer(use: str, answer: bytes, reply: Reply) -> None:
    assert talk(answer, use=use)[0] == [reply]


@pytest.mark.parametrize("use", ["plain", "aiohttp"])
@pytest.mark.parametrize(
    "answer", [None, b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf close", b"nonsense close\r\n\r\n"]
)
def test_what_is_no_answer_is_a_reply_of_status_0(use: str, answer: bytes | None) -> None:
    replies, _ = talk(answer, GOOD, requests=2, use=use)
    assert replies[0][0] == 0
    assert replies[0][1]
    assert replies[1] == (200, b"hello", {})


@pytest.mark.parametrize("use", ["plain", "aiohttp"])
@pytest.mark.parametrize("status", [b"100 Continue", b"103 Early Hints"])
def test_an_interim_answer_is_not_the_answer(use: str, status: bytes) -> None:
    early = b"HTTP/1.1 " + status + b"\r\n\r\n~" + GOOD
    other = GOOD.replace(b"hello", b"other")
    assert talk(early, other, requests=2, use=use)[0] == [(200, b"hello", {}), (200, b"other", {})]


@pytest.mark.parametrize("pause", [b"", b"~"])
def test_an_answer_that_nobody_asked_for_is_never_given_to_the_next(pause: bytes) -> None:
    other = GOOD.replace(b"hello", b"other")

    replies, connections = talk(GOOD + pause + GOOD.replace(b"hello", b"ghost"), other, requests=2, between=0.1)
    assert replies == [(200, b"hello", {}), (200, b"other", {})]
    assert connections == 2


@pytest.mark.parametrize("use", ["plain", "aiohttp"])
def test_a_time_out_ends_the_wait_and_the_connection(use: str) -> None:
    slow = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe" + b"~" * 20 + b"llo"
    replies, connections = talk(slow, GOOD, requests=2, timeout_s=0.2, use=use)
    assert replies == [(0, b"no answer within 0.2 s", {}), (200, b"hello", {})]
    assert connections == 2


def test_each_request_has_its_own_time() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"answered" in await reader.readuntil(b"}"):
            writer.write(GOOD)
        await reader.read()
        writer.close()

    async def run() -> list[tuple[int, bytes, float]]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        transport = PlainHttp(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", {}, 0.2)

        async def post(body: bytes, after_s: float) -> tuple[int, bytes, float]:
            await asyncio.sleep(after_s)
            started = time.monotonic()
            status, answer, _ = await transport.post(body)
            return status, answer, time.monotonic() - started

        bodies = (b"{}", 0.0), (b"{answered}", 0.0), (b"{}", 0.12), (b"{}", 0.5)
        replies = await asyncio.gather(*(post(*body) for body in bodies))
        await transport.close()
        server.close()
        return replies

    (first, answered, second, last) = asyncio.run(run())
    assert answered[:2] == (200, b"hello")
    for status, words, seconds in (first, second, last):
        assert (status, words) == (0, b"no answer within 0.2 s")
        assert seconds >= 0.199


@pytest.mark.parametrize("use", ["plain", "aiohttp"])
def test_an_answer_without_end_is_none(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("transport", "aiohttp_transport"):
        monkeypatch.setattr(f"synthmill.tasks.engines.{module}.MOST_BYTES", 1000)
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000
    assert talk(endless, GOOD, requests=2, use=use)[0] == [(0, TOO_LARGE, {}), (200, b"hello", {})]


def test_a_server_that_is_not_there() -> None:
    async def run(post: Callable[[bytes], Awaitable[Reply]]) -> Reply:
        return await post(b"{}")

    status, said, _ = asyncio.run(run(PlainHttp("http://127.0.0.1:9/v1", {}, 5).post))
    assert status == 0
    assert b"refused" in said.lower() or b"connect" in said.lower()


def test_tls_and_proxies_go_through_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    async def kind(url: str) -> type:
        made = make_transport(url, {}, 5)
        await made.close()
        return type(made)

    monkeypatch.delenv("http_proxy", raising=False)
    assert asyncio.run(kind("http://host:8000/v1")) is PlainHttp
    assert asyncio.run(kind("https://host/v1")) is Aiohttp
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert asyncio.run(kind("http://host:8000/v1")) is Aiohttp
