"""Work inside somebody's process: it runs where an event loop runs, and leaves everything as it was."""

import asyncio
import gc
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from synthmill.flows.commands.sample import SampleSettings, sample_file
from synthmill.flows.making.session import workers_of
from synthmill.flows.terminal.stopping import SIGNALS, STOP, working
from synthmill.schemas.errors import Stopped, StoreError
from synthmill.storage.artifacts import Store
from synthmill.storage.segments import segment_files
from synthmill.tasks.running import in_process
from synthmill.tasks.running.guard import MARK
from tests.conftest import ChatServer, prompts, write_jsonl


def sample(folder: Path, server: ChatServer, **more: Any) -> None:
    write_jsonl(folder / "in.jsonl", prompts(5))
    options = {"count": 1, "temperature": 0.8, "top_p": 0.95, "max_tokens": 64, "seed": 0, "limit": None, "workers": 0}
    columns = {"prompt_column": "prompt", "id_column": "id", "system_column": "system"}
    settings = SampleSettings(
        source=str(folder / "in.jsonl"),
        engine=server.spec,
        concurrency=4,
        store=str(folder / "store"),
        out=folder / "out.jsonl",
        ray_address=None,
        retry_lost=False,
        **{**options, **columns, **more},
    )
    sample_file(settings)


def surroundings() -> dict[str, Any]:
    return {
        "mark": os.environ.get(MARK),
        "signals": [signal.getsignal(number) for number in SIGNALS],
        "garbage": (gc.get_threshold(), gc.get_freeze_count()),
        "threads": {thread.name for thread in threading.enumerate() if thread.name.startswith("synthmill")},
        "stop": STOP.is_set(),
    }


def test_a_command_runs_in_a_notebooks_cell_and_leaves_the_process_as_it_was(
    tmp_path: Path, server: ChatServer
) -> None:
    before = surroundings()

    async def cell() -> None:
        sample(tmp_path, server)

    asyncio.run(cell())
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 5
    assert surroundings() == before


def test_a_stop_is_over_when_the_work_is(tmp_path: Path, server: ChatServer) -> None:
    before = surroundings()
    server.set(latency_ms=300)

    def interrupt() -> None:
        while not server.stats()["total"]:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(Stopped):
        sample(tmp_path, server, count=8)
    interrupting.join()
    assert surroundings() == before
    server.set(latency_ms=2)
    sample(tmp_path, server, count=8)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 40


def test_what_is_started_meanwhile_is_guarded_and_what_comes_later_is_not() -> None:
    with working():
        assert os.environ[MARK].startswith(f"{os.getpid()}:")
        with working():
            inner = os.environ[MARK]
        assert os.environ[MARK] == inner
    assert MARK not in os.environ


def test_workers_are_closed_also_where_nothing_can_be_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    real = in_process.InProcess.close

    def full(self: Any) -> None:
        closed.append(True)
        real(self)
        raise StoreError("cannot write: No space left on device")

    monkeypatch.setattr(in_process.InProcess, "close", full)
    with pytest.raises(StoreError, match="the first error"), workers_of(store, "run", 0, None):
        raise StoreError("the first error")
    assert closed == [True]
    assert not [thread for thread in threading.enumerate() if thread.name == "synthmill-driver"]
    assert segment_files(store.calls) == []


def test_a_run_whose_record_cannot_be_written_says_so_and_ends_with_its_own_error(
    tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk: workers are closed before the record is written."""
    from synthmill.flows.making import make as making
    from synthmill.flows.methods.synthesize import plan as plan_synthesize
    from synthmill.schemas.settings_files import read_settings
    from synthmill.schemas.synthesize_settings import SynthesizeSettings

    write_jsonl(tmp_path / "in.jsonl", prompts(2))
    given = {"source": str(tmp_path / "in.jsonl"), "store": str(tmp_path / "store"), "workers": 0}
    planned = plan_synthesize(read_settings(SynthesizeSettings, None, {**given, "engines": {"teacher": server.spec}}))
    events: list[str] = []
    real_close, real_write = in_process.InProcess.close, making.write_run

    def close(self: Any) -> None:
        events.append("workers closed")
        real_close(self)

    def write(store: Store, record: Any) -> Any:
        if record.status == "running":
            return real_write(store, record)
        events.append(f"record: {record.status}, {record.error}")
        raise StoreError("cannot write the record: No space left on device")

    def no_space(*_: Any) -> Any:
        raise StoreError("cannot write a part: No space left on device")

    monkeypatch.setattr(in_process.InProcess, "close", close)
    monkeypatch.setattr(making, "write_run", write)
    monkeypatch.setattr(making, "make_steps", no_space)
    with pytest.raises(StoreError, match="cannot write a part"):
        making.make_all(planned)
    assert events == ["workers closed", "record: failed, cannot write a part: No space left on device"]
    assert "the run's record is not written: cannot write the record" in capsys.readouterr().err
    [record] = (tmp_path / "store" / "runs").glob("*.json")
    assert orjson.loads(record.read_bytes())["status"] == "running"  # the next run marks it as crashed
