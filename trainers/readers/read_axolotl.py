"""axolotl: its own loading of a settings file, which has the `datasets:` block of a table, and of its rows."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reading import Row, by_labels, main, settings

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"


def read(export: Path, tokenizer: Any, job: dict[str, Any]) -> Iterator[Row]:
    from axolotl.utils.config import normalize_config, validate_config
    from axolotl.utils.data.rl import prepare_preference_datasets
    from axolotl.utils.data.sft import prepare_datasets
    from axolotl.utils.dict import DictDefault

    os.chdir(export)
    with TemporaryDirectory() as folder:
        own = {
            "base_model": tokenizer.name_or_path, "tokenizer_config": tokenizer.name_or_path, "sequence_len": 8192,
            "micro_batch_size": 1, "gradient_accumulation_steps": 1, "learning_rate": 1e-5, "num_epochs": 1,
            "dataset_prepared_path": folder, "output_dir": folder, "dataset_num_proc": 1,
            "chat_template": "tokenizer_default", "train_on_inputs": False, "bf16": False,
            "remove_unused_columns": False,
            "shuffle_merged_datasets": False,
        }  # fmt: skip
        cfg = validate_config(DictDefault({**own, **settings(export, job["table"])}))
        normalize_config(cfg)
        if cfg.rl:
            rows, _ = prepare_preference_datasets(cfg, tokenizer)
        else:
            rows = prepare_datasets(cfg, tokenizer)[0]
        for row in rows:
            yield read_row(tokenizer, row)


def read_row(tokenizer: Any, row: Row) -> Row:
    if "chosen_ids" in row or "input_ids_chosen" in row:
        ids = {side: row.get(f"{side}_ids") or row[f"input_ids_{side}"] for side in ("chosen", "rejected")}
        return {side: {"text": tokenizer.decode(tokens), "trained": []} for side, tokens in ids.items()}
    if "input_ids" in row:
        return by_labels(tokenizer, row["input_ids"], row["labels"])
    if "completion" in row:
        return {"text": row["prompt"] + row["completion"], "trained": [row["completion"]], "label": row["label"]}
    return {side: {"text": row["prompt"] + row[side], "trained": [row[side]]} for side in ("chosen", "rejected")}


if __name__ == "__main__":
    main(read)
