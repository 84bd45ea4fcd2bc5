"""Runs in batches: through Prefect, by a schedule that does not wait, and by hand with files."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import polars as pl
import pytest

from bench.chat_server import completion
from tests.batch_server import WORDS
from tests.batching import BatchServer
from tests.command import prefect_url, synthmill
from tests.conftest import prompts, write_jsonl

ROWS, EACH = 12, 6


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BatchServer]:
    server = BatchServer(tmp_path / "server")
    yield server
    server.end()


def command(tmp_path: Path, server: BatchServer, *more: Any, spec: str = "") -> tuple[Any, ...]:
    write_jsonl(tmp_path / "in.jsonl", prompts(ROWS))
    settings = ("source=in.jsonl", f"engines.teacher={spec or server.spec}", "dedup.layers=[exact]", "rows_per_part=5")
    return ("synthesize", *(part for setting in settings for part in ("--set", setting)), *more)


def pairs(store: Path) -> pl.DataFrame:
    [file] = store.glob("datasets/*/data/*.parquet")
    return pl.read_parquet(file).select("id", "prompt", "chosen", "rejected").sort("id")


def dataset(store: Path) -> bytes:
    [file] = store.glob("datasets/*/data/*.parquet")
    return file.read_bytes()


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_run_in_batches_makes_the_same_dataset(
    tmp_path: Path, server: BatchServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
    run = ("run", *command(tmp_path, server, spec=server.spec if kind == "openai" else server.messages_spec))
    synthmill(*run, "--store", "reference", "--workers", 0, cwd=tmp_path)
    single = server.stats()["single"]
    assert single == ROWS * EACH
    synthmill(*run, "--batch", "--workers", 0, cwd=tmp_path)
    stats = server.stats()
    assert (stats["batches"], stats["requests"], stats["again"], stats["single"]) == (3, single, 0, single)
    made, reference = (pairs(tmp_path / store) for store in ("store", "reference"))
    assert made.height and made.equals(reference)
    if kind == "openai":  # with seeds, which sample is which is the same, too
        assert dataset(tmp_path / "store") == dataset(tmp_path / "reference")


@pytest.mark.prefect
def test_a_schedule_that_does_not_wait_comes_back(tmp_path: Path, server: BatchServer) -> None:
    run = ("run", *command(tmp_path, server, "--batch", "--set", "batch.wait=false", "--workers", 0))
    server.set(late_s=0.5)
    codes = []
    for _ in range(8):
        try:
            _, err = synthmill(*run, cwd=tmp_path, expect=4)
            assert "requests are in 1 batch at" in err and "run the same command again" in err
            codes.append(4)
        except AssertionError as error:
            assert "exit 0" in str(error)
            codes.append(0)
            break
        newest = {"sort": "START_TIME_DESC", "limit": 1}
        [run_on_page] = httpx.post(f"{prefect_url()}/flow_runs/filter", json=newest).json()
        assert (run_on_page["state_name"], run_on_page["state_type"]) == ("Submitted", "COMPLETED")
    assert codes == [4, 4, 4, 0]
    assert server.stats()["requests"] == ROWS * EACH and server.stats()["again"] == 0


def answered(requests: Path, results: Path, seed: int) -> None:
    """What `vllm run-batch` would write, in another order, with a failure, a line twice, and one that is not ours."""
    lines = []
    for number, line in enumerate(map(orjson.loads, requests.read_bytes().splitlines())):
        assert line["method"] == "POST" and line["url"] == "/v1/chat/completions"
        entry = {"id": f"vllm-{number}", "custom_id": line["custom_id"], "error": None}
        response = {"status_code": 200, "request_id": "q", "body": completion(line["body"], WORDS)}
        if number == 0 and seed == 0:
            error = {"error": {"message": "out of luck", "type": "InternalServerError", "param": None, "code": 500}}
            response, entry["error"] = {**response, "status_code": 500, "body": None}, error
        lines.append(orjson.dumps({**entry, "response": response}))
    lines += [lines[-1], orjson.dumps({"id": "x", "custom_id": "other", "response": None, "error": None}), b"{"]
    random.Random(seed).shuffle(lines)
    results.write_bytes(b"\n".join(lines) + b"\n")


def test_requests_and_results_as_files(tmp_path: Path, server: BatchServer) -> None:
    synthmill("run", *command(tmp_path, server), "--store", "reference", "--workers", 0, cwd=tmp_path)
    single = server.stats()["single"]
    write = ("batch", "write", *command(tmp_path, server), "--set", "workers=0", "--out", "requests.jsonl")
    read = ("batch", "read", "results.jsonl")
    for seed in range(4):
        _, err = synthmill(*write, cwd=tmp_path, expect=4)
        assert "requests.jsonl (" in err and "`synthmill batch read`" in err
        answered(tmp_path / "requests.jsonl", tmp_path / "results.jsonl", seed)
        _, err = synthmill(*read, cwd=tmp_path)
        facts = "1 lines for a request that had one; 1 lines of other requests; 1 lines that are no results"
        assert facts in err and ("1 failed: engine_error: 500: out of luck" in err) == (seed == 0)
    _, err = synthmill(*write, cwd=tmp_path)
    assert "nothing is left to ask" in err
    assert dataset(tmp_path / "store") == dataset(tmp_path / "reference")
    assert (server.stats()["single"], server.stats()["batches"]) == (single, 0)
    _, err = synthmill(*read, cwd=tmp_path, expect=2)
    assert "waits for no results" in err


def test_sample_writes_its_requests(tmp_path: Path, server: BatchServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(5))
    server.end()  # nobody is asked
    sample = ("sample", "in.jsonl", "--engine", server.spec, "-n", 2, "--out", "out.jsonl")
    synthmill(*sample, "--batch-out", "requests.jsonl", cwd=tmp_path, expect=4)
    answered(tmp_path / "requests.jsonl", tmp_path / "results.jsonl", 1)
    synthmill("batch", "read", "results.jsonl", cwd=tmp_path)
    synthmill(*sample, "--batch-out", "rest.jsonl", cwd=tmp_path)
    assert not (tmp_path / "rest.jsonl").exists()
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 10
    [record] = (tmp_path / "store" / "batches").glob("*.json")
    assert orjson.loads(record.read_bytes())["state"] == "stored"
