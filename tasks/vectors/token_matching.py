"""How alike two texts are, token by token: each token with the most similar one of the other text, as BERTScore does.

Source: docs/papers.md#reviseval.
"""

from collections.abc import Sequence

import numpy as np

from synthmill.tasks.cores import Array
from synthmill.tasks.vectors.embeddings import BATCH, load_embedder, windows_of


def token_vectors(embedder: str, texts: Sequence[str]) -> list[Array]:
    """Per text the unit vectors of its tokens in context, (tokens, dimensions) float32, without special tokens. A text
    longer than the model reads is embedded in windows; one in a script that it cannot read has no tokens.
    """
    windows = windows_of(embedder, texts)
    pieces = [piece for of_text in windows for piece in of_text]
    model = load_embedder(embedder)
    special = list(model.tokenizer.all_special_ids)
    encoded = model.encode(pieces, batch_size=BATCH, output_value=None, show_progress_bar=False) if pieces else []
    vectors = list[Array]()
    for item in encoded:
        is_text = ~np.isin(item["input_ids"].cpu().numpy(), special) & (item["attention_mask"].cpu().numpy() == 1)
        tokens = item["token_embeddings"].float().cpu().numpy()[is_text]
        vectors.append(tokens / np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), 1e-12))
    of_pieces = iter(vectors)
    return [np.concatenate([next(of_pieces) for _ in of_text] or [np.zeros((0, 1))]) for of_text in windows]


def matching_f1(first: Array, second: Array) -> float | None:
    """BERTScore's F1, without weights and rescaling: the harmonic mean of how similar, in the mean, the tokens of each
    text are to the nearest of the other's; 0 where that is negative. None where a text has no tokens.

    first, second: unit vectors, (tokens, dimensions).
    """
    if not len(first) or not len(second):
        return None
    likeness = first @ second.T
    precision, recall = (max(float(likeness.max(axis=axis).mean()), 0.0) for axis in (1, 0))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
