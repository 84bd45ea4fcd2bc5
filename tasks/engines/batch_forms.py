"""Which server takes an engine's batches, and how its requests and replies are written: as those of single calls."""

from collections.abc import Callable, Sequence

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import EngineRefused, InputError
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.anthropic_batches import AnthropicBatches
from synthmill.tasks.engines.anthropic_messages import read_message
from synthmill.tasks.engines.anthropic_server import messages_dialect
from synthmill.tasks.engines.batch_results import Form
from synthmill.tasks.engines.batch_servers import BatchServer, ByHand, OpenAIBatches
from synthmill.tasks.engines.dialect import Dialect
from synthmill.tasks.engines.refusals import FewerAnswers
from synthmill.tasks.engines.replies import completions_in
from synthmill.tasks.engines.served import server_name, server_url

BY_HAND = "openai"
"""The kind of engine whose requests others can answer."""


class ChatForm:
    """OpenAI's chat completions."""

    def __init__(self, settings: EngineSettings) -> None:
        self.name, self._url = server_name(settings), server_url(settings)
        self._dialect = Dialect(settings)

    def body(self, request: Request, seed: int, count: int) -> dict[str, object]:
        return self._dialect.write(request, seed, count).body

    def read(self, request: Request, reply: bytes, count: int) -> Sequence[Completion]:
        try:
            return completions_in(request, self._dialect.write(request, 0, count), reply, count, 0.0)
        except FewerAnswers as error:
            raise EngineRefused(f"{self._url} {error}; set samples_per_call=1") from error


class MessagesForm:
    """Anthropic's messages."""

    def __init__(self, settings: EngineSettings) -> None:
        self._dialect = messages_dialect(settings)
        self.name = self._dialect.name

    def body(self, request: Request, seed: int, count: int) -> dict[str, object]:
        return self._dialect.write(request, seed, count).body

    def read(self, request: Request, reply: bytes, count: int) -> Sequence[Completion]:
        return [read_message(request, reply, 0.0)]


SERVERS: dict[str, Callable[[EngineSettings], BatchServer]] = {"openai": OpenAIBatches, "anthropic": AnthropicBatches}
FORMS: dict[str, Callable[[EngineSettings], Form]] = {"openai": ChatForm, "anthropic": MessagesForm}


def server_of(settings: EngineSettings) -> BatchServer:
    """Raises InputError where requests that only one provider answers are to be written to a file."""
    assert settings.batch
    if settings.batch.file and settings.kind != BY_HAND:
        raise InputError(
            f"requests to {settings.spec} are for nobody else to answer; expected an engine of the kind {BY_HAND}, "
            "where they are written to a file; use --batch instead"
        )
    return ByHand(settings) if settings.batch.file else SERVERS[settings.kind](settings)


def form_of(settings: EngineSettings) -> Form:
    return FORMS[settings.kind](settings)
