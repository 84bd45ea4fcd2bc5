"""The names of the formats that a dataset is exported in (docs/publishing.md)."""

from typing import Literal, get_args

Format = Literal[
    "as-made", "sft", "dpo", "dpo-plain", "kto", "reward", "prompts", "triplets", "sharegpt", "alpaca", "openai"
]
FORMATS: tuple[Format, ...] = get_args(Format)
ThinkingPlace = Literal["", "field", "text", "drop"]
"""Where exported answers have what their model thought before them: in a field of the message, in the text, nowhere;
empty: where the format's trainers look.
"""
