"""The batch server as a process of its own, for tests."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class BatchServer:
    """Its address, its counts, how it behaves; it can be started again where it died."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.root = f"http://127.0.0.1:{self.port}"
        self.spec = f"openai:local-model@{self.root}/v1"
        self.messages_spec = f"anthropic:local-model@{self.root}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.batch_server", str(self.folder), str(self.port)]
        self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        until = time.monotonic() + 20
        while True:
            try:
                self.stats()
                return
            except httpx.HTTPError:
                assert time.monotonic() < until, "the batch server does not start"
                time.sleep(0.02)

    def died(self, within_s: float = 20) -> None:
        assert self.process
        self.process.wait(within_s)

    def end(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait(10)

    def stats(self) -> dict[str, int]:
        return dict(httpx.get(f"{self.root}/stats").json())

    def set(self, **values: Any) -> None:
        httpx.post(f"{self.root}/set", json=values).raise_for_status()
