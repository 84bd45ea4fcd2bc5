"""What a server says an answer took, under one set of names.

Providers count alike and name differently: some include in what was read what came from a cache, some count it apart;
the same for thinking and what was written. Here `prompt_tokens` is all that was read and `completion_tokens` all that
was written; the others say how much of it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

Path = tuple[str, ...]


class Tokens(NamedTuple):
    """prompt_tokens: all that was read, cached_tokens and cache_written_tokens included. completion_tokens: all that
    was written, thinking_tokens included.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_written_tokens: int = 0
    thinking_tokens: int = 0

    def plus(self, other: "Tokens") -> "Tokens":
        return Tokens(*map(sum, zip(self, other, strict=True)))


class Form(NamedTuple):
    """The names of one kind of report; of several paths, the first that is there counts. cache_apart, thinking_apart:
    whether they are counted beside `prompt` and `completion` instead of within them.
    """

    prompt: tuple[Path, ...]
    completion: tuple[Path, ...]
    cached: tuple[Path, ...]
    cache_written: tuple[Path, ...] = ()
    thinking: tuple[Path, ...] = ()
    more_prompt: tuple[Path, ...] = ()
    cache_apart: bool = False
    thinking_apart: bool = False


CHAT = Form(  # OpenAI, vLLM, SGLang, llama.cpp, DeepSeek, and proxies that add Anthropic's names
    prompt=(("prompt_tokens",),),
    completion=(("completion_tokens",),),
    cached=(("prompt_tokens_details", "cached_tokens"), ("prompt_cache_hit_tokens",), ("cache_read_input_tokens",)),
    cache_written=(
        ("prompt_tokens_details", "cache_write_tokens"),
        ("prompt_tokens_details", "created_cache_tokens"),
        ("cache_creation_input_tokens",),
    ),
    thinking=(("completion_tokens_details", "reasoning_tokens"),),
)
RESPONSES = Form(  # OpenAI's other API
    prompt=(("input_tokens",),),
    completion=(("output_tokens",),),
    cached=(("input_tokens_details", "cached_tokens"),),
    cache_written=(("input_tokens_details", "cache_write_tokens"),),
    thinking=(("output_tokens_details", "reasoning_tokens"),),
)
MESSAGES = Form(  # Anthropic
    prompt=(("input_tokens",),),
    completion=(("output_tokens",),),
    cached=(("cache_read_input_tokens",),),
    cache_written=(("cache_creation_input_tokens",),),
    thinking=(("output_tokens_details", "thinking_tokens"),),
    cache_apart=True,
)
GEMINI = Form(
    prompt=(("promptTokenCount",), ("prompt_token_count",)),
    completion=(("candidatesTokenCount",), ("candidates_token_count",)),
    cached=(("cachedContentTokenCount",), ("cached_content_token_count",)),
    thinking=(("thoughtsTokenCount",), ("thoughts_token_count",)),
    more_prompt=(("toolUsePromptTokenCount",), ("tool_use_prompt_token_count",)),
    thinking_apart=True,
)
BEDROCK = Form(
    prompt=(("inputTokens",),),
    completion=(("outputTokens",),),
    cached=(("cacheReadInputTokens",),),
    cache_written=(("cacheWriteInputTokens",),),
    cache_apart=True,
)
SUMS = {"prompt_tokens", "completion_tokens", "total_tokens"}
"""The most frequent report has these names only; it is not looked into, because every answer has one."""
MOST_TOKENS = 1 << 40
"""What is larger is no count of tokens."""


