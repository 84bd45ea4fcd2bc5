"""What refusals taught of a server: fields that it does not take, and how it is asked for the form of an answer.

It stands in `engines.json`, by model and address, as settings; the next plan takes them over, so that the engine's name
says what was sent. Remove an entry there to have it tried again.
"""

from collections.abc import Mapping
from typing import Any

from synthmill.storage.artifacts import Store
from synthmill.storage.checkpoints import FILE
from synthmill.storage.files import locked, read_json, write_json

LEARNED = "learned"


def learned_of(store: Store, model: str, place: str) -> dict[str, Any]:
    """The settings that were learned of a model at an address; empty where there are none."""
    path = store.root / FILE
    remembered: dict[str, Any] = read_json(path) if path.exists() else {}
    entry: dict[str, Any] = remembered.get(LEARNED, {}).get(f"{model} {place}", {})
    return entry


def learn(store: Store, model: str, place: str, lesson: Mapping[str, Any]) -> None:
    """Add a lesson to what is known of a model at an address."""
    path = store.root / FILE
    with locked(store.lock_path("engines", "names"), lambda: None, 0.05):
        remembered: dict[str, Any] = read_json(path) if path.exists() else {}
        entries = dict(remembered.get(LEARNED, {}))
        known = entries.get(f"{model} {place}", {})
        options = {**known.get("options", {}), **lesson.get("options", {})}
        entries[f"{model} {place}"] = {**known, **lesson, **({"options": options} if options else {})}
        write_json(path, {**remembered, LEARNED: entries})
