"""TRL: what each trainer has in its `train_dataset`, and in the labels that its collator makes."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from reading import Row, by_labels, decoded, main


def read(export: Path, tokenizer: Any, job: dict[str, Any]) -> Iterator[Row]:
    from datasets import load_dataset

    with TemporaryDirectory() as folder:
        rows = load_dataset(str(export), job["table"], split="train", cache_dir=folder)
        yield from READERS[job["kind"]](rows, tokenizer, folder)


def arguments(folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder, "use_cpu": True, "bf16": False, "report_to": [], "max_length": None, "disable_tqdm": True,
        "per_device_train_batch_size": 2,
    }  # fmt: skip


def sft(rows: Any, tokenizer: Any, folder: str) -> Iterator[Row]:
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        tokenizer.name_or_path, SFTConfig(**arguments(folder)), train_dataset=rows, processing_class=tokenizer
    )
    for row in trainer.train_dataset:
        batch = trainer.data_collator([row])
        yield by_labels(tokenizer, batch["input_ids"][0].tolist(), batch["labels"][0].tolist())


def pairs(rows: Any, tokenizer: Any, folder: str) -> Iterator[Row]:
    from trl import DPOConfig, DPOTrainer

    trainer = DPOTrainer(
        tokenizer.name_or_path, args=DPOConfig(**arguments(folder)), train_dataset=rows, processing_class=tokenizer
    )
    for row in trainer.train_dataset:
        batch = trainer.data_collator([row])
        yield {side: of_side(tokenizer, batch, place) for place, side in enumerate(("chosen", "rejected"))}


def of_side(tokenizer: Any, batch: Any, place: int) -> Row:
    """A collated side without its padding."""
    real = batch["attention_mask"][place].bool()
    mask = batch["completion_mask"][place][real].bool().tolist()
    return decoded(tokenizer, batch["input_ids"][place][real].tolist(), mask)


def kto(rows: Any, tokenizer: Any, folder: str) -> Iterator[Row]:
    from trl import KTOConfig, KTOTrainer

    trainer = KTOTrainer(
        tokenizer.name_or_path, args=KTOConfig(**arguments(folder)), train_dataset=rows, processing_class=tokenizer
    )
    for row in trainer.train_dataset:
        prompt, completion = row["prompt_ids"], row["completion_ids"]
        trained = [False] * len(prompt) + [True] * len(completion)
        yield {**decoded(tokenizer, [*prompt, *completion], trained), "label": row["label"]}


def reward(rows: Any, tokenizer: Any, folder: str) -> Iterator[Row]:
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    config = AutoConfig.from_pretrained(tokenizer.name_or_path, num_labels=1)
    judge = AutoModelForSequenceClassification.from_config(config)
    trainer = RewardTrainer(judge, RewardConfig(**arguments(folder)), train_dataset=rows, processing_class=tokenizer)
    for row in trainer.train_dataset:
        yield {side: {"text": tokenizer.decode(row[f"{side}_ids"]), "trained": []} for side in ("chosen", "rejected")}


def prompts(rows: Any, tokenizer: Any, folder: str) -> Iterator[Row]:
    """As GRPOTrainer renders a prompt; its other columns go to the reward functions."""
    from trl.data_utils import maybe_apply_chat_template

    for row in rows:
        text = maybe_apply_chat_template({"prompt": row["prompt"]}, tokenizer)["prompt"]
        yield {"text": text, "columns": {name: value for name, value in row.items() if name != "prompt"}}


def distillation(rows: Any, tokenizer: Any, folder: str) -> Iterator[Row]:
    """The student's prompt, and the teacher's as SDFTTrainer composes it, with the privileged context."""
    from trl.experimental.sdft.sdft_config import SDFTConfig
    from trl.experimental.sdft.sdft_trainer import DemonstrationTeacherContextBuilder

    trainer = SimpleNamespace(args=SDFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to=[]))
    builder = DemonstrationTeacherContextBuilder(trainer)
    for row in rows:
        teacher = builder.select_generation_prompts([row["prompt"]], [row["privileged_context"]])[0]
        render = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
        yield {"text": render(row["prompt"]), "columns": {"teacher": render(teacher)}}


READERS = {
    "sft": sft,
    "pairs": pairs,
    "kto": kto,
    "reward": reward,
    "prompts": prompts,
    "rl": prompts,
    "self-distillation": distillation,
}

if __name__ == "__main__":
    main(read)
