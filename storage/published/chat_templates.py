"""A model's chat template, tried on conversations before they are exported for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthmill.schemas.errors import InputError
from synthmill.storage.published.chats import Chat, with_objects

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


def refusals(place: str) -> Callable[[Chat, str | None], str]:
    """What a template says against a chat with its tools (JSON); nothing where it takes it. place: a tokenizer's folder
    or a Jinja file; empty: every chat is taken. Conversations of the same roles are tried once.

    Raises InputError where no template is there.
    """
    if not place:
        return lambda chat, tools: ""
    template, tokens = read_template(Path(place).expanduser())
    answers: dict[tuple[Any, ...], str] = {}

    def refuses(chat: Chat, tools: str | None) -> str:
        shape = (*((message["role"], bool(message.get("tool_calls"))) for message in chat), bool(tools))
        if shape not in answers:
            answers[shape] = render_fault(template, tokens, chat, tools)
        return answers[shape]

    return refuses


def read_template(path: Path) -> tuple[str, dict[str, str]]:
    """A chat template, and the tokens that it may name."""
    config: dict[str, Any] = {}
    file = path
    if path.is_dir():
        file, settings = path / "chat_template.jinja", path / "tokenizer_config.json"
        config = json.loads(settings.read_text("utf-8")) if settings.is_file() else {}
    tokens = {name: token_text(config[name]) for name in SPECIAL if config.get(name)}
    if isinstance(template := config.get("chat_template"), str) and not file.is_file():
        return template, tokens
    if not file.is_file():
        raise InputError(f"{path} has no chat template; expected a tokenizer's folder, or a Jinja file")
    return file.read_text("utf-8"), tokens


def token_text(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)


def render_fault(template: str, tokens: dict[str, str], chat: Chat, tools: str | None) -> str:
    """Why a template cannot render a chat; empty where it can."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        render_jinja_template(
            [[with_objects(message) for message in chat]],
            tools=json.loads(tools) if tools else None,
            chat_template=template,
            **tokens,
        )
    except Exception as error:  # a template raises what it likes
        return " ".join(str(error).split())[:100] or type(error).__name__
    return ""
