"""A private Prefect server for one command, when no other is configured; it ends with the command.

Prefect's own temporary server outlives a killed parent, and dies before us on Ctrl-C.
"""

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from synthmill.schemas.errors import EngineError
from synthmill.tasks.running.guard import guarded

START_TIMEOUT_S = 120
REACH_S = 10
STARTS = 5  # restarts of a server that dies
STATE = Path(".prefect/serve.json")
"""What `synthmill serve` has running in this folder."""


@contextmanager
def prefect_server(meanwhile: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Provide a Prefect API: the configured one, that of `synthmill serve` in this folder, else one of our own.
    meanwhile: what to do while one of our own starts.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if configured := PREFECT_API_URL.value():
        check_reached(str(configured))
        check_version(str(configured))
        yield
        return
    if served := serving_url():
        with temporary_settings({PREFECT_API_URL: served}):
            yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    environment = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    url = f"http://127.0.0.1:{port}/api"
    kept = kept_alive(command, {**os.environ, **environment}, f"{url}/health", meanwhile)
    with guarded(), kept, temporary_settings({PREFECT_API_URL: url}):
        yield


@contextmanager
def kept_alive(
    command: Sequence[str], environment: Mapping[str, str], health: str, meanwhile: Callable[[], None]
) -> Iterator[None]:
    """Start a server, do something meanwhile, and wait until it answers. A thread restarts it when it dies; Prefect's
    clients wait for that.
    """

    def start() -> "subprocess.Popen[bytes]":
        devnull = subprocess.DEVNULL
        return subprocess.Popen(
            command, env=environment, stdin=devnull, stdout=devnull, stderr=devnull, start_new_session=True
        )

    def keep() -> None:
        for _ in range(STARTS):
            servers[-1].wait()
            with lock:
                if ending.is_set():
                    return
                print("Prefect's server died; starting it again", file=sys.stderr, flush=True)
                servers.append(start())

    servers = [start()]
    ending, lock = threading.Event(), threading.Lock()
    try:
        meanwhile()
        wait_for(health, servers[0])
        threading.Thread(target=keep, name="synthmill-prefect", daemon=True).start()
        yield
    finally:
        with lock:
            ending.set()
        servers[-1].terminate()
        try:
            servers[-1].wait(5)
        except subprocess.TimeoutExpired:
            servers[-1].kill()


def check_reached(url: str) -> None:
    """Raises EngineError where no server answers. Any HTTP answer will do; certificate errors are left to Prefect."""
    try:
        urlopen(f"{url}/health", timeout=REACH_S).close()
    except HTTPError:
        return
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):
            raise EngineError(
                f"Prefect's server at {without_credentials(url)} does not answer ({reason}); start it, or unset "
                "PREFECT_API_URL for one of this command's own"
            ) from error


def check_version(url: str) -> None:
    """Say where a server has another minor version than Prefect here. Raises EngineError for another major one. A
    server that does not tell its version is left to Prefect.
    """
    from prefect import __version__ as own

    try:
        with urlopen(f"{url}/admin/version", timeout=REACH_S) as reply:
            version = str(json.loads(reply.read()))
    except (OSError, ValueError):
        return
    if version.split(".")[:2] == own.split(".")[:2]:
        return
    line = f"Prefect's server at {without_credentials(url)} is {version}, and Prefect here is {own}"
    if version.split(".")[0] != own.split(".")[0]:
        raise EngineError(
            f"{line}; upgrade the older of both, or unset PREFECT_API_URL for a server of this command's own"
        )
    print(f"{line}; a worker and its server need the same minor version: upgrade the older of both", file=sys.stderr)


def without_credentials(url: str) -> str:
    """An address without its user name and password."""
    return re.sub(r"//[^/]*@", "//", url)


def serving_url() -> str:
    """The API of the server that `synthmill serve` keeps in this folder, if it answers."""
    try:
        url = str(json.loads(STATE.read_bytes())["url"])
        with urlopen(f"{url}/health", timeout=5):
            return url
    except (OSError, ValueError, KeyError, TypeError):
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
