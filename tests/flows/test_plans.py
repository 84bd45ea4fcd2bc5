"""Keys are locked: what a store of today holds is found by the same settings tomorrow, wherever code has moved."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from synthmill.flows.making.plan import Plan
from synthmill.flows.methods import method
from synthmill.schemas.settings_files import read_settings

ROOT = Path(__file__).parents[2]
LOCK = Path(__file__).with_name("plans.json")
REMEDY = (
    "stores of today would be made again; if that is meant, run SYNTHMILL_LOCK=1 pytest tests/flows/test_plans.py and "
    "commit the lock"
)
ENGINE = {"spec": "openai:model@http://127.0.0.1:9/v1"}
SOURCE = "examples/instructions.jsonl"
SETTINGS: dict[str, dict[str, Any]] = {
    **{path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "examples").glob("*.yaml"))},
    "self-rip": {"source": SOURCE, "scorers": ["judge"], "reward": "judge", "thresholds": "limits.json"},
    "judge": {"source": "bench.jsonl"},
}
BENCH_ROW = {
    "system": "Be brief.",
    "prompt": "Why?",
    "preference_set": [{"dimension": "style", "subdimension": "length", "preference": "brief", "description": "short"}],
    "rubrics": [{"dimension": "style", "criteria": "brief?", "scores": ["1", "2", "3", "4", "5"]}],
    "reference_answer": "Because.",
}


def prepare(flow: str) -> Plan:
    """A flow's plan from its example; nothing is asked or made. Works in the current folder."""
    if not Path("examples").exists():
        Path("examples").symlink_to(ROOT / "examples")
        Path("bench.jsonl").write_text(json.dumps(BENCH_ROW) + "\n")
        Path("limits.json").write_text('{"gap": 2}')
    roles = ("student", "judge") if flow == "judge" else ("teacher",)
    settings = SETTINGS[flow] | {"store": "store", "engines": dict.fromkeys(roles, ENGINE)}
    return method(flow).plan(read_settings(method(flow).settings, None, settings))


def keys() -> dict[str, list[list[str]]]:
    """Every flow's steps with their keys, sources first."""
    planned: dict[str, list[list[str]]] = {}
    for flow in SETTINGS:
        plan = prepare(flow)
        steps = [[source.stage, source.key] for source in plan.sources]
        planned[flow] = steps + [[step.stage.name, step.key] for step in plan.stages]
        planned[flow].append(["dataset", plan.dataset.name])
    return planned


def test_keys_match_their_lock(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    planned = keys()
    if os.environ.get("SYNTHMILL_LOCK"):
        LOCK.write_text(json.dumps(planned, indent=2) + "\n")
    assert planned == json.loads(LOCK.read_text()), REMEDY
