"""Which checkpoint an engine's name stands for: a server may change the model under a name, and a Hub id moves on.

`engines.json` in the store holds two maps of it. `last`: the last checkpoint per name and place, so that a finished run
counts as finished while its server is away. `alone`: per name, the checkpoint whose answers an earlier version stored
under the name alone, so that look-ups find them.
"""

import sys
from pathlib import Path
from typing import Any

from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import content_hash
from synthmill.storage.artifacts import Store
from synthmill.storage.files import locked, read_json, write_json
from synthmill.storage.segments import seal_abandoned, spent_in

FILE = "engines.json"


def settled_checkpoint(store: Store, name: str, place: str, checkpoint: str | None) -> str | None:
    """The checkpoint to add to an engine's name, if any. name: without a checkpoint; place: the server or
    folder; checkpoint: what the place reports, empty where it reports none, None where it does not answer.
    """
    checkpoint = shorten_checkpoint(checkpoint) if checkpoint else checkpoint
    if not store.calls.is_dir():
        return checkpoint or None
    with locked(store.lock_path("engines", "names"), lambda: None, 0.05):
        return remembered_checkpoint(store, name, place, checkpoint)


def remembered_checkpoint(store: Store, name: str, place: str, checkpoint: str | None) -> str | None:
    """As settled_checkpoint; the caller holds the lock. Raises StoreError for a damaged file."""
    path = store.root / FILE
    remembered: dict[str, Any] = read_json(path) if path.exists() else {}
    last, alone = dict(remembered.get("last", {})), dict(remembered.get("alone", {}))
    if checkpoint is None:
        checkpoint = last.get(f"{name} {place}", "")
    if not checkpoint:
        return None
    if name not in alone:
        alone[name] = checkpoint if has_answers(store, name) else ""
        if alone[name]:
            notice = f"answers stored under {name} alone are taken for those of {checkpoint}"
            print(f"{notice}; where they are another's, set engines.ROLE.revision", file=sys.stderr, flush=True)
    last[f"{name} {place}"] = checkpoint
    updated = {**remembered, "last": last, "alone": alone}
    if updated != remembered:
        write_json(path, updated)
    return None if alone[name] == checkpoint else checkpoint


def shorten_checkpoint(checkpoint: str) -> str:
    """Shorten a path to its last folder and a hash, since names of engines are published."""
    if checkpoint.startswith(("/", ".", "~")) or "\\" in checkpoint:
        folder = checkpoint.replace("\\", "/").rstrip("/").rpartition("/")[2]
        return f"{folder}-{content_hash(checkpoint)[:8]}"
    return checkpoint


def has_answers(store: Store, name: str) -> bool:
    """Whether answers are stored under an engine's name."""
    seal_abandoned(store.calls)
    return any(engine == name for *_, engine in spent_in(store.calls))


def cached_commit(repository: str) -> str:
    """The commit of a Hub model that the local cache has as its main revision; empty where it has none. Raises
    InputError for what is no Hub id.
    """
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name

    try:
        folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    except HFValidationError as error:
        raise InputError(
            f"there is no folder {repository}, and it is no Hub id; expected OWNER/NAME or a folder"
        ) from error
    try:
        return (folder / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        return ""
