"""LLaMA-Factory: its `get_dataset` on a folder with dataset_info.json. A job names a data set of that file.

Its own template is used (qwen3_nothink), as it uses no tokenizer's.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reading import Row, absent, by_labels, main

STAGES = {"sft": "sft", "pairs": "rm", "reward": "rm", "kto": "kto", "prompts": "ppo"}


def read(export: Path, tokenizer: Any, job: dict[str, Any]) -> Iterator[Row]:
    from transformers import Seq2SeqTrainingArguments

    absent("torchaudio")
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, ModelArguments

    stage = STAGES[job["kind"]]
    names = [name for name in json.loads((export / "dataset_info.json").read_text()) if name.startswith(job["table"])]
    data = DataArguments(
        dataset=",".join(name for name in names if re.fullmatch(r"(_\d+)?", name.removeprefix(job["table"]))),
        dataset_dir=str(export),
        template="qwen3_nothink",
        cutoff_len=8192,
        overwrite_cache=True,
        mask_history="NAME" in job.get("load", "").partition("mask_history: true")[2],
    )
    template = get_template_and_fix_tokenizer(tokenizer, data)
    with TemporaryDirectory() as folder:
        model = ModelArguments(model_name_or_path=tokenizer.name_or_path, cache_dir=folder)
        training = Seq2SeqTrainingArguments(output_dir=folder, use_cpu=True, report_to=[])
        rows = get_dataset(template, model, data, training, stage=stage, tokenizer=tokenizer)["train_dataset"]
        for row in rows:
            if stage == "rm":
                yield {
                    side: by_labels(tokenizer, row[f"{side}_input_ids"], row[f"{side}_labels"])
                    for side in ("chosen", "rejected")
                }
            elif stage == "kto":
                yield {**by_labels(tokenizer, row["input_ids"], row["labels"]), "label": row["kto_tags"]}
            elif stage == "ppo":
                yield {"text": tokenizer.decode(row["input_ids"])}
            else:
                yield by_labels(tokenizer, row["input_ids"], row["labels"])


if __name__ == "__main__":
    main(read)
