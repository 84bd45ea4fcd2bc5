"""A step of TRL's trainers that answer by themselves, on the rows of an export: GRPO with the verifiers that rows name,
and self-distillation from a context that the student does not see.
"""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from synthmill.storage.published.card_metadata import metadata
from synthmill.storage.published.configurations import Dataset, Table
from synthmill.storage.published.folder import write_dataset
from tests.storage.published.trainers.samples import PAIR, PLAIN, RL, chats, exported, whole
from tests.tiny import make_tiny_model, one_step


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("tiny")))


def loaded(folder: Path, table: Table, use: Any) -> tuple[Any, dict[str, Any]]:
    """The rows of an export as `datasets` loads them by its card, and the reward functions beside them."""
    from datasets import load_dataset

    made = exported("trl", table, use)
    dataset = Dataset("t", "i", made.tables)
    write_dataset(folder / "rows", dataset, f"---\n{metadata('f', dataset, 'mit', [])}\n---\n# t\n")
    rows = load_dataset(str(folder / "rows"), split="train", cache_dir=str(folder / "cache"))
    functions: dict[str, Any] = {}
    exec(whole(made.files.get("reward_funcs.py", b"")), functions)
    return rows, functions


def short(folder: Path) -> dict[str, Any]:
    """Arguments for one step of two short answers."""
    arguments = {**one_step(folder), "max_completion_length": 4, "num_generations": 2}
    arguments.pop("max_length")
    return arguments


def test_self_distillation_answers_without_the_context_and_is_taught_with_it(tmp_path: Path, model: str) -> None:
    from transformers import AutoTokenizer
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    rows, _ = loaded(tmp_path, chats(PLAIN, [PLAIN[0], *PLAIN[3:]]), "self-distillation")
    trainer = SDFTTrainer(
        model=model,
        args=SDFTConfig(**short(tmp_path)),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    builder = trainer.teacher_context_builder
    [taught] = builder.select_generation_prompts([rows[0]["prompt"]], [rows[0]["privileged_context"]])
    assert rows[0]["prompt"] == [{"role": "user", "content": "Where is it?"}]
    assert taught == [{"role": "user", "content": "Where is it?\n\nBe brief."}]
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_reward_models_loss_takes_the_margin_of_each_pair(tmp_path: Path, model: str) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    with_margin = Table.of(PAIR.rows.frame().with_columns(loss_margin=pl.lit(-1.5)), "preferences", "a pair")
    rows, _ = loaded(tmp_path, with_margin, "reward")
    trainer = RewardTrainer(
        AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(model, num_labels=1)),
        RewardConfig(**one_step(tmp_path)),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    [batch] = trainer.get_train_dataloader()
    assert batch["margin"].tolist() == [-1.5]


def test_grpo_is_rewarded_by_the_verifier_of_each_row(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    import synthmill

    asked: list[tuple[Any, ...]] = []

    def verify(name: str, answer: Any, reference: Any = "", **arguments: Any) -> tuple[float, str]:
        asked.append((name, reference, arguments))
        return len(asked) % 2, ""

    monkeypatch.setattr(synthmill, "verify", verify, raising=False)
    rows, functions = loaded(tmp_path, RL, "rl")
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=functions["verified"],
        args=GRPOConfig(**short(tmp_path)),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    trainer.train()
    assert trainer.state.global_step == 1 and asked == [("math", "4", {"strict": True})] * 2
