"""Sentence Transformers: the batches that SentenceTransformerTrainer's own collator makes, decoded."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reading import Row, main


def read(export: Path, tokenizer: Any, job: dict[str, Any]) -> Iterator[Row]:
    from datasets import load_dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.models import Pooling, Transformer
    from transformers import AutoModel

    with TemporaryDirectory() as folder:
        AutoModel.from_pretrained(tokenizer.name_or_path).save_pretrained(folder)
        tokenizer.chat_template = None  # models of embeddings have none; with one, texts are wrapped in it
        tokenizer.save_pretrained(folder)
        words = Transformer(folder)
        model = SentenceTransformer(modules=[words, Pooling(words.get_word_embedding_dimension())], device="cpu")
        rows = load_dataset(str(export), job["table"], split="train", cache_dir=folder)
        trainer = SentenceTransformerTrainer(
            model,
            SentenceTransformerTrainingArguments(output_dir=folder, use_cpu=True, report_to=[]),
            train_dataset=rows,
            loss=MultipleNegativesRankingLoss(model),
        )
        for row in trainer.train_dataset:
            features, _ = trainer.collect_features(trainer.data_collator([dict(row)]))
            yield {"texts": [tokenizer.decode(column["input_ids"][0]) for column in features]}


if __name__ == "__main__":
    main(read)
