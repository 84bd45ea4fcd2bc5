"""Judgements with several named scores: a JSON object with reasons, then a whole number for each name."""

import re
from collections.abc import Sequence
from typing import Any

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop
from synthmill.tasks.recipe import read_json

REASONS = "reasons"
LONGEST_REASONS = 2000  # characters


def scores_schema(names: Sequence[str], lowest: int, highest: int) -> dict[str, Any]:
    """The JSON schema of a judgement; reasons come first, so that scores follow from them."""
    score = {"type": "integer", "minimum": lowest, "maximum": highest}
    properties = {REASONS: {"type": "string", "maxLength": LONGEST_REASONS}, **dict.fromkeys(names, score)}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def read_scores(completion: Completion, names: Sequence[str], lowest: int, highest: int) -> dict[str, int] | None:
    """A judgement's score for each name; None where the judge could not be asked. Raises Drop where one is missing, is
    no whole number in the range, or stands there twice.
    """
    if completion.error:
        return None
    answer = read_json(completion, "no_score")
    scores = {}
    for name in names:
        value = answer.get(name)
        if name not in answer:
            raise Drop(f"no_score: it had no score for {name}; give all of {', '.join(names)}")
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise Drop(f"bad_score: {name} was {value!r:.40}; give one whole number from {lowest} to {highest}")
        if is_named_twice(completion.text, name):
            raise Drop(f"two_scores: it had several scores for {name}; give one JSON object with one for each")
        scores[name] = value
    return scores


def is_named_twice(text: str, name: str) -> bool:
    """Whether an answer in JSON has a name several times, of which a parser would show one."""
    return len(re.findall(rf'(?<!\\)"{re.escape(name)}"\s*:', text)) > 1
