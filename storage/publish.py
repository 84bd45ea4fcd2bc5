"""A dataset folder that `datasets.load_dataset` and trainers read: Parquet with one split, and a README."""

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from schemas.artifacts import Manifest
from storage.artifacts import Store, read_artifact
from storage.files import write_atomically, write_text


def preference_rows(pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs that the cuts kept, in TRL's conversational format: prompt, chosen and rejected are lists of messages."""

    def message(role: str, content: str) -> pl.Expr:
        return pl.struct(pl.lit(role).alias("role"), pl.col(content).alias("content"))

    user = pl.concat_list(message("user", "prompt"))
    with_system = pl.concat_list(message("system", "system"), message("user", "prompt"))
    return pairs.filter(pl.col("kept")).select(
        "id",
        "parent_id",
        "source",
        prompt=pl.when(pl.col("system").is_null()).then(user).otherwise(with_system),
        chosen=pl.concat_list(message("assistant", "chosen")),
        rejected=pl.concat_list(message("assistant", "rejected")),
        chosen_reward="chosen_reward",
        rejected_reward="rejected_reward",
    )


def write_dataset(store: Store, pairs: Manifest, folder: Path) -> int:
    """Write the kept pairs as one split, `train`; returns its rows."""
    frame = pl.from_arrow(read_artifact(store, pairs))
    assert isinstance(frame, pl.DataFrame)
    rows = preference_rows(frame)
    table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    write_atomically(
        folder / "data" / "train-00000-of-00001.parquet", lambda path: pq.write_table(table, path, compression="zstd")
    )
    text = CARD.format(rows=rows.height, artifact=pairs.reference)
    write_text(folder / "README.md", text)
    return rows.height


CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---
# Preference pairs

{rows} pairs (`prompt`, `chosen`, `rejected` as lists of messages, with their rewards), made by synthmill from the
artifact `{artifact}`. `parent_id` is the pool of answers a pair was cut from.

```python
from datasets import load_dataset
pairs = load_dataset("parquet", data_dir=".", split="train")
```
"""
