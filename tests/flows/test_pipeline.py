"""Pipelines of one's own: what a file may say, how it is planned, and what is wrong with it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from synthmill.flows.commands.as_yaml import pipeline_of
from synthmill.flows.methods import method
from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings_files import read_settings
from tests.conftest import prompts, write_jsonl
from tests.flows.test_plans import SETTINGS, prepare

ENGINE = "openai:model@http://127.0.0.1:9/v1"
WITHOUT_FILE = ("dialogues", "pipeline", "skillmix")
"""Flows whose rows come from their settings, and pipelines themselves."""


def planned(folder: Path, text: str, **more: Any) -> Any:
    """The plan of a pipeline's file, beside eight prompts."""
    write_jsonl(folder / "prompts.jsonl", [{**row, "topic": "t"} for row in prompts(8)])
    (folder / "my.yaml").write_text(text)
    settings = read_settings(PipelineSettings, folder / "my.yaml", {"store": str(folder / "store"), **more})
    return plan(settings)


@pytest.mark.parametrize("flow", [name for name in SETTINGS if name not in WITHOUT_FILE])
def test_a_flow_as_yaml_has_the_flows_keys(flow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    named = prepare(flow)
    written = yaml.safe_load(yaml.safe_dump(pipeline_of(named), sort_keys=False))
    own = plan(read_settings(PipelineSettings, None, written | {"store": "store"}))
    assert [step.key for step in own.stages] == [step.key for step in named.stages]
    assert [source.key for source in own.sources] == [source.key for source in named.sources]
    assert own.trunk == named.trunk


STEPS = """
source: {path: FOLDER/prompts.jsonl}
engines: {teacher: "openai:model@http://127.0.0.1:9/v1"}
steps:
"""


@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        ("  a: {stage: answer_pols}", "steps.a: no stage is called 'answer_pols'; the nearest: answer_pool"),
        ("  a: {}", "steps: a names no stage"),
        (
            "  a: {stage: answer_pool, from: b}\n  b: {stage: r3_scores}",
            "steps.a: from names b, which comes at or behind",
        ),
        (
            "  a: {stage: answer_pool, from: a}",
            "steps.a: its rows would come from itself (a from a); begin one of them",
        ),
        ("  a: {stage: answer_pool, from: sauce}", "steps.a: from names 'sauce'; expected one of source, the nearest"),
        ("  a: {stage: r3_scores}", "steps.a: r3_scores takes pools (id, prompt, system, reference, answers, scores)"),
        (
            "  a: {stage: r3_scores}",
            "and source has prompts (id, prompt, topic): system, reference, answers, scores are",
        ),
        ("  a: {stage: answer_pool, sampling_: 1}", "steps.a: sampling_: the stage answer_pool has no such setting"),
        ("  a: {stage: answer_pool, count: many}", "steps.a: count: Input should be a valid integer"),
        ("  a: {stage: unique_rows, columns: [text]}", "steps.a: unique_rows compares text; the rows have id, prompt"),
        ("  a: {stage: unique_rows}\n  b: {stage: unique_rows, from: source}", "steps.b: b is the same as the step a"),
        ("  a: {stage: unique_rows}\n  a: {stage: unique_rows}", "a stands twice, the second time in line 6"),
        ("  source: {stage: unique_rows}", "source is a source and a step"),
        ("  a: {stage: unique_rows}\npublish: {x: {from: b}}", "publish.x: from names 'b'; expected one of source, a"),
        ("  a: {stage: unique_rows}\npublish: {x: {kind: completions}}", "publish.x: completions need `answer`"),
        (
            "  a: {stage: unique_rows}\npublish: {x: {kind: preferences}}",
            "publish.x: preferences need chosen, rejected",
        ),
        ("  a: {stage: unique_rows}\npublish: {x: {}, x: {}}", "x stands twice"),
        ("  a: {stage: http_scores, url: 'http://u:p@h/'}", "secret"),
    ],
)
def test_faults_are_one_clear_line_before_anything_is_asked(steps: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        planned(tmp_path, STEPS.replace("FOLDER", str(tmp_path)) + steps)
    assert fault in error.value.message and "\n" not in error.value.message


def test_seed_rows_and_label_are_filled_in(tmp_path: Path) -> None:
    steps = """
  pools: {stage: answer_pool, policies: [teacher], count: 2, temperature: 0}
  quality: {stage: direct_scores, role: judge, max_tokens: 9}
"""
    own = planned(tmp_path, STEPS.replace("FOLDER", str(tmp_path)) + steps, seed=7, rows_per_part=3)
    pools, quality = own.stages
    assert (pools.step, quality.step) == ("pools", "quality") and quality.stage.label == "quality"
    assert pools.stage.sampling.temperature == 0 and pools.stage.sampling.seed == quality.stage.sampling.seed == 7
    assert quality.stage.sampling.max_tokens == 9
    assert pools.carries == ("topic",) and quality.roles["judge"].model == "model"


def test_what_meaning_needs_is_planned_before_it(tmp_path: Path) -> None:
    steps = "  unique: {stage: unique_rows, layers: [meaning]}\n"
    own = planned(tmp_path, STEPS.replace("FOLDER", str(tmp_path)) + steps)
    assert [step.step for step in own.stages] == ["unique-vectors", "unique"]
    assert own.stages[1].stage.vectors == own.stages[0].key


def test_every_flow_is_a_pipeline_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for flow in WITHOUT_FILE:
        if flow in SETTINGS and flow != "pipeline":
            with pytest.raises(InputError, match="which no file of a pipeline holds"):
                pipeline_of(prepare(flow))
    assert method("pipeline").about
