"""ms-swift: its `load_dataset` and template, as `swift sft` and `swift rlhf` use them, with the options of train.sh.

Its own template is used (qwen3_nothinking), as it uses no tokenizer's by default.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reading import Row, by_labels, command, main

MODES = {"sft": "train", "pairs": "rlhf", "reward": "rlhf", "kto": "kto", "prompts": "transformers"}


def processor_of(folder: str) -> Any:
    from swift.model import get_processor

    return get_processor(folder, model_type="qwen3", use_hf=True)


def read(export: Path, tokenizer: Any, job: dict[str, Any]) -> Iterator[Row]:
    from swift.dataset import load_dataset
    from swift.template import get_template

    os.chdir(export)
    scale = "default" if job["kind"] == "sft" else "last_round"  # what rlhf_args.py sets for DPO, KTO and reward models
    template = get_template(tokenizer, template_type="qwen3_nothinking", max_length=8192, loss_scale=scale)
    template.set_mode(MODES[job["kind"]])
    rows, _ = load_dataset(command(export, job["table"])["--dataset"].split(), load_from_cache_file=False, use_hf=True)
    for row in rows:
        encoded = template.encode(dict(row))
        if job["kind"] in ("pairs", "reward"):
            yield {side: of_side(tokenizer, encoded, side) for side in ("chosen", "rejected")}
        elif job["kind"] == "kto":
            yield {**of_side(tokenizer, encoded, "chosen"), "label": encoded["label"]}
        elif job["kind"] == "prompts":
            yield {"text": tokenizer.decode(encoded["input_ids"])}
        else:
            yield by_labels(tokenizer, encoded["input_ids"], encoded["labels"])


def of_side(tokenizer: Any, encoded: Row, side: str) -> Row:
    tokens = encoded[f"{side}_input_ids"]
    return by_labels(tokenizer, tokens, encoded.get(f"{side}_labels") or [-100] * len(tokens))


if __name__ == "__main__":
    main(read, processor_of)
