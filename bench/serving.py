"""Start the local chat server as a process of its own, and end it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def chat_server(*options: str) -> Iterator[str]:
    """`with chat_server("--latency-ms", "20") as url:`; url ends in /v1."""
    command = [sys.executable, str(Path(__file__).with_name("chat_server.py")), *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
    finally:
        server.terminate()
        server.wait(10)
