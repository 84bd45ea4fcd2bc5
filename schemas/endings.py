"""How an answer ended. Engines and servers have many names for it; we keep the three of OpenAI that matter."""

from typing import Literal

Ending = Literal["stop", "length", "content_filter"]
"""stop: the model was done. length: it was cut at max_tokens. content_filter: a filter or anything else
(a refusal by rule, an abort) broke it off: the text is the beginning of an answer.
"""
DONE = {
    *("", "stop", "stopped", "eos", "eos_token", "eot", "end", "end_turn", "stop_sequence", "stop_token"),
    *("complete", "completed", "done", "finished", "tool_calls", "tool_call", "tool_use", "function_call"),
    *("unknown", "unspecified", "finish_reason_unspecified", "none", "null"),
    "over",  # what a world says when it has ended (tasks/engines/worlds.py)
}
CUT_WHILE_THINKING = "cut_while_thinking"
"""Ours, for an answer that ended before its thinking did."""
CUT = {
    *(CUT_WHILE_THINKING, "length", "max_tokens", "max_output_tokens", "max_length", "model_length", "token_limit"),
    "model_context_window_exceeded",
}


def ending_of(finish_reason: str | None) -> Ending:
    """The ending that a finish reason means, in any spelling; an unknown one means that the answer was broken off."""
    name = (finish_reason or "").strip().casefold().replace(" ", "_").replace("-", "_")
    return "stop" if name in DONE else "length" if name in CUT else "content_filter"
