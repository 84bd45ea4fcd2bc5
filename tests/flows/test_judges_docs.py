"""Every block of docs/judges.md is planned, and the page names every judge of its table as it is called."""

import re
from pathlib import Path

import pytest
import yaml

from synthmill.flows.making.stage_list import stage_named
from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.schemas.settings_files import read_settings
from synthmill.tasks.scorers.scoring import ScorerSettings, ScoringContext
from tests.command import ROOT
from tests.conftest import prompts, write_jsonl
from tests.flows.test_pipeline_docs import ENGINE, whole

GUIDE = (ROOT / "docs" / "judges.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", GUIDE, re.S)
JUDGES = re.findall(r"^\| [^|]* \| `([\w-]+)` \| `(\w+)` \|", GUIDE, re.M)


@pytest.mark.parametrize("text", BLOCKS)
def test_every_block_is_planned(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "prompts.jsonl", prompts(8))
    planned = plan(read_settings(PipelineSettings, None, whole(text, ENGINE)))
    assert [step.step for step in planned.stages] == list(yaml.safe_load(text)["steps"])


def test_the_table_names_scorers_and_their_stages() -> None:
    assert len(JUDGES) == 9
    for kind, stage in JUDGES:
        weights = {"weights": {"r3": 1}} if kind == "panel" else {}
        settings = ScorerSettings.model_validate({"spec": kind, **weights})
        assert type(settings.stage(ScoringContext("minilm"))) is stage_named(stage)
        assert f"- `{kind}`: " in (ROOT / "docs" / "pools.md").read_text()
