"""TRL's GRPO: the prompts that `GRPOTrainer` makes tokens of, and the rewards that it calculates with the function of
`reward_funcs.py`, for the reference answer and for another one.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reading import Row, functions_of, main


def read(export: Path, tokenizer: Any, job: dict[str, Any]) -> Iterator[Row]:
    from datasets import load_dataset
    from trl import GRPOConfig, GRPOTrainer

    reward = functions_of(export / "reward_funcs.py")["verified"] if job["kind"] == "rl" else no_reward
    with TemporaryDirectory() as folder:
        rows = load_dataset(str(export), job["table"], split="train", cache_dir=folder)
        arguments = GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, report_to=[], per_device_train_batch_size=2,
            num_generations=2, shuffle_dataset=False, remove_unused_columns=False,
        )  # fmt: skip
        trainer = GRPOTrainer(
            tokenizer.name_or_path, reward_funcs=reward, args=arguments, train_dataset=rows, processing_class=tokenizer
        )
        for row in trainer.train_dataset:
            tokens = trainer._tokenize_prompts([row["prompt"]])[0][0]
            columns = {name: value for name, value in row.items() if name != "prompt"}
            rewards = {"rewards": rewards_of(trainer, row)} if job["kind"] == "rl" else {}
            yield {"text": tokenizer.decode(tokens), "columns": columns, **rewards}


def rewards_of(trainer: Any, row: Row) -> list[float]:
    """As the trainer calculates them for a group of two answers: the reference answer, and another one."""
    answers = [[{"role": "assistant", "content": text}] for text in (f"So:\n{row['answer']}", "I do not know.")]
    prompts = [row["prompt"]] * 2
    return [float(reward) for reward in trainer._calculate_rewards([row] * 2, prompts, answers, [[0], [0]])[:, 0]]


def no_reward(completions: list[Any], **columns: Any) -> list[float]:
    return [0.0] * len(completions)


if __name__ == "__main__":
    main(read)
