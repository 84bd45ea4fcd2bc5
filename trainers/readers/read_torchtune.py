"""torchtune: the dataset component of a table's settings, with its own Qwen 2.5 tokenizer over our vocabulary."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reading import Row, decoded, main, settings


def tokenizer_of(folder: str) -> Any:
    from torchtune.models.qwen2_5 import qwen2_5_tokenizer

    return qwen2_5_tokenizer(f"{folder}/vocab.json", f"{folder}/merges.txt")


def read(export: Path, tokenizer: Any, job: dict[str, Any]) -> Iterator[Row]:
    from omegaconf import OmegaConf
    from torchtune.config import instantiate

    os.chdir(export)
    rows = instantiate(OmegaConf.create(settings(export, job["table"])["dataset"]), tokenizer)
    for row in (rows[place] for place in range(len(rows))):
        if job["kind"] == "pairs":
            yield {
                side: decoded(tokenizer, row[f"{side}_input_ids"], [label != -100 for label in row[f"{side}_labels"]])
                for side in ("chosen", "rejected")
            }
        else:
            yield decoded(tokenizer, row["tokens"], [label != -100 for label in row["labels"]])


if __name__ == "__main__":
    main(read, tokenizer_of)
