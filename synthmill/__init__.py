"""Data synthesis for post-training: resumable, exact about what it did, fast.

    from synthmill import Session, stages
    synthmill.run("preferences", {"source": "prompts.jsonl"})
    synthmill.cut(frame, "sweet-spot")

Everything here is imported when it is first used. docs/python.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthmill import stages as stages
    from synthmill.flows.making.made import Made as Made
    from synthmill.flows.making.session import Session as Session
    from synthmill.flows.python.on_frames import cut as cut
    from synthmill.flows.python.on_frames import decontaminate as decontaminate
    from synthmill.flows.python.on_frames import dedup as dedup
    from synthmill.flows.python.on_frames import rank as rank
    from synthmill.flows.python.on_frames import score as score
    from synthmill.flows.python.run_method import run as run
    from synthmill.schemas.calls import Completion as Completion
    from synthmill.schemas.calls import Request as Request
    from synthmill.schemas.calls import Sampling as Sampling
    from synthmill.schemas.errors import Drop as Drop
    from synthmill.schemas.errors import EngineError as EngineError
    from synthmill.schemas.errors import InputError as InputError
    from synthmill.schemas.errors import LimitReached as LimitReached
    from synthmill.schemas.errors import Stopped as Stopped
    from synthmill.schemas.errors import StoreError as StoreError
    from synthmill.schemas.errors import SynthmillError as SynthmillError
    from synthmill.tasks.frames import FrameStage as FrameStage
    from synthmill.tasks.recipe import Recipe as Recipe
    from synthmill.tasks.verifiers.verdicts import verify as verify
    from synthmill.tasks.verifiers.verifier import Verdict as Verdict

PLACES = {
    "flows.making.made": ("Made",),
    "flows.making.session": ("Session",),
    "flows.python.on_frames": ("cut", "decontaminate", "dedup", "rank", "score"),
    "flows.python.run_method": ("run",),
    "schemas.calls": ("Completion", "Request", "Sampling"),
    "schemas.errors": (
        *("Drop", "EngineError", "InputError", "LimitReached"),
        *("Stopped", "StoreError", "SynthmillError"),
    ),
    "tasks.frames": ("FrameStage",),
    "tasks.recipe": ("Recipe",),
    "tasks.verifiers.verdicts": ("verify",),
    "tasks.verifiers.verifier": ("Verdict",),
}
PLACE_OF = {name: place for place, names in PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "stages":
        return import_module("synthmill.stages")
    if name not in PLACE_OF:
        raise AttributeError(f"module 'synthmill' has no attribute {name!r}; it has {', '.join(__dir__())}")
    return getattr(import_module(f"synthmill.{PLACE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted((*PLACE_OF, "stages"))
