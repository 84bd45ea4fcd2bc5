"""Requests to any address through aiohttp."""

import aiohttp
from yarl import URL

from synthmill.tasks.engines.transport import (
    ABOUT_LIMITS,
    CONNECT_TIMEOUT_S,
    MOST_BYTES,
    NO_ANSWER,
    NO_HEADERS,
    TOO_LARGE,
    Reply,
)


class Aiohttp:
    """Any address, with TLS, proxies and name resolution by aiohttp."""

    def __init__(self, url: str, headers: dict[str, str], timeout_s: float, proxy: str | None) -> None:
        self.timeout_s = timeout_s
        self._address = URL(url)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            proxy=proxy,
        )

    async def post(self, body: bytes) -> Reply:
        try:
            async with self._session.post(self._address, data=body, allow_redirects=False) as response:
                answer = bytearray()
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > MOST_BYTES:
                        return 0, TOO_LARGE, NO_HEADERS
                names = {name: name.lower() for name in response.headers}
                headers = {low: response.headers[name] for name, low in names.items() if low.startswith(ABOUT_LIMITS)}
                return response.status, bytes(answer), headers
        except TimeoutError:
            return 0, NO_ANSWER + f" {self.timeout_s:g} s".encode(), NO_HEADERS
        except (aiohttp.ClientError, OSError) as error:
            return 0, str(error).encode(), NO_HEADERS

    async def close(self) -> None:
        await self._session.close()
