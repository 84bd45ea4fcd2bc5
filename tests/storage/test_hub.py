"""Reading a dataset from the Hub, against a local server that speaks as much of its protocol as reading takes."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
import pytest

from tests.command import synthmill
from tests.conftest import ChatServer

COMMIT = "a" * 40
ROWS = b"".join(orjson.dumps({"id": str(n), "prompt": f"question {n}"}) + b"\n" for n in range(5))
FILE = {"type": "file", "path": "data/train.jsonl", "size": len(ROWS), "oid": "b" * 40}


class Hub(BaseHTTPRequestHandler):
    """One dataset, owner/name, with one JSONL file in one split."""

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/owner/name/tree/"):
            folder = {"type": "directory", "path": "data", "oid": "c" * 40, "size": 0}
            self.answer(json.dumps([FILE if path.endswith("/data") else folder]).encode())
        elif path.startswith("/api/datasets/owner/name"):
            stamp = "2026-01-01T00:00:00.000Z"
            info = {"id": "owner/name", "sha": COMMIT, "tags": [], "siblings": [{"rfilename": FILE["path"]}]}
            self.answer(json.dumps({**info, "private": False, "lastModified": stamp, "createdAt": stamp}).encode())
        elif path.endswith("/resolve/" + COMMIT + "/data/train.jsonl"):
            self.answer(ROWS, ETag=f'"{FILE["oid"]}"', **{"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})
        else:
            self.answer(b"", 404, **{"X-Error-Code": "EntryNotFound" if "/owner/name/" in path else "RepoNotFound"})

    def answer(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_hub_dataset_is_read_at_one_commit(tmp_path: Path, hub: str, server: ChatServer) -> None:
    online = {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    sample = ("sample", "hf://datasets/owner/name@main#train", "--engine", server.spec, "--out", "out.jsonl")
    synthmill(*sample, cwd=tmp_path, **online)
    rows = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [(row["id"], row["prompt"]) for row in rows] == [(str(n), f"question {n}") for n in range(5)]
    missing = ("sample", "hf://datasets/no/such", "--engine", server.spec, "--out", "out.jsonl")
    _, err = synthmill(*missing, cwd=tmp_path, expect=2, **online)
    assert "hf://datasets/no/such cannot be reached on the Hub" in err


def test_offline_is_said_in_one_line(tmp_path: Path, server: ChatServer) -> None:
    sample = ("sample", "hf://datasets/owner/name", "--engine", server.spec, "--out", "out.jsonl")
    _, err = synthmill(*sample, cwd=tmp_path, expect=2, HF_HUB_OFFLINE="1")
    assert "hf://datasets/owner/name cannot be reached on the Hub" in err
    assert "Traceback" not in err
