"""Calls to a server that keeps files and batches: few, large, and tried again for a while."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmill.schemas.errors import EngineError, EngineRefused
from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.texts import loads
from synthmill.storage.files import sync
from synthmill.tasks.engines.served import endpoint, key_state, secrets_of, server_url
from synthmill.tasks.engines.transport import CONNECT_TIMEOUT_S, NO_HEADERS, proxy_for
from synthmill.tasks.engines.waits import backoff, wait_s

if TYPE_CHECKING:
    import aiohttp

PAST = (408, 409, 425, 429)
"""Statuses that say: later."""
BLOCK = 1 << 20
RESUME = "run the same command again to continue; what was submitted is not submitted again"


class NoReply(Exception):
    """Whether the server did what it was asked to do is not known."""


class BatchHttp:
    """One server's files and batches."""

    def __init__(self, settings: EngineSettings, headers: Mapping[str, str] = NO_HEADERS) -> None:
        """headers: what goes with every request, beside the key and the headers of the settings."""
        self.url, self.settings = server_url(settings), settings
        self._headers = headers
        self._secrets: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Raises InputError where a header's variable is not set."""
        import aiohttp  # here and below: every stage imports this module, and few ask in batches

        self._secrets = secrets_of(self.settings)
        timeout = self.settings.timeout_s
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**self._headers, **self._secrets},
            proxy=proxy_for(self.url),
        )

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def call(
        self, method: str, path: str, body: Callable[[], Any] | None = None, *, once: bool = False, **options: Any
    ) -> dict[str, Any]:
        """The JSON that a call gives. body: makes what is sent, anew for each attempt.

        Raises EngineRefused where no further attempt can help, EngineError where all of them failed; with `once`,
        NoReply after the first one that may or may not have had its effect.
        """
        import aiohttp

        problem = ""
        for attempt in range(1, self.settings.retries + 2):
            assert self._session is not None
            pause = None
            try:
                sent = {"data": body()} if body else {}
                async with self._session.request(
                    method, endpoint(self.settings, path), allow_redirects=False, **sent, **options
                ) as response:
                    data = await response.read()
                    status, pause = (
                        response.status,
                        wait_s({name.lower(): value for name, value in response.headers.items()}),
                    )
                    if 200 <= status < 300:
                        return dict(loads(data))
                    problem = f"HTTP {status}: {self._text(data)}"
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, TypeError) as error:
                status, problem = 0, f"{type(error).__name__}: {error}"
            self._judge(status, path, problem)
            if once and status not in PAST:
                raise NoReply(problem)
            if attempt <= self.settings.retries:
                await asyncio.sleep(max(pause or 0.0, backoff(attempt)))
        raise EngineError(f"{self.url}{path} does not answer ({problem}); {RESUME}")

    async def download(self, path: str, place: Path, expected_lines: int = 0) -> None:
        """Fetch a file of lines, whole, to the end of `place`; as call.

        expected_lines: with fewer it is not whole.
        """
        import aiohttp

        address = endpoint(self.settings, path)
        start = place.stat().st_size if place.exists() else 0
        problem = ""
        for attempt in range(1, self.settings.retries + 2):
            assert self._session is not None
            lines, last = 0, b"\n"
            try:
                async with self._session.get(address) as response:
                    status = response.status
                    if status == 200:
                        with place.open("r+b" if place.exists() else "wb") as file:
                            file.seek(start)
                            file.truncate()
                            async for block in response.content.iter_chunked(BLOCK):
                                file.write(block)
                                lines += block.count(b"\n")
                                last = block[-1:]
                            if last != b"\n":
                                file.write(b"\n")
                                lines += 1
                        if lines >= expected_lines:
                            sync(place)
                            return
                        problem = f"{lines:,} lines came, and {expected_lines:,} are done"
                    else:
                        problem = f"HTTP {status}: {self._text(await response.read())}"
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                status, problem = 0, f"{type(error).__name__}: {error}"
            self._judge(status, path, problem)
            if attempt <= self.settings.retries:
                await asyncio.sleep(backoff(attempt))
        raise EngineError(f"{address} cannot be fetched ({problem}); {RESUME}")

    def _judge(self, status: int, path: str, problem: str) -> None:
        """Raises EngineRefused for a status that no further attempt changes."""
        if not 300 <= status < 500 or status in PAST:
            return
        if status in (401, 403):
            raise EngineRefused(f"{self.url} wants a valid key ({problem}); {key_state(self.settings)}")
        if status in (404, 405):
            raise EngineRefused(
                f"{self.url} has no {path} ({problem}); leave `batch` out, or write the requests to a file with "
                "`synthmill batch write`"
            )
        raise EngineRefused(f"{self.url}{path} refuses ({problem})")

    def _text(self, data: bytes) -> str:
        """An error's text, one line, without our secrets."""
        message = message_in(data)
        for value in self._secrets.values():
            message = message.replace(value.removeprefix("Bearer "), "***")
        return message


def message_in(data: Any) -> str:
    """The message of an error, however deep it lies, in one line."""
    if isinstance(data, bytes):
        try:
            data = loads(data)
        except ValueError:
            data = data.decode(errors="replace")
    while isinstance(data, dict):
        data = data.get("message") or data.get("error") or data.get("type") or str(data)
    return " ".join(str(data).split())[:300]


async def blocks(path: Path, before: bytes = b"", between: bytes = b"\n", after: bytes = b"") -> AsyncIterator[bytes]:
    """A file's lines as one body, in blocks."""
    block, first = bytearray(before), True
    with path.open("rb") as file:
        for line in file:
            block += line.rstrip(b"\n") if first else between + line.rstrip(b"\n")
            first = False
            if len(block) > BLOCK:
                yield bytes(block)
                block.clear()
    yield bytes(block + after)
