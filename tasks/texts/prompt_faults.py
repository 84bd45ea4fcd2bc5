"""What is wrong with a prompt that a model wrote, where it is wrong by itself or beside the examples it was shown.

Source: ours (docs/papers.md#self-instruct).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from synthmill.schemas.calls import Completion
from synthmill.schemas.endings import ending_of
from synthmill.schemas.errors import Drop
from synthmill.schemas.texts import normalised
from synthmill.tasks.texts.words import grams, rouge_l, words_of

MARKED = re.compile(r"<begin>(.*?)(?=</?end>|</?begin>|\Z)", re.DOTALL)
"""A prompt between marks; small models close it in other ways, too."""
NUMBERED = re.compile(r"\s*\d+\.\s+(?!.*<)(.+)\s*")
"""A single line that goes on with the numbers of the examples, without marks."""
ANSWERS = re.compile(
    r"(sure|certainly|of course|absolutely|great question)\b[!,.]"
    r"|((hey|hi|hello)( there)?[!,.] )?as an ai\b|(i('m| am) )?sorry, (but )?i\b"
    r"|i (can't|cannot|can not|am unable to) (assist|help|fulfil|comply|provide)"
    r"|i('m| am) not sure what you|how (can|may) i (help|assist) you"
    r"|here('s| is| are) (a|an|another|the|your|some)( \w+){0,3} (task|prompt|instruction|question|example)s?\b",
    re.IGNORECASE,
)
"""How a text begins that answers, or announces a prompt, instead of being one."""
PLACEHOLDER = re.compile(r"\[(your|insert|enter|name of)\b[^\]]*\]", re.IGNORECASE)
OVERLAP = 0.7
"""ROUGE-L from which a prompt is an example given back, where methods ask for failures."""
GRAM, FEWEST_GRAMS, MOST_REPEATED = 4, 12, 0.3
"""A text of 12 runs of 4 words or more repeats itself when over 0.3 of them are there already."""
SCRIPT_SHARE, FEWEST_LETTERS = 0.15, 20
SYMBOLS = {"GREEK", "MATHEMATICAL", "MODIFIER", "DOUBLE", "SCRIPT", "FEMININE", "MASCULINE", "MICRO"}
EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "HALFWIDTH"}


def marked_prompt(completion: Completion, shots: Sequence[str] = ()) -> str:
    """The first prompt between marks that is none of the shots; of a cut answer, one that was closed before the cut.
    Raises Drop for none, or a bad one.
    """
    cut, given_back = ending_of(completion.finish_reason) == "length", set(map(normalised, shots))
    matches = [match for match in MARKED.finditer(completion.text) if not cut or match.end() < len(completion.text)]
    texts = [text for match in matches if holds_task(text := match[1].strip())]
    if not texts and cut:
        raise Drop("cut_prompt: it was cut, because it was too long; be shorter")
    if not texts and (line := NUMBERED.fullmatch(completion.text)):
        texts = [line[1]]
    if not texts:
        raise Drop("no_prompt: there was no task between <begin> and </end>; write both marks")
    prompt = next((text for text in texts if normalised(text) not in given_back), texts[0])
    check_prompt(prompt, shots)
    return prompt


def check_prompt(prompt: str, shots: Sequence[str] = (), overlap: float = 1.0) -> str:
    """The prompt, stripped. Raises Drop for one that is empty, a shot given back, or an answer, that repeats itself,
    that leaves a placeholder open where no shot does, or mixes in a script that no shot has. The reason is the fault's
    name. overlap: ROUGE-L from which a prompt counts as a shot; 1: only the same words do.
    """
    prompt = prompt.strip()
    if not holds_task(prompt):
        raise Drop("no_prompt: it held no task; write one")
    if normalised(prompt) in set(map(normalised, shots)):
        raise Drop("shot_given_back: it was one of the examples; write another task")
    if opening := ANSWERS.match(prompt):
        raise Drop(f"answers: it began {opening[0]!r}; write what a user would ask, and no answer")
    if (blank := PLACEHOLDER.search(prompt)) and not any(map(PLACEHOLDER.search, shots)):
        raise Drop(f"placeholder: it left {blank[0]:.40} open; write what stands there")
    if repeated_share(prompt) > MOST_REPEATED:
        raise Drop("repeats_itself: it said the same again and again; say each thing once")
    if mixed_in := further_scripts(prompt, shots):
        raise Drop(f"mixes_languages: it mixed in {' and '.join(mixed_in)} letters; write one language")
    for shot in shots if overlap < 1 else ():
        if (likeness := rouge_l(prompt, shot)) >= overlap:
            raise Drop(f"shot_given_back: ROUGE-L {likeness:.2f} with an example; write another task")
    return prompt


def holds_task(text: str) -> bool:
    """Whether a text is more than marks, or the words that stand between them where our own request is repeated."""
    return any(map(str.isalnum, text)) and text.strip(" .").casefold() not in {"and", "none"}


def repeated_share(text: str) -> float:
    """The share of runs of 4 words that are there already; 0 for a text with few of them."""
    runs = grams(words_of(text), GRAM)
    return 1 - len(set(runs)) / len(runs) if len(runs) >= FEWEST_GRAMS else 0.0


def further_scripts(prompt: str, shots: Sequence[str]) -> list[str]:
    """The scripts of a prompt with several that no shot has; Latin is none, as names and terms are written in it."""
    scripts = scripts_of(prompt)
    known = {"Latin"}.union(*map(letters_by_script, shots))
    return [script for script in scripts if script not in known] if len(scripts) > 1 else []


def scripts_of(text: str) -> list[str]:
    """The scripts with a share of at least SCRIPT_SHARE of a text's letters, in the order of the alphabet; none for a
    short text.
    """
    counts = letters_by_script(text)
    enough = counts.total() >= FEWEST_LETTERS
    return sorted(script for script, count in counts.items() if enough and count >= SCRIPT_SHARE * counts.total())


def letters_by_script(text: str) -> Counter[str]:
    """How many letters of each script a text has. Letters of formulas are none; Chinese, Japanese and Korean letters
    count as one script, which such texts mix.
    """
    return Counter(script for char in text if char.isalpha() and (script := script_of(char)))


@lru_cache(4096)
def script_of(letter: str) -> str:
    """Empty for a letter of formulas."""
    word = unicodedata.name(letter, "").partition(" ")[0].partition("-")[0]
    return "" if word in SYMBOLS else "East Asian" if word in EAST_ASIAN else word.title()
