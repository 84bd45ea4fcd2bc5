"""Thinking of models in this process: asked for, or left out, by the variables of their chat template."""

from typing import Any

from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.thinking_settings import Marks, ThinkingSettings

VARIABLES = "chat_template_kwargs"
"""The option that holds variables of one's own; they win over ours."""
SWITCHES = ("enable_thinking", "thinking")
"""What templates call the variable that turns thinking on and off: Qwen and many others; DeepSeek, Granite."""
PROBE = [{"role": "user", "content": "Hello"}]
"""What a template is rendered with, to see how an answer begins."""


def template_variables(settings: EngineSettings) -> dict[str, Any]:
    """The variables that a chat template is rendered with; none where nothing is asked of the model's thinking."""
    thinking = settings.thinking
    variables: dict[str, Any] = {}
    if thinking.identity():
        variables = dict.fromkeys(SWITCHES, thinking.mode != "off")
    if thinking.effort:
        variables["reasoning_effort"] = thinking.effort
    return variables | dict(settings.options.get(VARIABLES) or {})


def begun_thinking(prompt: str, marks: Marks) -> str:
    """What a rendered prompt ends with where its template has opened a block of thinking, from the mark on."""
    for opening, _ in marks:
        if prompt.rstrip().endswith(opening):
            return prompt[prompt.rindex(opening) :]
    return ""


def whole_turn(text: str, begun: str, marks: Marks, structured: bool) -> str:
    """A model's turn with the mark that its template wrote for it. structured: the answer was held to a form; then it
    may begin at once, without any thinking.
    """
    opened = begun.strip()
    if not opened or text.lstrip().startswith(opened):
        return text
    closing = next(closing for opening, closing in marks if opening == opened)
    return text if structured and closing not in text else begun + text


def room(max_tokens: int, thinking: ThinkingSettings) -> int:
    """The tokens of a whole turn: those of the answer, and of the thinking where it has its own."""
    return max_tokens + (thinking.tokens or 0)
