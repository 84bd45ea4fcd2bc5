"""Read prompts from a row's chat, a list of messages (schemas/messages.py)."""

from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.schemas.messages import as_message, content_in, known_role, message_in, role_in


def first_turn(messages: list[Any], system: Any) -> tuple[Any, str | None, list[str]]:
    """(system, first user message, notes on messages left out) of a chat. Several system messages before the user's are
    joined; the row's own system message replaces them. Only messages that are used need a text and a known role.
    Raises Drop.
    """
    instructions: list[str] = []
    earlier, later = 0, 0
    prompt = None
    for entry in messages:
        if prompt is not None:
            later += 1
            continue
        message = message_in(entry)
        role = known_role(message)
        if role == "user":
            prompt = content_in(message)
            if prompt is None:
                raise Drop("bad_messages: the first user message has no text")
        elif role == "system" and system is None:
            instructions.append(content_in(message) or "")
        elif role != "system" or content_in(message) != system:
            earlier += 1
    counts = {"earlier": earlier, "later": later}
    notes = [f"{count} {which} messages left out" for which, count in counts.items() if count]
    return "\n\n".join(filter(None, instructions)) if instructions else system, prompt, notes


def user_turns(chat: Any) -> list[str]:
    """The texts of a chat's user messages; other entries are ignored. Raises Drop."""
    messages = [message for message in map(as_message, chat) if message] if isinstance(chat, list) else []
    texts = [content_in(message) for message in messages if role_in(message) == "user"]
    return [text for text in texts if text is not None]
