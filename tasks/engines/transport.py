"""How a request gets to a server and its answer back: one method, `post`, in two implementations.

`PlainHttp` is for http:// without a proxy, that is for one's own servers with thousands of answers a second: keep-alive
connections on httptools cost a third of aiohttp's time per request. Everything else, TLS and proxies, goes through
aiohttp (aiohttp_transport.py), which is imported only then.
"""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httptools

CONNECT_TIMEOUT_S = 30.0
MOST_BYTES = 64 << 20
TOO_LARGE = f"the answer is larger than {MOST_BYTES >> 20} MiB".encode()
NO_ANSWER = b"no answer within"
Headers = Mapping[str, str]
Reply = tuple[int, bytes, Headers]
"""(status, body, the headers about limits and waits, names in lower case). With status 0 there was no answer, and the
body says why.
"""
ABOUT_LIMITS = ("retry-after", "x-ratelimit-", "anthropic-ratelimit-")
ABOUT_LIMITS_BYTES = tuple(name.encode() for name in ABOUT_LIMITS)
NO_HEADERS: Headers = MappingProxyType({})


class Transport(Protocol):
    async def post(self, body: bytes) -> Reply:
        """Send one JSON body. A network fault gives a Reply with status 0, never an exception."""

    async def close(self) -> None: ...


def make_transport(url: str, headers: dict[str, str], timeout_s: float) -> Transport:
    """The transport for one address."""
    proxy = proxy_for(url)
    if url.startswith("http://") and proxy is None:
        return PlainHttp(url, headers, timeout_s)
    from synthmill.tasks.engines.aiohttp_transport import Aiohttp

    return Aiohttp(url, headers, timeout_s, proxy)


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for this server, looked up once; aiohttp would do so for every request."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


class PlainHttp:
    """Keep-alive connections to one http:// address, as many as there are requests in flight."""

    def __init__(self, url: str, headers: dict[str, str], timeout_s: float) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.timeout_s = parts.hostname or "", parts.port or 80, timeout_s
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        lines = {f"POST {target} HTTP/1.1\r\nHost": parts.netloc, **headers}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode()
        self._idle: list[Connection] = []
        self._deadlines: dict[Connection, float] = {}  # of those at work, the next one first: all may take as long
        self._timer: asyncio.TimerHandle | None = None

    async def post(self, body: bytes) -> Reply:
        try:
            connection = self._idle.pop() if self._idle else await self._connect()
        except TimeoutError:
            return 0, f"no connection within {CONNECT_TIMEOUT_S:g} s".encode(), NO_HEADERS
        except OSError as error:
            return 0, (error.strerror or str(error)).encode(), NO_HEADERS
        loop = asyncio.get_running_loop()
        self._deadlines[connection] = deadline = loop.time() + self.timeout_s
        if self._timer is None:  # one for all requests: a timer for each would cost as much as a write
            self._timer = loop.call_at(deadline, self._end_late)
        try:
            reply = await connection.post(b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body))
        except BaseException:
            connection.abort()
            raise
        finally:
            self._deadlines.pop(connection, None)
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.abort()
        return reply

    def _end_late(self) -> None:
        """End the requests that took too long, and look again when the next one will have."""
        loop, self._timer = asyncio.get_running_loop(), None
        while self._deadlines:
            connection, deadline = next(iter(self._deadlines.items()))
            if deadline > loop.time():
                self._timer = loop.call_at(deadline, self._end_late)
                return
            del self._deadlines[connection]
            connection.end((0, NO_ANSWER + f" {self.timeout_s:g} s".encode(), NO_HEADERS))

    async def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        for connection in [*self._idle, *self._deadlines]:
            connection.abort()
        self._idle.clear()

    async def _connect(self) -> "Connection":
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(lambda: Connection(self._idle), self.host, self.port)
        return (await asyncio.wait_for(opening, CONNECT_TIMEOUT_S))[1]


class Connection(asyncio.Protocol):
    """One connection with at most one request on it; httptools calls the on_ methods."""

    def __init__(self, idle: list["Connection"]) -> None:
        self.reusable = False
        self._idle = idle
        self._transport: Any = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._size = 0
        self._headers: Headers = NO_HEADERS
        self._framed = False

    async def post(self, request: bytes) -> Reply:
        waiter: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        self.reusable = False
        self._transport.write(request)
        try:
            return await waiter
        finally:
            self._waiter = None

    def abort(self) -> None:
        self.reusable = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._waiter is None:  # bytes without a request must not pass for the next answer
            self._retire()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.end((0, f"the answer is not HTTP ({error})".encode(), NO_HEADERS))

    def _retire(self) -> None:
        if self in self._idle:
            self._idle.remove(self)
        self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        if self._body and not self._framed and error is None:
            self.end((self._parser.get_status_code(), b"".join(self._body), self._headers))
        else:
            problem = f"the connection was closed before the answer came ({error or 'by the server'})"
            self.end((0, problem.encode(), NO_HEADERS))

    def on_message_begin(self) -> None:
        self._body, self._size, self._headers, self._framed = [], 0, NO_HEADERS, False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        elif name.startswith(ABOUT_LIMITS_BYTES):
            self._headers = {**self._headers, name.decode("latin-1"): value.decode("latin-1")}

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > MOST_BYTES:
            self._body.clear()
            self.end((0, TOO_LARGE, NO_HEADERS))
            self.abort()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # 100 Continue, 103 Early Hints: the answer follows
            return
        if self._waiter is None or self._waiter.done():  # a second answer behind the first
            self._transport.abort()
            self.reusable = False
            return
        self.reusable = self._parser.should_keep_alive() and not self._transport.is_closing()
        self.end((self._parser.get_status_code(), b"".join(self._body), self._headers))

    def end(self, reply: Reply) -> None:
        """Let its request end with a reply, unless it has one."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(reply)
