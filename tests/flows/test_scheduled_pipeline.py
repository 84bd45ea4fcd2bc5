"""A pipeline as a deployment with a schedule, on a real server, run by a real worker."""

import os
import re
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from synthmill.flows import deployed
from synthmill.flows.commands.serve import run_prefect, write_deployments
from synthmill.flows.terminal.quiet import TELEMETRY_OFF
from synthmill.schemas.errors import InputError
from tests.command import ROOT, prefect_url
from tests.conftest import ChatServer
from tests.eight_steps import ASKING, STEPS, pipeline, rows_of, write_pipeline

ROWS = 20


def project(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """A project with the deployment that docs/operations.md shows, with these settings."""
    [shown] = re.findall(r"```yaml\n(deployments:.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)
    [deployment] = yaml.safe_load(shown)["deployments"]
    assert deployment["parameters"]["settings"].keys() == {"config", "store"}
    deployment |= {"parameters": {"settings": settings}, "work_pool": {"name": "pipelines"}}
    step = {"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}
    return {"name": "mine", "pull": [step], "deployments": [deployment]}


@pytest.mark.prefect
def test_a_scheduled_pipeline_is_made_by_a_worker(tmp_path: Path, server: ChatServer) -> None:
    write_pipeline(tmp_path, pipeline(server, ROWS))
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(project(tmp_path, {"config": "my.yaml", "store": "kept"})))
    url = prefect_url()
    home = {"PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **TELEMETRY_OFF, **home}
    run_prefect(("work-pool", "create", "pipelines", "--type", "process", "--overwrite"), environment)
    run_prefect(("deploy", "--all", "--prefect-file", str(tmp_path / "prefect.yaml")), environment)
    filtered = {"deployments": {"name": {"any_": ["nightly"]}}}
    [deployment] = httpx.post(f"{url}/deployments/filter", json=filtered, timeout=30).json()
    assert [each["schedule"]["cron"] for each in deployment["schedules"]] == ["0 3 * * *"]
    path = f"{url}/deployments/{deployment['id']}/create_flow_run"
    made = httpx.post(path, json={"state": {"type": "SCHEDULED"}}, timeout=30)
    assert made.status_code == 201, made.text
    full = {"settings": pipeline(server, ROWS)}
    in_full = httpx.post(path, json={"parameters": full, "enforce_parameter_schema": True}, timeout=30)
    assert in_full.status_code == 201, in_full.text
    httpx.delete(f"{url}/flow_runs/{in_full.json()['id']}", timeout=30)
    run_prefect(("worker", "start", "--pool", "pipelines", "--run-once"), environment)
    run = httpx.get(f"{url}/flow_runs/{made.json()['id']}", timeout=30).json()
    assert run["state_type"] == "COMPLETED", run["state"]
    assert rows_of(tmp_path / "kept", "questions").height == ROWS
    assert server.stats()["total"] == len(ASKING) * ROWS
    tasks = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    assert {each["name"] for each in httpx.post(f"{url}/task_runs/filter", json=tasks, timeout=30).json()} == {*STEPS}


def test_a_pipelines_settings_in_full_are_prefects_parameters_too(server: ChatServer, tmp_path: Path) -> None:
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(deployed.pipeline).model_dump()
    full = pipeline(server, ROWS)
    write_pipeline(tmp_path, full)
    for settings in (full, {"config": str(tmp_path / "my.yaml"), "store": "kept"}, full | {"source": "in.jsonl"}):
        jsonschema.validate({"settings": settings}, schema)
        read = deployed.pipeline.validate_parameters({"settings": settings})["settings"]
        assert list(read.steps) == list(STEPS)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"settings": full | {"sauce": "in.jsonl"}}, schema)


def test_templates_that_prefect_would_take_out_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load((ROOT / "examples" / "pipeline.yaml").read_text())
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(project(tmp_path, settings)))
    with pytest.raises(InputError, match=r"Prefect would take \{\{ \w+ \}\} out of the settings of nightly; write the"):
        write_deployments(tmp_path)
    monkeypatch.chdir(ROOT)
    deployments = yaml.safe_load(write_deployments(tmp_path).read_text())["deployments"]
    own = next(each for each in deployments if each["entrypoint"].endswith(":pipeline"))
    assert own["parameters"] == {"settings": {"config": "examples/pipeline.yaml"}}
