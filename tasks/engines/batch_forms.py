"""Which server takes an engine's batches, and how its requests and replies are written."""

from collections.abc import Callable, Sequence

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.batch_results import Form
from synthmill.tasks.engines.batch_servers import BatchServer, ByHand, OpenAIBatches
from synthmill.tasks.engines.chat_server import ChatServer


class ChatForm:
    """Requests and replies as single calls to an OpenAI-compatible server have them."""

    def __init__(self, settings: EngineSettings) -> None:
        self._server = ChatServer(settings)
        self.name = self._server.name

    def body(self, request: Request, seed: int, count: int) -> dict[str, object]:
        return self._server._body(request, seed, count)

    def read(self, request: Request, reply: bytes, count: int) -> Sequence[Completion]:
        return self._server._read(request, reply, count, 0.0)


SERVERS: dict[str, Callable[[EngineSettings], BatchServer]] = {"openai": OpenAIBatches}
FORMS: dict[str, Callable[[EngineSettings], ChatForm]] = {"openai": ChatForm}


def server_of(settings: EngineSettings) -> BatchServer:
    assert settings.batch
    return ByHand(settings) if settings.batch.file else SERVERS[settings.kind](settings)


def form_of(settings: EngineSettings) -> Form:
    return FORMS[settings.kind](settings)
