"""POSTing JSON to a user's endpoint: a few attempts, one readable error, the key from the environment."""

import os
import time
from typing import Any

from synthmill.schemas.errors import EngineError, EngineRefused, InputError

ATTEMPTS, FIRST_WAIT_S, TIMEOUT_S = 5, 0.5, 60.0


class Endpoint:
    """api_key_env: the variable that holds its key, if it wants one. verb: a participle for errors, as in "refused to
    be {verb}".
    """

    def __init__(self, url: str, api_key_env: str, verb: str) -> None:
        import httpx

        self.url, self.verb = url, verb
        key = read_api_key(url, api_key_env)
        self._client = httpx.Client(headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=TIMEOUT_S)

    def post(self, body: dict[str, Any]) -> bytes:
        """Send one request, with a few retries. Raises EngineError, or EngineRefused where no retry can help."""
        import httpx

        url, fault = self.url, ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
            try:
                status, reply = self._send(body)
            except httpx.HTTPError as error:
                fault = f"{type(error).__name__}: {error}"
                continue
            if status == 200:
                return reply
            fault = f"it said {status}: {' '.join(reply.decode(errors='replace').split())[:200]}"
            if status < 500 and status not in (408, 429):
                raise EngineRefused(f"{url} refused to be {self.verb}: {fault}")
        raise EngineError(f"{url} cannot be {self.verb} ({fault}); see that it runs, then run the same command again")

    def _send(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """Returns (status, reply). Raises httpx.HTTPError, also when the whole answer takes too long."""
        import httpx

        deadline, reply = time.monotonic() + TIMEOUT_S, b""
        with self._client.stream("POST", self.url, json=body) as response:
            for chunk in response.iter_bytes():
                reply += chunk
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"no whole answer within {TIMEOUT_S} s")
            return response.status_code, reply


def read_api_key(url: str, name: str) -> str:
    """An endpoint's key, from the variable `name`. Raises InputError; it names the variable, never its value."""
    key = os.environ.get(name, "").strip() if name else ""
    if name and not (key and key.isascii() and key.isprintable()):
        raise InputError(f"the environment variable {name} holds no key for {url}; set it, or leave it out")
    return key
