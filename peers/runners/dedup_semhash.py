"""semhash, its own threshold. Its default model stands on a hub: one of the same kind and width takes its place, with a
random vector for each word, so that it sees which words two texts share; that is what copies here share.
"""

import numpy as np
from job import read_job
from model2vec import StaticModel
from semhash import SemHash
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

DIMENSIONS = 256  # of potion-base-8M

if __name__ == "__main__":
    job = read_job()
    rows = job.rows()
    words = sorted({word for row in rows for word in row["prompt"].split()})
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate([*words, "[UNK]"])}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    vectors = np.random.default_rng(0).normal(size=(len(words) + 1, DIMENSIONS)).astype(np.float32)
    records = SemHash.from_records(rows, columns=["prompt"], model=StaticModel(vectors, tokenizer))
    job.write((row["id"], row["prompt"]) for row in records.self_deduplicate().selected)
