"""Reading a dataset from the Hub, against a local one."""

from pathlib import Path

import orjson

from tests.command import synthmill
from tests.conftest import ChatServer
from tests.hub_server import HubServer

ROWS = b"".join(orjson.dumps({"id": str(n), "prompt": f"question {n}"}) + b"\n" for n in range(5))


def test_a_hub_dataset_is_read_at_one_commit(tmp_path: Path, server: ChatServer) -> None:
    with HubServer() as hub:
        online = hub.environment(tmp_path / "home")
        head = hub.commit("owner/name", {"data/train.jsonl": ROWS})
        sample = ("sample", "hf://datasets/owner/name@main#train", "--engine", server.spec, "--out", "out.jsonl")
        synthmill(*sample, cwd=tmp_path, **online)
        read = {path for _, path in hub.requests if path.endswith("/train.jsonl")}
        missing = ("sample", "hf://datasets/no/such", "--engine", server.spec, "--out", "out.jsonl")
        _, err = synthmill(*missing, cwd=tmp_path, expect=2, **online)
    rows = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [(row["id"], row["prompt"]) for row in rows] == [(str(n), f"question {n}") for n in range(5)]
    assert read == {f"/datasets/owner/name/resolve/{head}/data/train.jsonl"}
    assert "hf://datasets/no/such cannot be reached on the Hub" in err


def test_offline_is_said_in_one_line(tmp_path: Path, server: ChatServer) -> None:
    sample = ("sample", "hf://datasets/owner/name", "--engine", server.spec, "--out", "out.jsonl")
    _, err = synthmill(*sample, cwd=tmp_path, expect=2, HF_HUB_OFFLINE="1")
    assert "hf://datasets/owner/name cannot be reached on the Hub" in err
    assert "Traceback" not in err
