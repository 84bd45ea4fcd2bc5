"""How far a stage is."""

from pydantic import Field

from synthmill.schemas.calls import Frozen


class Waiting(Frozen):
    """Requests that an engine sends again later."""

    requests: int
    until: float = Field(description="when the last of them goes out, seconds since 1970")
    reason: str = Field(description="the server's words")


class BatchProgress(Frozen):
    """The batches of one engine that are not collected yet."""

    engine: str
    batches: int
    answered: int
    requests: int
    waited_s: float


class Progress(Frozen):
    """What a worker has done of the stage at hand."""

    rows: int = 0
    dropped: int = 0
    reasons: dict[str, int] = Field(default_factory=dict, description="why rows were dropped")
    in_flight: int = 0
    spent: dict[str, dict[str, int]] = Field(default_factory=dict)
    silent_s: dict[str, float] = Field(
        default_factory=dict, description="engines that answer nothing: for how many seconds"
    )
    waiting: dict[str, Waiting] = Field(default_factory=dict, description="by engine")
    batches: tuple[BatchProgress, ...] = ()
