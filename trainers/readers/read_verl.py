"""verl: its dataset of conversations and its dataset of prompts, with the options of a table's command in train.sh."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reading import Row, command, decoded, main


def read(export: Path, tokenizer: Any, job: dict[str, Any]) -> Iterator[Row]:
    from omegaconf import OmegaConf

    options = command(export, job["table"])
    keys = {name.removeprefix("data."): value for name, value in options.items() if name.startswith("data.")}
    files = [str(export / name) for name in keys.pop("train_files").strip("[]").split(",")]
    keys.pop("val_files", None)
    with TemporaryDirectory() as folder:
        if job["kind"] == "sft":
            from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

            config = OmegaConf.create({"pad_mode": "no_padding", "max_length": 8192, **keys})
            chats = MultiTurnSFTDataset(files, tokenizer, config)
            for chat in (chats[place] for place in range(len(chats))):
                yield decoded(tokenizer, chat["input_ids"].tolist(), (chat["loss_mask"] > 0).tolist())
        else:
            from verl.utils.dataset.rl_dataset import RLHFDataset

            config = OmegaConf.create({"cache_dir": folder, "filter_overlong_prompts_workers": 1, **keys})
            prompts = RLHFDataset(files, tokenizer, config)
            for row in (prompts[place] for place in range(len(prompts))):
                text = tokenizer.apply_chat_template(row["raw_prompt"], tokenize=False, add_generation_prompt=True)
                columns = {name: row.get(name) for name in ("data_source", "reward_model", "extra_info")}
                yield {"text": text, "columns": columns}


if __name__ == "__main__":
    main(read)
