"""Keys are locked: what a store of today holds is found by the same settings tomorrow, wherever code has moved."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from flows.plans import FLOWS
from schemas.settings import read_settings

ROOT = Path(__file__).parents[2]
LOCK = Path(__file__).with_name("plans.json")
REMEDY = (
    "stores of today would be made again; if that is meant, run SYNTHMILL_LOCK=1 pytest tests/flows/test_plans.py and "
    "commit the lock"
)
ENGINE = {"spec": "openai:model@http://127.0.0.1:9/v1"}
SOURCE = "examples/instructions.jsonl"
SETTINGS: dict[str, dict[str, Any]] = {
    "synthesize": yaml.safe_load((ROOT / "examples" / "demo.yaml").read_text()),
    "multifaceted": yaml.safe_load((ROOT / "examples" / "multifaceted.yaml").read_text()),
    "dialogues": yaml.safe_load((ROOT / "examples" / "dialogues.yaml").read_text()),
    "retpo": yaml.safe_load((ROOT / "examples" / "retpo.yaml").read_text()),
    "preferences": yaml.safe_load((ROOT / "examples" / "preferences.yaml").read_text()),
    "self-rip": {"source": SOURCE, "scorers": ["judge"], "reward": "judge", "thresholds": ""},
    "judge": {},
}
BENCH_ROW = {
    "system": "Be brief.",
    "prompt": "Why?",
    "preference_set": [{"dimension": "style", "subdimension": "length", "preference": "brief", "description": "short"}],
    "rubrics": [{"dimension": "style", "criteria": "brief?", "scores": ["1", "2", "3", "4", "5"]}],
    "reference_answer": "Because.",
}


def keys(store: Path) -> dict[str, list[list[str]]]:
    """Every flow's steps with their keys, sources first; nothing is asked or made."""
    bench, limits = store.parent / "bench.jsonl", store.parent / "limits.json"
    bench.write_text(json.dumps(BENCH_ROW) + "\n")
    limits.write_text('{"gap": 2}')
    planned: dict[str, list[list[str]]] = {}
    for flow, (model, plan) in FLOWS.items():
        settings = SETTINGS[flow] | {"store": str(store)}
        if flow == "self-rip":
            settings["thresholds"] = str(limits)
        if flow == "judge":
            settings |= {"engines": {"student": ENGINE, "judge": ENGINE}, "source": str(bench)}
        else:
            settings |= {"engines": {"teacher": ENGINE}}
        made = plan(read_settings(model, None, settings))
        steps = [[source.stage, source.key] for source in made.sources]
        planned[flow] = steps + [[step.stage.name, step.key] for step in made.stages]
        planned[flow].append(["dataset", made.dataset.name])
    return planned


def test_keys_match_their_lock(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    found = keys(tmp_path / "store")
    if os.environ.get("SYNTHMILL_LOCK"):
        LOCK.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(LOCK.read_text()), REMEDY
