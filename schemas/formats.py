"""The names of the formats and uses that a dataset is exported in (docs/publishing.md)."""

from typing import Literal, get_args

Format = Literal[
    "as-made", "sft", "dpo", "dpo-plain", "kto", "reward", "prompts", "triplets", "sharegpt", "alpaca", "openai"
]
FORMATS: tuple[Format, ...] = get_args(Format)
Use = Literal["sft", "pairs", "kto", "reward", "prompts", "rl", "triplets", "self-distillation"]
"""What a trainer does with rows: imitate a conversation, prefer an answer over another, learn which answers are wanted,
score conversations, answer prompts, answer prompts whose answers a verifier checks, embed texts, answer without a
context as with it.
"""
USES: tuple[Use, ...] = get_args(Use)
Part = Literal["tools", "system", "history"]
"""What may be written into texts for a trainer that cannot hold it: tools with their calls and results, the system
message, the turns of a prompt before its last one.
"""
PARTS: tuple[Part, ...] = get_args(Part)
ThinkingPlace = Literal["", "field", "text", "drop"]
"""Where exported answers have what their model thought before them: in a field of the message, in the text, nowhere;
empty: where the format's trainers look.
"""
