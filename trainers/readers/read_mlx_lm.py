"""MLX LM: its `load_dataset` on a folder with train.jsonl and valid.jsonl, with `--mask-prompt`."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from reading import Row, decoded, main


def read(export: Path, tokenizer: Any, job: dict[str, Any]) -> Iterator[Row]:
    from mlx_lm.tuner.datasets import load_dataset

    arguments = SimpleNamespace(data=str(export / job["table"]), train=True, test=False, mask_prompt=True)
    train, valid, _ = load_dataset(arguments, tokenizer)
    for rows in (train, valid):
        for place in range(len(rows)):
            tokens, start = rows.process(rows[place])
            yield decoded(tokenizer, tokens, [position >= start for position in range(len(tokens))])


if __name__ == "__main__":
    main(read)
