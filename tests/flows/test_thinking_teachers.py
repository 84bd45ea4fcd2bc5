"""Flows whole, with a teacher and a judge that think, in the text and in a field; and what trainers are given."""

from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from tests.command import ROOT, synthmill
from tests.conftest import ChatServer, prompts, write_jsonl
from tests.tiny import make_tiny_model, one_step

THOUGHT = "I could say"
FIELDS = ("text", "reasoning", "reasoning_content")
PAIRS: dict[str, Any] = {
    "source": "in.jsonl",
    "answers": {"count": 2},
    "scorers": ["r3"],
    "reward": "r3",
    "cuts": ["max-min"],
    "dedup": {"layers": ["exact"]},  # the prompts differ by a number only
}


def run(flow: str, folder: Path, settings: dict[str, Any]) -> Path:
    """A flow's dataset."""
    (folder / "run.yaml").write_bytes(orjson.dumps({"workers": 0, **settings}))
    synthmill("run", flow, "--config", "run.yaml", cwd=folder)
    return max((folder / "store" / "datasets").glob(f"{flow}-*"), key=lambda dataset: dataset.stat().st_mtime)


def rows_of(dataset: Path, name: str, split: str = "train") -> list[dict[str, Any]]:
    return pl.read_parquet(dataset / "data" / name / f"{split}-*.parquet").to_dicts()


def all_text(value: Any) -> str:
    """All texts of a row but those of thinking."""
    if isinstance(value, dict):
        return " ".join(all_text(each) for name, each in value.items() if "reasoning" not in name)
    return " ".join(map(all_text, value)) if isinstance(value, list) else str(value)


@pytest.fixture(params=FIELDS)
def thinker(request: Any, server: ChatServer) -> ChatServer:
    server.set(thinks=request.param)
    return server


def test_preferences(thinker: ChatServer, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(4))
    scorers = ["r3", {"spec": "judge", "evaluations": 1}, {"spec": "pairwise", "opponents": 1}]
    settings = {**PAIRS, "engines": {"teacher": thinker.spec}, "answers": {"count": 3}}
    settings |= {"scorers": scorers, "rows_per_part": 2}
    dataset = run("preferences", tmp_path, settings)
    pairs, pools = rows_of(dataset, "dpo_max-min"), rows_of(dataset, "pools")
    assert len(pairs) == len(pools) == 4
    for pool in pools:
        assert THOUGHT not in all_text(pool) and len(pool["reasoning"]) == 3
        assert all(thought.startswith(THOUGHT) for thought in pool["reasoning"])
        assert 2 not in pool["judge"] or pool["judge"] != [2, 2, 2]  # what thoughts quote is no score
    for pair in pairs:
        for side in ("chosen", "rejected"):
            [message] = pair[side]
            assert message["reasoning_content"].startswith(THOUGHT) and THOUGHT not in message["content"]
        assert set(pair["prompt"][0]) == {"role", "content"}
    assert "8 of 8 answers come with what their model thought" in (dataset / "README.md").read_text()


def test_thinking_is_dropped_without_a_new_call_and_no_thinking_is_no_column(
    server: ChatServer, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(2))
    server.set(thinks="text")
    datasets = []
    for thinking in ("keep", "drop"):
        engine = {"spec": server.spec, "thinking": thinking}
        datasets.append(run("preferences", tmp_path, {**PAIRS, "engines": {"teacher": engine}}))
        assert server.stats()["total"] == 4
    kept, dropped = datasets
    server.set(thinks="")
    plain = run("preferences", tmp_path, {**PAIRS, "engines": {"teacher": server.spec}, "seed": 1})
    assert rows_of(kept, "pools")[0]["reasoning"]
    for dataset in (plain, dropped):
        [pool, _], [pair, _] = rows_of(dataset, "pools"), rows_of(dataset, "dpo_max-min")
        assert "reasoning" not in pool and set(pair["chosen"][0]) == {"role", "content"}
        assert THOUGHT not in all_text(pool) and "thought before" not in (dataset / "README.md").read_text()