def reported_tokens(usage: Mapping[str, Any]) -> Tokens | None:
    """The tokens of a report as a server sent it, 0 for what it does not name; None where it names none of them."""
    form = form_of(usage)
    if form is None:
        return None
    if form is CHAT and has_sums_only(usage):
        return Tokens(token_count(usage.get("prompt_tokens")), token_count(usage.get("completion_tokens")))
    prompt, completion = number_at(usage, form.prompt), number_at(usage, form.completion)
    cached, cache_written = number_at(usage, form.cached), number_at(usage, form.cache_written)
    thinking = number_at(usage, form.thinking)
    if form.more_prompt:
        prompt += number_at(usage, form.more_prompt)
    if form.cache_apart:
        prompt += cached + cache_written
    elif not prompt and (miss := number_at(usage, (("prompt_cache_miss_tokens",),))):
        prompt = cached + miss
    if thinking and (form.thinking_apart or usage.get("total_tokens") == prompt + completion + thinking):
        completion += thinking
    cached = min(cached, prompt)
    return Tokens(prompt, completion, cached, min(cache_written, prompt - cached), min(thinking, completion))


def has_sums_only(usage: Mapping[str, Any]) -> bool:
    return usage.keys() <= SUMS or not any(map(usage.get, usage.keys() - SUMS))


def form_of(usage: Mapping[str, Any]) -> Form | None:
    """The kind of a report, by the names that it has."""
    if "prompt_tokens" in usage or "completion_tokens" in usage or "prompt_cache_miss_tokens" in usage:
        return CHAT
    if "input_tokens" in usage or "output_tokens" in usage:
        return RESPONSES if "input_tokens_details" in usage else MESSAGES
    if "inputTokens" in usage or "outputTokens" in usage:
        return BEDROCK
    return GEMINI if any(path[0] in usage for path in (*GEMINI.prompt, *GEMINI.completion)) else None


def number_at(usage: Mapping[str, Any], paths: tuple[Path, ...]) -> int:
    """The first count that one of the paths leads to; else 0."""
    for path in paths:
        value: Any = usage
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None and (tokens := token_count(value)):
            return tokens
    return 0


def token_count(value: Any) -> int:
    """A server's count of tokens; 0 for what cannot be one."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < MOST_TOKENS else 0


def tokens_of(prompt_tokens: int, completion_tokens: int, usage: Mapping[str, Any] | None) -> Tokens:
    """The tokens of one answer. usage: the report, which is on the first of answers that were asked together, and is
    about all of them; what was written is shared among them before.
    """
    if not usage or has_sums_only(usage):
        return Tokens(prompt_tokens, completion_tokens)
    if (reported := reported_tokens(usage)) is None:
        return Tokens(prompt_tokens, completion_tokens)
    return reported._replace(
        prompt_tokens=max(prompt_tokens, reported.prompt_tokens), completion_tokens=completion_tokens
    )


class Facts(NamedTuple):
    """What else matters to a bill. estimated: the server reported no tokens, they were counted here. asked_again: an
    earlier answer was refused. repeated: paid for beside an answer that is used. batch: asked in a batch.
    """

    estimated: bool = False
    asked_again: bool = False
    repeated: bool = False
    batch: bool = False


PLAIN = Facts()
COUNTERS = (
    *("calls", "prompt_tokens", "completion_tokens", "latency_s", "cached_tokens", "cache_written_tokens"),
    *("thinking_tokens", "estimated", "asked_again", "repeated", "wasted_prompt_tokens", "wasted_completion_tokens"),
    *("batch", "batch_prompt_tokens", "batch_completion_tokens", "batch_cached_tokens", "batch_cache_written_tokens"),
)
"""What is added up of answers. Indexes of calls hold these numbers in this order, earlier ones the first four only: add
new ones at the end. asked_again and repeated are wasted; batch_: how much of the others came in batches.
"""


def counters_of(tokens: Tokens, latency_s: float, facts: Facts = PLAIN) -> list[float]:
    """What one answer adds to COUNTERS; the first numbers only, where the others are 0."""
    prompt, completion, cached, cache_written, thinking = tokens
    if not (cached or cache_written or thinking) and facts is PLAIN:
        return [1, prompt, completion, latency_s]
    wasted = facts.asked_again or facts.repeated
    batch = [1, prompt, completion, cached, cache_written] if facts.batch else [0, 0, 0, 0, 0]
    return [
        *(1, prompt, completion, latency_s, cached, cache_written, thinking),
        *(facts.estimated, facts.asked_again, facts.repeated),
        *((prompt, completion) if wasted else (0, 0)),
        *batch,
    ]
