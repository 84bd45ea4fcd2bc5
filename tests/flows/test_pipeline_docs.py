"""What docs/pipelines.md, the README and the examples say of pipelines works: every block is planned, most are run."""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
import yaml

from synthmill.flows import deployed
from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.schemas.settings_files import read_settings
from synthmill.storage.artifacts import Store
from synthmill.storage.published.folder import marker_of
from synthmill.storage.runs import runs
from synthmill.tasks.scorers.judges import Judge
from synthmill.tasks.scorers.verified import VerifierScores
from tests.command import ROOT, synthmill
from tests.conftest import ChatServer, prompts, write_jsonl
from tests.json_server import Reply, json_server

GUIDE = ROOT / "docs" / "pipelines.md"
BLOCK = re.compile(r"(<!-- run -->\n)?```yaml\n(.*?)```", re.S)
BLOCKS = [(bool(marker), text) for marker, text in BLOCK.findall(GUIDE.read_text())]
TRUSTED = ROOT / "examples" / "pipelines" / "trusted.yaml"
EXAMPLES = sorted({*TRUSTED.parent.glob("*.yaml")} - {TRUSTED})
EMBEDDED = "llamacpp:smollm2"
ENGINE = "openai:model@http://127.0.0.1:9/v1"


def prepare(folder: Path) -> None:
    """The files that the blocks name."""
    write_jsonl(folder / "prompts.jsonl", [{**row, "area": f"a{n % 2}"} for n, row in enumerate(prompts(8))])
    write_jsonl(folder / "persons.jsonl", [{"name": name} for name in ("Mei", "Kofi")])
    write_jsonl(folder / "bench.jsonl", [{"prompt": "Prove that there are infinitely many primes."}])
    [python] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
    (folder / "mine.py").write_text(python)
    (folder / "examples").symlink_to(ROOT / "examples")


def whole(text: str, engine: str) -> dict[str, Any]:
    """A block as a file: with the source and the engines that it leaves out."""
    written = yaml.safe_load(text)
    roles = written.get("engines", {"teacher": ""})
    return {"source": "prompts.jsonl", **written, "engines": dict.fromkeys(roles, engine), "workers": 0}


