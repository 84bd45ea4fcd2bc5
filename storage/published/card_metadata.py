"""The head of a card, which the Hub and `datasets` read."""

from collections.abc import Sequence

import polars as pl

from synthmill.schemas.licenses import for_hub
from synthmill.storage.published.configurations import Dataset, Kind
from synthmill.storage.published.row_streams import OLDEST
from synthmill.storage.published.shards import plain_types
from synthmill.storage.published.thinking import fields_of

SIZES = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
    10**9: "100M<n<1B",
}
LARGER = "n>1T"
TASKS: dict[Kind, str] = {"triplets": "sentence-similarity", "other": ""}


def metadata(flow: str, dataset: Dataset, license: str, languages: Sequence[str]) -> str:
    """The YAML that the Hub and `datasets` read, without its fences."""
    from datasets import DatasetInfo, Features, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    filled, shards = dataset.filled(), dataset.shards()
    configs, infos = [], DatasetInfosDict()
    for place, (name, splits) in enumerate(filled.items()):
        files = [{"split": split, "path": shards[name, split].pattern} for split in splits]
        default = {"default": True} if place == 0 and len(filled) > 1 else {}
        configs.append({"config_name": name, **default, "data_files": files})
        if dataset.tables[name].lines:
            continue
        empty = pl.DataFrame(schema=next(iter(splits.values())).schema)
        schema = plain_types(empty.to_arrow(compat_level=OLDEST), dataset.tables[name].objects).schema
        sizes = {split: SplitInfo(split, rows.size, rows.height) for split, rows in splits.items()}
        infos[name] = DatasetInfo(
            features=Features.from_arrow_schema(schema), splits=SplitDict(sizes), config_name=name
        )
    rows = dataset.rows
    kinds = {table.kind for table in dataset.tables.values()}
    tasks = sorted({TASKS.get(kind, "text-generation") for kind in kinds} - {""})
    data = DatasetCardData(
        pretty_name=dataset.title,
        language=list(languages) or None,
        task_categories=tasks or None,
        size_categories=[next((name for bound, name in SIZES.items() if rows < bound), LARGER)],
        tags=["synthetic", "synthmill", flow],
    )
    for name, value in for_hub(license).items():
        data[name] = value
    infos.to_dataset_card_data(data)
    data["configs"] = configs
    return data.to_yaml().strip()


def opens_with(dataset: Dataset) -> str:
    """Which `datasets` open a dataset, in words; and what to do with the empty fields of messages that call nothing."""
    filled = [(dataset.tables[name], splits) for name, splits in dataset.filled().items()]
    texts = (pl.String, pl.List(pl.String))
    with_json = any(
        not table.lines and any(next(iter(splits.values())).schema.get(name) in texts for name in table.objects)
        for table, splits in filled
    )
    oldest = "4.7 or newer: messages have fields of their own" if with_json else "4.0 or newer"
    kinds = [kind for _, splits in filled for kind in next(iter(splits.values())).schema.values()]
    if not any("tool_calls" in fields_of(kind) for kind in kinds):
        return f"It opens with `datasets` {oldest}."
    return (
        f"It opens with `datasets` {oldest}. Messages without a call have an empty `tool_calls`, which some chat "
        "templates take for one that is there; `rows.with_transform(trl.trainer.utils.remove_none_values)` removes it."
    )
