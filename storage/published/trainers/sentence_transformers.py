"""Sentence Transformers: triplets, whose columns are taken by their order, so that there may be no other.

Read: sentence-transformers 6.2, sentence_transformer/losses.
"""

from collections.abc import Iterator, Sequence

from synthmill.storage.published.trainer import Form, Trainer, Written


def readme(tables: Sequence[Written]) -> Iterator[str]:
    names = ", ".join(f"`{table.name}`" for table in tables)
    yield f"- `load_dataset(FOLDER, NAME)`, NAME {names}, for `MultipleNegativesRankingLoss` and its like"
    yield "- Ids lie in `ids/`, line by line."


TRAINER = Trainer(
    "Sentence Transformers",
    "6.2",
    {"triplets": Form(lambda rows: rows.select("id", "anchor", "positive", "negative"), lines="", with_ids=False)},
    readme,
)
