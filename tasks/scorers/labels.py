"""Verdicts of one letter or digit: their probabilities, by the judge's logprobs.

Source: docs/papers.md#expected-score.
"""

import math
import re
from functools import partial
from operator import eq
from typing import Annotated

from pydantic import Field

from synthmill.schemas.calls import Completion, Sampling

FIRST, SECOND = "A", "B"
MOST_ALTERNATIVES = 20
TOKENS_BEFORE = 4  # a mark or a space may come before the label
GOES_ON = re.compile(r"\w|\s*[.,/:&–−-]\s*(?:\d|[AB]\b)|\s+(?:or|and|to|of|out of)\b|[^\S\n]*\n\s*\d+\s*\Z")
"""What follows a label that is not the whole verdict: 10, 8.5, 8/10, 7-9, A/B, A or B."""
SECOND_LETTER = re.compile(r"(?:[\s.,;:/&=–−-]|\b(?i:or|and|to|then|vs|no|but|wait|actually)\b)*([AB])\W*\Z")
"""What follows where another letter has the last word: A = B, A. No, B."""
END_TOKEN = re.compile(r"<[^<>\s]+>\Z")
LEAST_MASS = 0.05
LeastMass = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        exclude_if=partial(eq, LEAST_MASS),
        description="the probability that all labels must have together, by the logprobs; below it there is no verdict",
    ),
]
"""In no key where it is the default: scores of earlier versions are found."""
SIGNS = ("-", "−", ".", ",")  # -3, .5
ARTICLE = re.compile(r"\s+(?!is\b|because\b|wins\b|as\b)[a-z]+\s+[a-z]")
"""What follows an A that is an article: A good answer ..."""


def one_token(seed: int) -> Sampling:
    """How a label is asked for: the likeliest token, with its alternatives."""
    return Sampling(temperature=0.0, top_p=1.0, max_tokens=TOKENS_BEFORE, logprobs=MOST_ALTERNATIVES, seed=seed)


def chances_of(completion: Completion, labels: str, least_mass: float = 0.0) -> dict[str, float]:
    """The probabilities of one-letter labels, as shares of their sum.

    They are read where the answer's first label stands, or, if it has none, among the alternatives to its first token.
    Without logprobs, and where those are null: 1 for the label that the text begins with. Empty where there is none,
    where the answer goes on to something else (10, 8.5, A or B), where the logprobs are another text's than the
    answer's (a thought's), and where the labels have less than `least_mass` together.
    """
    if completion.error or not completion.text.strip():
        return {}
    tokens = [(str(token), logprob, alternatives) for token, logprob, alternatives in completion.logprobs or ()]
    tokens = tokens[:TOKENS_BEFORE]
    place = next((n for n, token in enumerate(tokens) if token[0].strip() in tuple(labels)), None)
    before = "".join(token[0] for token in tokens[:place])
    after = "".join(token[0] for token in tokens[(place or 0) + 1 :])
    if place is not None and (before.endswith(SIGNS) or goes_on(tokens[place][0].strip(), after, labels)):
        return {}
    if tokens and not is_beginning("".join(token[0] for token in tokens[: (place or 0) + 1]), completion.text):
        return {}
    if tokens:
        token, own_logprob, alternatives = tokens[place or 0]
        weights = dict.fromkeys(labels, 0.0)
        for text, logprob in {**(alternatives or {}), token: own_logprob}.items():
            if (label := text.strip()) in weights and logprob is not None:
                weights[label] += math.exp(min(logprob, 0.0))
        if (total := sum(weights.values())) > 0:
            if total < least_mass:
                return {}
            return {label: weight / total for label, weight in weights.items()}
    start = completion.text.strip().lstrip("*([\"'")
    if start[:1] and start[0] in labels and not goes_on(start[0], start[1:], labels):
        return {label: float(label == start[0]) for label in labels}
    return {}


def is_beginning(tokens: str, text: str) -> bool:
    """Whether an answer begins with these tokens; a choice may have been asked for as JSON."""
    return text.strip().startswith(tokens.strip()) or tokens.lstrip().startswith('{"choice"')


def goes_on(label: str, following: str, labels: str) -> bool:
    """Whether a label is not the whole verdict, by what follows it."""
    following = END_TOKEN.sub("", following)
    if GOES_ON.match(following) or FIRST not in labels:
        return bool(GOES_ON.match(following))
    second = SECOND_LETTER.match(following)
    return bool(ARTICLE.match(following) or (second and second[1] != label))