@pytest.mark.parametrize("application", ["shell", "orders"])
def test_dialogues(thinker: ChatServer, tmp_path: Path, application: str) -> None:
    settings = {
        "applications": [str(ROOT / "examples" / "dialogues" / f"{application}.yaml")],
        "engines": {"teacher": thinker.spec},
        "inputs": {"count": 2, "per_call": 10, "threshold": 1},
        "dialogues": {"max_turns": 2, "judge": True},
        "cut": {"min_format_adherence": 0, "min_agent_turns": 0, "max_repeated_turns": 9, "ends": []},
    }
    dataset = run("dialogues", tmp_path, settings)
    dialogues, chats = rows_of(dataset, "dialogues"), rows_of(dataset, "sft")
    assert len(dialogues) == 2 and chats
    for row in dialogues:
        assert THOUGHT not in all_text(row)
        assert row["teacher_reasoning"].startswith(THOUGHT) and row["student_reasoning"].startswith(THOUGHT)
    for chat in chats:
        for message in chat["messages"]:
            fields = orjson.loads(message) if isinstance(message, str) else message
            assert THOUGHT not in fields["content"]
            thought = fields.get("reasoning_content") or ""
            assert thought.startswith(THOUGHT) == (fields["role"] == "assistant")
    for pair in rows_of(dataset, "preference") if application == "shell" else ():
        assert pair["chosen"][0]["reasoning_content"].startswith(THOUGHT)


def test_multifaceted_and_judge(thinker: ChatServer, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(6))
    settings = {"source": "in.jsonl", "engines": {"teacher": thinker.spec}, "bench": {"share": 0.4, "threshold": 1}}
    dataset = run("multifaceted", tmp_path, {**settings, "dedup": {"layers": ["exact"]}, "rows_per_part": 2})
    for name, answers in (("sft", ["messages"]), ("preference", ["chosen", "rejected"])):
        for row in rows_of(dataset, name):
            assert THOUGHT not in all_text(row)
            assert all(row[answer][-1]["reasoning_content"].startswith(THOUGHT) for answer in answers)
    bench = dataset / "data" / "bench" / "test-00000-of-00001.parquet"
    judged = {"source": str(bench), "runs": 1, "engines": {"teacher": thinker.spec}}
    scores = run("judge", tmp_path, judged)
    for row in pl.read_parquet(scores / "data" / "*.parquet").to_dicts():
        assert THOUGHT not in all_text(row)
        assert all(score is not None for scores in row["scores"] for score in scores)


def test_trainers_get_the_thinking_where_they_look(server: ChatServer, tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    server.set(thinks="reasoning")
    write_jsonl(tmp_path / "in.jsonl", prompts(3))
    run("preferences", tmp_path, {**PAIRS, "engines": {"teacher": server.spec}})
    formats = [option for name in ("sft", "dpo", "sharegpt", "alpaca", "openai") for option in ("--format", name)]
    synthmill("export", "latest", "--to", "out", *formats, cwd=tmp_path)

    def rows(folder: str, name: str) -> Any:
        place = str(tmp_path / folder)
        return load_dataset(place, name, split="train", cache_dir=str(tmp_path / "cache"))

    chats = rows("out", "dpo_max-min_sft")
    answer = chats[0]["messages"][-1]
    assert answer["reasoning_content"].startswith(THOUGHT) and chats[0]["messages"][0]["reasoning_content"] is None
    whole = f"<think>\n{answer['reasoning_content']}\n</think>\n\n{answer['content']}"
    assert rows("out", "dpo_max-min_alpaca")[0]["chosen"] == whole
    assert rows("out", "dpo_max-min_sharegpt")[0]["chosen"]["value"] == whole
    line = orjson.loads((tmp_path / "out" / "openai" / "dpo_max-min-train.jsonl").read_bytes().splitlines()[0])
    assert line["preferred_output"] == [{"role": "assistant", "content": whole}]
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m.reasoning_content is string %}<think>\n"
        "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    model = make_tiny_model(tmp_path / "model", template)
    tokenizer = AutoTokenizer.from_pretrained(model)
    options = SFTConfig(**one_step(tmp_path))
    trainer = SFTTrainer(str(model), args=options, train_dataset=chats, processing_class=tokenizer)
    seen = tokenizer.decode(trainer.train_dataset[0]["input_ids"])
    assert whole in seen and seen.count("<think>") == 1
    for thinking, text in (("text", whole), ("drop", answer["content"])):
        options = ["--thinking", thinking, "--format", "as-made", "--format", "sft"]
        synthmill("export", "latest", "--to", thinking, *options, cwd=tmp_path)
        assert rows(thinking, "dpo_max-min_sft")[0]["messages"][-1] == {"role": "assistant", "content": text}
        assert rows(thinking, "dpo_max-min")[0]["chosen"] == [{"role": "assistant", "content": text}]
        assert "6 of 6 answers were thought about before" in (tmp_path / thinking / "README.md").read_text()
    assert "reasoning" in rows("text", "pools").column_names and "reasoning" not in rows("drop", "pools").column_names
    _, err = synthmill(
        "export", "latest", "--to", "x", "--thinking", "field", "--format", "alpaca", cwd=tmp_path, expect=2
    )
    assert "alpaca has no field for thinking; expected text or drop" in err
