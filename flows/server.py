"""A Prefect server for one command, when no other is configured: quiet, ours alone, gone when we are.

Prefect would start one by itself, but that one survives a killed parent and dies before us on Ctrl-C.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from schemas.errors import EngineError
from tasks.guard import guard

START_TIMEOUT_S = 120
STATE = Path(".prefect/serve.json")
"""What `synthmill serve` has running in this folder."""


@contextmanager
def prefect_server() -> Iterator[None]:
    """Have a Prefect API for the duration: the configured one, the one served from here, else one of our own."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    if served := serving_url():
        with temporary_settings({PREFECT_API_URL: served}):
            yield
        return
    guard()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    server = subprocess.Popen(
        command,
        env={**os.environ, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/api/health", server)
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            yield
    finally:
        server.terminate()
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()


def serving_url() -> str:
    """The API of the server that `synthmill serve` keeps in this folder, if it answers."""
    try:
        url = str(json.loads(STATE.read_bytes())["url"])
        with urlopen(f"{url}/health", timeout=5):
            return url
    except (OSError, ValueError, KeyError):
        return ""


def wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.05)
    raise EngineError(
        "Prefect's local server did not start; `prefect server start` shows why, and PREFECT_API_URL names one "
        "that runs already"
    )
