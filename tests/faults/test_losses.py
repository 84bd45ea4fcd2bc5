"""A row that an engine always fails on: it is the row's loss, its neighbours are made, and the run can be run again."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bench.serving import chat_server
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.errors import EngineError, EngineRefused
from synthmill.schemas.settings import EngineSettings, SourceSettings
from synthmill.storage.artifacts import Store
from synthmill.tasks.engines import remote_model, waits
from synthmill.tasks.engines.refusals import read_refusal
from synthmill.tasks.generators.answers import Answers
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.stages import ingest, run_stage
from tests.command import synthmill
from tests.conftest import ChatServer, Matrix, prompts, write_jsonl
from tests.tasks.stages import in_process

pytestmark = pytest.mark.faults
ROWS, BAD = 20, "question 7:"
runs = count()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "BACKOFF_S", 0.001)


def run(store: Store, folder: Path, server: ChatServer, rows: int = ROWS, first: int = 0, **engine: Any) -> Manifest:
    """One answer to every row, by a run of its own."""
    file = write_jsonl(folder / "in.jsonl", prompts(rows)[first:])
    source = ingest(store, SourceSettings(path=str(file)), 8, "run")
    given = {"spec": server.spec, "retries": 2, "timeout_s": 0.3, **engine}
    planned = Planned(Answers(count=1), {"student": EngineSettings.model_validate(given)}, source.key)
    with in_process(store, f"run-{next(runs)}") as pool:
        return run_stage(store, planned, source, pool, "run")


HOW = {
    "status": ("engine_error", "500: failing as told"),
    "none": ("no_choices", "choices"),
    "inside": ("engine_error", "500: failing as told"),
    "hang": ("engine_timeout", "no answer within 0.3 s"),
    "cut": ("engine_timeout", "closed before the answer came"),
    "malformed": ("engine_error", "no chat completion"),
}


@pytest.mark.parametrize("how", HOW)
def test_a_row_that_always_fails_is_lost_twice_and_then_settled(
    store: Store, tmp_path: Path, server: ChatServer, matrix: Matrix, how: str
) -> None:
    server.set(fail_on=BAD, fail_how=how)
    reason, words = HOW[how]
    sent = []
    for _ in range(3):
        server.set(forget=1)
        manifest = run(store, tmp_path, server)
        assert (manifest.rows_in, manifest.rows, manifest.dropped) == (ROWS, ROWS - 1, {reason: 1})
        sent.append(server.stats()["total"])
    [loss] = [loss for seal in manifest.parts for loss in seal.lost.values()]
    assert words in loss.error and loss.settled
    assert sent[0] > ROWS and 0 < sent[1] <= 5 and sent[2] == 0  # asked for again once, alone; then settled
    if how == "status":
        matrix(
            "a row that always fails", "lost; asked for again by the next run, then settled", "20 = 19 + 1", sent[1], 1
        )
    again = run(Store(store.root, retry_lost=True), tmp_path, server)
    assert again.dropped == {reason: 1} and server.stats()["total"] > 0
    server.set(fail_on="")
    assert run(Store(store.root, retry_lost=True), tmp_path, server).rows == ROWS
    assert run(store, tmp_path, server).rows == ROWS


def test_a_row_that_fails_alone_or_first_does_not_stop_the_others(
    store: Store, tmp_path: Path, server: ChatServer
) -> None:
    server.set(fail_on=BAD)
    assert run(store, tmp_path, server, rows=10, first=7, concurrency=1).rows == 2  # the bad one is the first
    assert run(store, tmp_path, server, rows=8, first=7, concurrency=1).rows == 0  # and here the only one


def test_a_server_that_fails_on_everything_is_gone_and_is_continued(
    store: Store, tmp_path: Path, server: ChatServer
) -> None:
    for how in ("status", "none", "inside", "malformed"):
        server.set(fail_every=1, fail_how=how)
        with pytest.raises(EngineError, match="does not answer"):
            run(store, tmp_path, server)
    server.set(fail_every=0)
    assert run(store, tmp_path, server).rows == ROWS


def test_an_error_in_a_200_is_treated_as_its_own_status(store: Store, tmp_path: Path, server: ChatServer) -> None:
    server.set(fail_every=3, fail_how="inside", fail_status=429)
    assert run(store, tmp_path, server, concurrency=4).rows == ROWS


def test_a_403_is_about_the_key_only_where_nothing_is_answered(
    store: Store, tmp_path: Path, server: ChatServer
) -> None:
    server.set(fail_on=BAD, fail_status=403)
    manifest = run(store, tmp_path, server, rows=10, first=7, concurrency=1)  # the first request is refused
    assert (manifest.rows, manifest.dropped) == (2, {"refused": 1})
    server.set(forget=1)
    assert run(store, tmp_path, server, rows=10, first=7) == manifest and server.stats()["total"] == 0
    server.set(fail_on="", fail_every=1)
    with pytest.raises(EngineRefused, match=r"wants a valid key .403"):
        run(store, tmp_path, server)


def test_a_refusal_in_the_words_of_moderation_is_the_rows_at_once() -> None:
    flagged = read_refusal(403, b'{"error": {"message": "no", "metadata": {"reasons": ["violence"]}}}')
    assert flagged.message == "no (flagged: violence)"
    for words in (flagged.message, "blocked by our content policy", "Moderation refused this"):
        assert read_refusal(403, words.encode()).is_moderation


def test_a_server_that_says_nothing_is_told_on_the_progress_line(
    store: Store, tmp_path: Path, server: ChatServer
) -> None:
    server.set(fail_on="question", fail_how="hang")
    file = write_jsonl(tmp_path / "in.jsonl", prompts(2))
    source = ingest(store, SourceSettings(path=str(file)), 8, "run")
    given = {"spec": server.spec, "retries": 1, "timeout_s": 1}
    planned = Planned(Answers(count=1), {"student": EngineSettings.model_validate(given)}, source.key)
    silent: list[dict[str, float]] = []
    with in_process(store) as pool:
        run_stage(store, planned, source, pool, "run", lambda progress: silent.append(progress.silent_s))
    assert any(seconds.get("openai:local-model", 0) >= 1 for seconds in silent)


def test_the_same_command_ends_well_twice_with_a_row_that_always_fails(tmp_path: Path) -> None:
    with chat_server("--latency-ms", "2") as url:
        server = ChatServer(url)
        server.set(fail_on=BAD, fail_how="none")
        write_jsonl(tmp_path / "in.jsonl", prompts(10))
        sample = ("sample", "in.jsonl", "--engine", server.spec, "--out", "out.jsonl", "--concurrency", 1)
        for _ in range(2):
            _, err = synthmill(*sample, cwd=tmp_path)
            assert "1 rows could not be answered: 1 no_choices" in err
            assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 9
        server.set(forget=1)
        synthmill(*sample, cwd=tmp_path)
        assert server.stats()["total"] == 0
        server.set(fail_on="")
        _, err = synthmill(*sample, "--retry-lost", cwd=tmp_path)
        assert "10 answers to 10 prompts" in err


def test_a_row_that_fails_every_time_is_settled_also_where_the_smallest_request_fails_too(
    store: Store, tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered in an earlier run is asked then."""
    monkeypatch.setattr(remote_model, "HELLO", BAD)
    server.set(fail_on=BAD)
    for _ in range(3):
        server.set(forget=1)
        assert run(store, tmp_path, server, concurrency=1).dropped == {"engine_error": 1}
    assert server.stats()["total"] == 0


@pytest.mark.parametrize("status", [404, 308])
def test_other_refusals_of_one_row_are_its_own(store: Store, tmp_path: Path, server: ChatServer, status: int) -> None:
    server.set(fail_on=BAD, fail_status=status)
    manifest = run(store, tmp_path, server, rows=10, first=7, concurrency=1)  # the first request
    assert (manifest.rows, manifest.dropped) == (2, {"refused": 1})
    server.set(fail_on="", fail_every=1)
    with pytest.raises(EngineRefused):
        run(store, tmp_path, server)
