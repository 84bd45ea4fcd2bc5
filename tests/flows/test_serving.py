"""`synthmill serve`: a server that schedules, every flow deployed, a worker; and nothing left when it is stopped."""

import asyncio
import shutil
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import orjson
import psutil
import pytest
import yaml
from prefect import __version__ as PREFECT

from synthmill.flows.commands.serve import note_local_times, write_deployments
from synthmill.flows.methods import methods
from synthmill.flows.serving.server import check_version
from synthmill.schemas.errors import EngineError
from synthmill.storage.runs import process_start
from tests.command import ROOT, synthmill
from tests.json_server import json_server


def test_a_folder_without_a_project_deploys_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = yaml.safe_load(write_deployments(tmp_path).read_text())
    assert [each["name"] for each in project["deployments"]] == ["ad-hoc"] * len(methods())
    [step] = project["pull"]
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}


def test_a_schedule_by_a_local_clock_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Why: on 30 March 2025 the clocks of Berlin leave 2:30 out, and Prefect 3.7 comes at 1:30."""
    from prefect.server.schemas.schedules import CronSchedule

    schedules: dict[str, dict[str, Any]] = {"utc": {"cron": "30 2 * * *", "timezone": "UTC"}, "often": {"interval": 60}}
    schedules["berlin"] = {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}
    for name, schedule in schedules.items():
        note_local_times({"name": name, "schedules": [schedule]})
    [line] = capsys.readouterr().err.splitlines()
    assert "berlin runs by the clock of Europe/Berlin" in line and "write the cron in UTC" in line
    cron = CronSchedule(**schedules["berlin"])
    midnight = datetime(2025, 3, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    [early] = asyncio.run(cron.get_dates(1, midnight))
    assert early.isoformat() == "2025-03-30T01:30:00+01:00"


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (PREFECT, ""),
        (f"{PREFECT.rpartition('.')[0]}.99", ""),
        ("3.1.0", "need the same minor version: upgrade the older of both"),
        ("2.20.1", "upgrade the older of both, or unset PREFECT_API_URL"),
        (None, ""),
    ],
)
def test_a_server_of_another_version_is_told(
    version: str | None, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with json_server(lambda path, *_: (200 if version else 404, version, {})) as url:
        try:
            check_version(f"{url}/api")
            line = capsys.readouterr().err
        except EngineError as error:
            line = error.message
    assert bool(line) == bool(says) and says in line
    assert not says or (f"is {version}, and Prefect here is {PREFECT}" in line)


@pytest.mark.prefect
def test_serve_deploys_schedules_and_stops(tmp_path: Path) -> None:
    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        out, _ = synthmill("serve", "--port", port, cwd=tmp_path)
        assert f"http://127.0.0.1:{port}/deployments" in out
        state = orjson.loads((tmp_path / ".prefect" / "serve.json").read_bytes())
        deployments = httpx.post(f"{state['url']}/deployments/filter", json={}, timeout=30).json()
        scheduled = [each["name"] for each in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]]
        assert sorted(one["name"] for one in deployments) == sorted([*scheduled, *["ad-hoc"] * len(methods())])
        nightly = next(one for one in deployments if one["name"] == "nightly")
        assert nightly["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        automations = httpx.post(f"{state['url']}/automations/filter", json={}, timeout=30).json()
        assert [one["name"] for one in automations] == ["a run whose process is gone has crashed"]
        until = time.monotonic() + 90
        scheduled: set[str] = set()
        while len(scheduled) < 2 and time.monotonic() < until:
            time.sleep(1)
            runs = httpx.post(f"{state['url']}/flow_runs/filter", json={"limit": 200}, timeout=30).json()
            scheduled = {run["deployment_id"] for run in runs if run["state_type"] == "SCHEDULED"}
        assert scheduled == {one["id"] for one in deployments if one["schedules"]}
        again, _ = synthmill("serve", cwd=tmp_path)
        assert "it is running already" in again
        psutil.Process(state["processes"]["worker"][0]).kill()
        until = time.monotonic() + 20
        while process_start(state["processes"]["worker"][0]) and time.monotonic() < until:
            time.sleep(0.1)
        _, err = synthmill("serve", "--port", port, cwd=tmp_path)
        assert "a part of what was served from here is gone: starting all anew" in err
        before, state = state, orjson.loads((tmp_path / ".prefect" / "serve.json").read_bytes())
        assert not any(process_start(pid) for pid, _ in before["processes"].values())
    finally:
        out, _ = synthmill("serve", "--stop", cwd=tmp_path)
    assert out == "worker: ended\nserver: ended\n"
    assert not any(process_start(pid) for pid, _ in state["processes"].values())
    assert synthmill("serve", "--stop", cwd=tmp_path)[0] == "nothing is served from here\n"
