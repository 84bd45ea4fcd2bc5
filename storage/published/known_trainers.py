"""The trainers in storage/published/trainers/, by listing that folder."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from synthmill.schemas.errors import InputError

if TYPE_CHECKING:  # the command lists names before it needs anything
    from synthmill.storage.published.trainer import Trainer

FOLDER = Path(__file__).parent / "trainers"


def trainer_names() -> list[str]:
    """The names that `--for` takes."""
    return sorted(path.stem.replace("_", "-") for path in FOLDER.glob("*.py") if path.stem[0] != "_")


def trainer(name: str) -> "Trainer":
    """A trainer by its name. Raises InputError for another."""
    if name not in trainer_names():
        raise InputError(f"{name} is no trainer that exports are written for; expected {', '.join(trainer_names())}")
    module = import_module(f"synthmill.storage.published.trainers.{name.replace('-', '_')}")
    known: Trainer = module.TRAINER
    return known
