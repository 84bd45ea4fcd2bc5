"""What is wrong with a prompt that a model wrote: it answers, repeats itself, mixes scripts, or copies an example."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from synthmill.schemas.errors import Drop
from synthmill.tasks.texts.words import grams, rouge_l, words_of

OPENINGS = re.compile(
    r"(sure|certainly|of course|absolutely)[,!.:]|here(?: is|'s| are) (?:a|an|the|your|another|one)\b|as an ai\b"
    r"|i(?:'m| am) sorry, but\b|i (?:cannot|can't) (?:help|assist)\b",
    re.IGNORECASE,
)
RUN, MOST_REPEATED = 3, 0.5
"""Runs of so many words, and the share of them that stood there before."""
SECOND_SCRIPT = 0.15  # of the letters
EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")
SYMBOLS = ("GREEK", "MATHEMATICAL", "MODIFIER", "DOUBLE-STRUCK", "SCRIPT", "FEMININE", "MASCULINE", "MICRO")


def check_prompt(text: str, examples: Sequence[str] = (), overlap: float = 0.7) -> str:
    """The prompt, stripped. Raises Drop: no_prompt, answers_instead, repeats_itself, mixes_scripts (other scripts than
    those of the examples), copies_example (ROUGE-L of at least `overlap` with one of them).
    """
    text = text.strip()
    if not any(map(str.isalnum, text)):
        raise Drop("no_prompt: there was no text; write one")
    if opening := OPENINGS.match(text):
        raise Drop(f"answers_instead: it began with {opening[0]!r}; write only what the user says")
    if repeated_share(text) > MOST_REPEATED:
        raise Drop("repeats_itself: most of it says the same words again; say each thing once")
    if further := mixed_scripts(text, examples):
        raise Drop(f"mixes_scripts: it has {' and '.join(further)} letters; keep to one language")
    for example in examples:
        if (likeness := rouge_l(text, example)) >= overlap:
            raise Drop(f"copies_example: ROUGE-L {likeness:.2f} with an example; write something else")
    return text


def repeated_share(text: str) -> float:
    """The share of a text's runs of RUN words that stood in it before; 0 for a short text."""
    runs = grams(words_of(text), RUN)
    return 1 - len(set(runs)) / len(runs) if len(runs) >= 2 * RUN else 0.0


def mixed_scripts(text: str, examples: Sequence[str]) -> list[str]:
    """The scripts of a text that mixes several, without those of its examples, and without Latin: every language has
    names and terms in it.
    """
    counts = script_counts(text)
    large = [script for script, count in counts.items() if count >= SECOND_SCRIPT * counts.total()]
    known = set().union(*map(script_counts, examples))
    return sorted(set(large) - known - {"Latin"}) if len(large) > 1 else []


def script_counts(text: str) -> Counter[str]:
    """How many letters of each script a text has; mathematical letters are none."""
    first_words = (unicodedata.name(char, "").partition(" ")[0] for char in text if char.isalpha())
    names = ("East Asian" if name.startswith(EAST_ASIAN) else name.title() for name in first_words)
    return Counter(name for name in names if name and name.upper() not in SYMBOLS)
