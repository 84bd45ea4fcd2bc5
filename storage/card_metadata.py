"""The head of a card: what the Hub and `datasets` read."""

from collections.abc import Sequence

import polars as pl

from storage.dataset_folder import Dataset, Kind, data_folder, plain_types

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LARGER = "1M<n<10M"
TASKS: dict[Kind, str] = {"triplets": "sentence-similarity", "other": ""}
OLD = pl.CompatLevel.oldest()


def metadata(flow: str, dataset: Dataset, license: str, languages: Sequence[str]) -> str:
    """The YAML that the Hub and `datasets` read, without its fences."""
    from datasets import DatasetInfo, Features, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    filled = dataset.filled()
    configs, infos = [], DatasetInfosDict()
    for place, (name, splits) in enumerate(filled.items()):
        files = [{"split": split, "path": f"{data_folder(filled, name)}/{split}-*.parquet"} for split in splits]
        default = {"default": True} if place == 0 and len(filled) > 1 else {}
        configs.append({"config_name": name, **default, "data_files": files})
        tables = {split: plain_types(frame.to_arrow(compat_level=OLD)) for split, frame in splits.items()}
        infos[name] = DatasetInfo(
            features=Features.from_arrow_schema(next(iter(tables.values())).schema),
            splits=SplitDict({split: SplitInfo(split, t.nbytes, t.num_rows) for split, t in tables.items()}),
            config_name=name,
        )
    rows = dataset.rows
    kinds = {table.kind for table in dataset.tables.values()}
    tasks = sorted({TASKS.get(kind, "text-generation") for kind in kinds} - {""})
    data = DatasetCardData(
        pretty_name=dataset.title,
        license=license,
        language=list(languages) or None,
        task_categories=tasks or None,
        size_categories=[next((name for most, name in SIZES if rows < most), LARGER)],
        tags=["synthetic", "synthmill", flow],
    )
    infos.to_dataset_card_data(data)
    data["configs"] = configs
    return data.to_yaml().strip()
