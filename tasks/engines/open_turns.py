"""A turn that the model writes on: the prompt ends where the chat template has opened the last message.

Engines that hold the model render the chat with a mark as the last message's text, and end the prompt where the mark
begins; so the template decides what stands before a user's turn. A server that continues raw texts has no template that
it tells: `user_turn`, a setting of the engine, says what the template writes.
"""

from collections.abc import Sequence

from synthmill.schemas.calls import Message, Request
from synthmill.schemas.errors import EngineRefused
from synthmill.tasks.engines.engine import Engine
from synthmill.tasks.engines.scored_answers import check_scores

MARK = "OPEN-TURN-BEGINS-HERE"
SYSTEM = "{system}"
"""In `user_turn`: where the system message goes."""


def check_able(engine: Engine, request: Request) -> None:
    """Raises EngineRefused where an engine is asked to score an answer or to continue a turn, and cannot. Those that
    can say so in `scores_answers` and `opens_turns`.
    """
    check_scores(engine, request)
    if request.open_turn and not getattr(engine, "opens_turns", False):
        raise EngineRefused(
            f"{engine.name} continues no open turns, and {request.role} is asked to; set engines.{request.role} to "
            "vllm:MODEL, llamacpp:FILE.gguf, or openai:MODEL@URL with `user_turn`, without `batch`"
        )


def with_mark(messages: Sequence[Message]) -> list[dict[str, str]]:
    """A chat whose last text is the mark."""
    *before, last = [{"role": message.role, "content": message.content} for message in messages]
    return [*before, {**last, "content": MARK}]


def opened(rendered: str, messages: Sequence[Message]) -> str:
    """The prompt of an open turn. rendered: the chat `with_mark`, as the chat template writes it. Raises EngineRefused
    where the mark is not in it.
    """
    before, mark, _ = rendered.partition(MARK)
    if not mark:
        raise EngineRefused("the model has no chat template that says where a turn begins; name another model")
    return before + messages[-1].content


def opened_by(user_turn: str, messages: Sequence[Message]) -> str:
    """The prompt of an open turn by the engine's setting. Raises EngineRefused where that cannot hold the chat."""
    *before, last = messages
    if not user_turn:
        raise EngineRefused(
            "the engine has no user_turn, and is asked to continue one; set engines.ROLE.user_turn to what the model's "
            r'chat template writes before the text of a user, for instance "<|im_start|>user\n"'
        )
    if any(message.role != "system" for message in before) or (before and SYSTEM not in user_turn):
        raise EngineRefused(
            f"user_turn has no {SYSTEM}, or there is more than one system message before the open turn; write it as "
            rf'"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"'
        )
    return user_turn.replace(SYSTEM, before[0].content if before else "") + last.content
