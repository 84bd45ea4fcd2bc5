"""A recording in place of a model: it looks answers up by the request alone, so it replays anywhere, for nothing."""

from collections.abc import Sequence
from pathlib import Path

import orjson

from synthmill.schemas.calls import Completion, Request, ask_hash, call_key
from synthmill.schemas.errors import EngineRefused, InputError
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.calls import CallStore
from synthmill.storage.segments import HEAD, Segment, segment_files


class Recording:
    """`replay:PATH` or, where several engines were recorded, `replay:PATH#ENGINE`. It has the recorded engine's name.

    PATH: a file written by `synthmill calls --record`, a segment, or a store's calls folder.
    """

    scores_answers = opens_turns = True

    def __init__(self, settings: EngineSettings) -> None:
        path, _, engine = settings.model.partition("#")
        self.path = Path(path).expanduser().resolve()
        self.name = engine or only_engine(self.path)
        self.limit = settings.concurrency
        self.samples_per_call = 1
        self._calls: CallStore | None = None

    async def open(self) -> None:
        self._calls = CallStore(self.path)

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        assert self._calls is not None
        completion = self._calls.find(call_key(self.name, ask_hash(request.question_json()), request.sample))
        if completion is None:
            raise EngineRefused(
                f"the recording {self.path} has no answer by {self.name} to this request (role {request.role}, sample "
                f"{request.sample}): {request.messages[-1].content[:120]!r}; run with a model to record it"
            )
        return [completion] * count

    def answered_before(self, request: Request) -> None: ...

    def stop(self) -> None: ...

    async def close(self) -> None:
        if self._calls:
            self._calls.close()


def only_engine(path: Path) -> str:
    """The name of a recording's only engine. Raises InputError when there is none or more than one."""
    if not path.exists():
        raise InputError(f"there is no recording {path}; make one with `synthmill calls --record {path}`")
    engines: set[str] = set()
    for segment in segment_files(path):
        for kind, _, _, data in Segment(segment).lines():
            if kind == b"A":
                engines.add(orjson.loads(data[HEAD:])["engine"])
    if len(engines) != 1:
        names = ", ".join(sorted(engines)) or "none"
        raise InputError(f"{path} holds answers of {len(engines)} engines ({names}); say which: replay:{path}#ENGINE")
    return engines.pop()