@pytest.mark.parametrize(("text"), [text for _, text in BLOCKS if "deployments:" not in text])
def test_every_block_of_the_guide_is_planned(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    planned = plan(read_settings(PipelineSettings, None, whole(text, ENGINE)))
    assert {step.step for step in planned.stages} >= yaml.safe_load(text)["steps"].keys()


@pytest.mark.parametrize("text", [text for runs, text in BLOCKS if runs])
def test_blocks_that_say_so_run(text: str, server: ChatServer, tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(whole(text, server.spec), sort_keys=False))
    synthmill("run", "my.yaml", cwd=tmp_path)
    last = list(yaml.safe_load(text)["steps"])[-1]
    assert "rows of" in synthmill("show", last, cwd=tmp_path)[0]
    assert "nothing to do" in synthmill("run", "my.yaml", cwd=tmp_path)[1]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run_and_show_their_rows(example: Path, server: ChatServer, tmp_path: Path) -> None:
    prepare(tmp_path)
    engines = [f"engines.{role}={server.spec}" for role in yaml.safe_load(example.read_text())["engines"]]
    sets = [part for engine in engines for part in ("--set", engine)]
    out, _ = synthmill("run", f"examples/pipelines/{example.name}", *sets, "--workers", 0, cwd=tmp_path)
    assert "assistant: " in out
    _, exported = synthmill("export", "latest", "--to", "out", "--format", "sft", cwd=tmp_path)
    assert "rows -> " in exported


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_a_script_makes_what_its_file_makes(
    example: Path, server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    script = example.with_suffix(".py")
    exec(compile(script.read_text().replace(EMBEDDED, server.spec), script, "exec"), {"__name__": "__main__"})
    [record] = runs(Store(tmp_path / "store"))
    planned = plan(read_settings(PipelineSettings, None, whole(example.read_text(), server.spec)))
    keys = [*(source.key for source in planned.sources), *(step.key for step in planned.stages)]
    assert [step.key for step in record.stages] == keys
    [table] = yaml.safe_load(example.read_text())["publish"]
    assert marker_of(tmp_path / script.stem)["configs"][table]["kind"] == "completions"


def test_three_judges_a_verifier_and_two_cuts_are_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    settings = read_settings(PipelineSettings, None, whole(TRUSTED.read_text(), ENGINE))
    stages = {step.step: step.stage for step in plan(settings).stages}
    judges = {step for step, stage in stages.items() if isinstance(stage, Judge)}
    assert judges == {"points", "rewards", "matches"} == stages["panel"].weights.keys()
    assert isinstance(stages["brief"], VerifierScores)
    rules = [rule.rule for step in ("agreed", "passed") for rule in stages[step].cuts]
    assert rules == ["max-min", "pass-over-fail"] and lines_of(TRUSTED) <= 25


def reply(path: str, _: dict[str, str], data: bytes) -> Reply:
    """A student whose answers say yes, and judges who count how often they do."""
    if not data:
        return 200, {"data": [{"id": "model"}]}, {}
    body = json.loads(data)
    text = body["messages"][-1]["content"]

    def yes(after: str) -> int:
        return text.rpartition(f"{after}:\n")[2].partition("\n\n")[0].count("yes")

    if "Score: TOTAL" in text:
        answers = [f"Points for each yes.\nScore: {min(5, yes('The response'))}"]
    elif '{"rubric"' in text:
        criteria = [{"criterion": f"It says yes {n} times.", "importance": "important"} for n in range(1, 6)]
        answers = [json.dumps({"rubric": criteria})]
    elif "The criteria:" in text:
        answers = [json.dumps({str(n): yes("The response") >= n for n in range(1, 6)})]
    elif "Response A:" in text:
        answers = ["A" if yes("Response A") > yes("Response B") else "B"]
    else:
        draws = (Random(f"{body.get('seed')} {n} {text}") for n in range(body.get("n") or 1))
        answers = ["yes " * draw.randrange(6) + "no " * draw.choice((3, 300)) for draw in draws]
    choices = [
        {"index": n, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
        for n, answer in enumerate(answers)
    ]
    return 200, {"choices": choices, "usage": {"prompt_tokens": 1, "completion_tokens": 1}}, {}


def test_three_judges_a_verifier_and_two_cuts_make_pairs(tmp_path: Path) -> None:
    prepare(tmp_path)
    with json_server(reply) as url:
        engines = [f"engines.{role}=openai:model@{url}/v1" for role in ("student", "judge", "author")]
        sets = [part for engine in engines for part in ("--set", engine)]
        synthmill("run", "examples/pipelines/trusted.yaml", *sets, "--workers", 0, cwd=tmp_path)
    [folder] = (tmp_path / "store" / "datasets").glob("trusted-*")
    tables = {name: pl.read_parquet(folder / "data" / name / "*.parquet") for name in ("agreed", "passed", "rl")}
    said = {
        name: [(chosen[-1]["content"], rejected[-1]["content"]) for chosen, rejected in pairs.iter_rows()]
        for name in ("agreed", "passed")
        if (pairs := tables[name].select("chosen", "rejected")).height
    }
    assert all(chosen.count("yes") > rejected.count("yes") for chosen, rejected in said["agreed"])
    assert all(len(chosen) < 200 < 800 < len(rejected) for chosen, rejected in said["passed"])
    assert tables["rl"].height and "rubric" in tables["rl"].columns
    assert "How it was made" in (folder / "README.md").read_text()


def lines_of(path: Path) -> int:
    """Lines without blank ones, comments and the docstring's."""
    return sum(line.strip() != "" and line[0] not in '#"' for line in path.read_text().splitlines())


def test_the_guide_counts_the_lines_of_the_examples() -> None:
    counts = re.findall(r"\[(\d+)\]\(\.\./(examples/pipelines/\S+)\)", GUIDE.read_text())
    files = [*EXAMPLES, *(path.with_suffix(".py") for path in EXAMPLES)]
    lines = {str(path.relative_to(ROOT)): lines_of(path) for path in files}
    assert {path: int(count) for count, path in counts} == lines
    assert max(lines.values()) <= 12


def test_the_deployment_of_the_guide_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(whole(BLOCKS[0][1], ENGINE)))
    [text] = [text for _, text in BLOCKS if "deployments:" in text]
    [deployment] = yaml.safe_load(text)["deployments"]
    name = deployment["entrypoint"].removeprefix("synthmill.flows.deployed:")
    settings = getattr(deployed, name).validate_parameters(deployment["parameters"])["settings"]
    assert settings.name == "my" and list(settings.steps) == ["answer"]


def test_the_pipeline_in_the_readme_is_an_example() -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    [example] = [path for path in EXAMPLES if yaml.safe_load(path.read_text()) == yaml.safe_load(text)]
    [script] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert example.with_suffix(".py").read_text().endswith(f'"""\n\n{script}')


def test_stages_are_listed_and_shown(tmp_path: Path) -> None:
    prepare(tmp_path)
    listed, _ = synthmill("stages", cwd=tmp_path)
    groups = re.findall(r"^takes (.*?) *$", listed, re.M)
    assert groups[0] == "any rows" and "pools" in groups
    kit = listed.partition("takes prompts")[0]
    assert re.search(r"^ ask +teacher", kit, re.M) and " filter " in kit and " answer_pool " not in kit
    assert max(map(len, listed.splitlines())) <= 160
    assert "must be set: score, value" in synthmill("stages", "at_least", cwd=tmp_path)[0]
    assert " with " in synthmill("stages", "join", cwd=tmp_path)[0]
    assert "mark" in synthmill("stages", "./mine.py:shouted", cwd=tmp_path)[0]
