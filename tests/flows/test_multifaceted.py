"""The flows `multifaceted` and `judge`, whole, against the local chat server; and TRL on what they make."""

from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
import yaml

from synthmill.flows.methods.multifaceted import plan as plan_multifaceted
from synthmill.flows.pages.sunburst import slices, sunburst
from synthmill.schemas.multifaceted_settings import MultifacetedSettings
from synthmill.schemas.settings_files import read_settings
from tests.command import synthmill
from tests.conftest import ChatServer, prompts, write_jsonl
from tests.tiny import make_tiny_model, one_step

FILTERED = [
    {"id": "has", "prompt": "Why do rivers bend so much?", "system": "Be brief."},
    {"id": "persona", "prompt": "You are a pirate. Why do rivers bend?"},
]


@pytest.fixture
def config(tmp_path: Path, server: ChatServer) -> Path:
    write_jsonl(tmp_path / "in.jsonl", [*prompts(24), *FILTERED])
    settings = {
        "source": "in.jsonl",
        "engines": {"teacher": server.spec},
        "bench": {"share": 0.2, "threshold": 1},
        "dedup": {"layers": ["exact"]},  # the prompts differ by a number only
        "rows_per_part": 10,
        "workers": 0,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "run.yaml"


def rows_of(folder: Path, name: str, split: str = "train") -> pl.DataFrame:
    return pl.read_parquet(folder / "data" / name / f"{split}-*.parquet")


def test_instructions_to_splits_then_nothing_to_do_then_only_what_is_new(
    config: Path, tmp_path: Path, server: ChatServer
) -> None:
    run = ("run", "multifaceted", "--config", config)
    out, _ = synthmill(*run, cwd=tmp_path)
    asked = server.stats()["total"]
    assert "filtered: 1 dropped, persona" in out
    assert "How even the values came out" in out and "seeds dealt" in out
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    sft, small, pairs = rows_of(folder, "sft"), rows_of(folder, "small"), rows_of(folder, "preference")
    bench, rm, rm_test = rows_of(folder, "bench", "test"), rows_of(folder, "rm"), rows_of(folder, "rm", "test")
    assert sft.height == 3 * small.height == 3 * pairs.height == 3 * rm.height
    assert bench.height == 3 * rm_test.height
    assert small.height + rm_test.height == 24
    assert not set(sft["parent_id"]) & set(bench["parent_id"])
    from datasets import get_dataset_config_names, load_dataset

    assert get_dataset_config_names(str(folder)) == ["sft", "small", "preference", "rm", "bench"]
    loaded = load_dataset(str(folder), "rm", cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": rm.height, "test": rm_test.height}

    page = (folder / "report.html").read_text()
    assert 'class="sunburst"' in page and page.count("<script") == 1
    card = (folder / "README.md").read_text()
    assert (
        "| `instructions` | 26 | 26 | 100% | none |\n| `filtered` | 26 | 24 | 92% | 1 has_system, 1 persona |" in card
    )

    catalog = duckdb.connect(str(tmp_path / "store" / "catalog.duckdb"), read_only=True)
    walk = (
        "SELECT count(*) FROM rubrics b JOIN bench_variants v ON b.parent_id = v.id "
        "JOIN responses r ON v.parent_id = r.id JOIN system_messages s ON r.parent_id = s.id "
        "JOIN preference_sets p ON s.parent_id = p.id JOIN filtered f ON p.parent_id = f.id "
        "JOIN instructions i ON f.id = i.id"
    )
    assert catalog.sql(walk).fetchall() == [(bench.height,)]
    catalog.close()

    _, err = synthmill(*run, cwd=tmp_path)
    assert "nothing to do" in err
    write_jsonl(tmp_path / "in.jsonl", [*prompts(30), *FILTERED])
    synthmill(*run, "--workers", 0, cwd=tmp_path)
    assert server.stats()["repeated"] == 0
    assert server.stats()["total"] - asked <= 6 * (3 + 3 + 3 + 12) * 1.5

    # a model is judged on the bench that was made
    judge = ("run", "judge", "--set", f"source={folder}/data/bench/test-00000-of-00001.parquet", "--set", "runs=2")
    out, _ = synthmill(*judge, "--set", f"engines.teacher={server.spec}", "--workers", 0, cwd=tmp_path)
    assert "spread over runs" in out
    [scores] = (tmp_path / "store" / "datasets").glob("judge-*")
    judged = pl.read_parquet(scores / "data" / "*.parquet")
    assert judged.height == bench.height
    scores_of = [score for row in judged["scores"].to_list() for run in row for score in run]
    assert len(scores_of) == bench.height * 2 * 4
    assert set(scores_of) <= {1, 2, 3, 4, 5}
    mean = sum(scores_of) / len(scores_of)  # none is missing, so the mean of means is the pooled one
    assert f"| all rubrics | {mean:.2f} |" in (scores / "README.md").read_text()
    assert server.stats()["repeated"] == 0


def test_the_splits_go_through_trl_unchanged(config: Path, tmp_path: Path) -> None:
    synthmill("run", "multifaceted", "--config", config, "--workers", 0, cwd=tmp_path)
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    model = make_tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    common = one_step(tmp_path)

    def rows(name: str) -> Any:
        return load_dataset(str(folder), name, split="train", cache_dir=str(tmp_path / "cache"))

    sft = SFTTrainer(str(model), args=SFTConfig(**common), train_dataset=rows("sft"), processing_class=tokenizer)
    seen = tokenizer.decode(sft.train_dataset[0]["input_ids"])
    messages = rows("sft")[0]["messages"]
    assert seen == tokenizer.apply_chat_template(messages, tokenize=False)
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    sft.train()
    dpo = DPOTrainer(str(model), args=DPOConfig(**common), train_dataset=rows("preference"), processing_class=tokenizer)
    first, pair = dpo.train_dataset[0], rows("preference")[0]
    told = tokenizer.decode(first["prompt_ids"])
    assert told == tokenizer.apply_chat_template(pair["prompt"], tokenize=False, add_generation_prompt=True)
    for side in ("chosen", "rejected"):
        assert tokenizer.decode(first[f"{side}_ids"]).startswith(pair[side][0]["content"])
    dpo.train()


def test_without_a_bench_there_is_none(config: Path, tmp_path: Path) -> None:
    out, _ = synthmill(
        "run",
        "multifaceted",
        "--config",
        config,
        "--set",
        "bench.share=0",
        "--preview",
        3,
        "--workers",
        0,
        cwd=tmp_path,
    )
    assert out.count("system: ") >= 3
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    assert sorted(path.name for path in (folder / "data").iterdir()) == ["preference", "rm", "sft", "small"]
    assert rows_of(folder, "sft").height == 9


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["taxonomy=nowhere.yaml"], "nowhere.yaml is not there"),
        (["taxonomy=bad.yaml"], "style: value 'warm' is there twice"),
        (["taxonomy=small.yaml"], "the taxonomy's dimension style has 2 values for train, but 3 sets need as many"),
        (["decontaminate.benchmarks=[nowhere.jsonl]"], "nowhere.jsonl is not there"),
        (["filter.min_chars=9000"], "min_chars is 9000, above max_chars, 8000"),
        (["preference_sets.sampler=best"], "preference_sets.sampler"),
        (["filter.languages=[en, klingon]"], "filter.languages: 'klingon' is no language that can be told"),
        (["decontaminate.benchmarks=nulls.jsonl"], "line-1: it has no prompt"),
        (["bench.share=1"], "bench.share"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_made(
    config: Path, tmp_path: Path, sets: list[str], said: str
) -> None:
    (tmp_path / "bad.yaml").write_text("style: {tone: [warm, Warm]}")
    write_jsonl(tmp_path / "nulls.jsonl", [{"prompt": None}])
    (tmp_path / "small.yaml").write_text("style: {tone: [warm, dry, plain]}")
    given = [word for one in sets for word in ("--set", one)]
    _, err = synthmill("run", "multifaceted", "--config", config, *given, cwd=tmp_path, expect=2)
    assert said in err
    assert not (tmp_path / "store").exists()


def test_one_more_benchmark_or_value_changes_keys_and_nothing_else_does(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "bench.jsonl", prompts(1))

    def keys(**more: Any) -> dict[str, str]:
        planned = plan_multifaceted(read_settings(MultifacetedSettings, config, more))
        return {step.stage.name: step.key for step in planned.stages}

    before = keys()
    checked = keys(**{"decontaminate.benchmarks": ["bench.jsonl"]})
    assert checked["filtered"] == before["filtered"]
    assert checked["preference_sets"] != before["preference_sets"]
    assert keys(workers=3) == before
    other = keys(**{"responses.temperature": 0.5})
    assert {name for name in before if before[name] == other[name]} == {
        "filtered",
        "unique_instructions",
        "preference_sets",
        "system_messages",
    }


def test_a_sunburst_holds_every_count_and_escapes_names() -> None:
    tree = {"a & b": {"<script>": {"x": 3, "y": 1}}, "c": {"d": {"z": 4}}}
    picture = sunburst(tree, "values")
    assert "<script>" not in picture
    assert "a &amp; b / &lt;script&gt; / x: 3 (37.5%)" in picture
    ring = [one for one in slices(tree, 0, 1) if len(one.path) == 1]
    assert [(one.path, one.start, one.end) for one in ring] == [(("a & b",), 0, 0.5), (("c",), 0.5, 1)]
    many = {"a": {"b": {f"v{n}": 1 for n in range(2000)}}}
    assert {one.path[-1]: one.leaves for one in slices(many, 0, 1)} == {"a": 2000, "b": 2000, "others": 2000}
