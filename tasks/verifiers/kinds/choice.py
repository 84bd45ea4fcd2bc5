"""The answer chooses the right options: letters, or the options' texts.

Source: docs/papers.md#verifiers.
"""

import re
from typing import ClassVar, Literal

from pydantic import Field

from synthmill.tasks.verifiers.kinds.exact import texts_in
from synthmill.tasks.verifiers.verifier import Verdict, Verifier, failed, missing

OPTION = r"[(\[{*_\s]{0,8}([A-Z])(?![\w'’])[)\]}*_]{0,8}"
LIST = rf"{OPTION}(?:\s{{0,8}}(?:[,;&/+]|\band\b|\bor\b|,\s{{0,8}}and\b)\s{{0,8}}{OPTION}){{0,25}}"
BOXED = re.compile(r"\\boxed\{\s{0,8}(?:\\(?:text|mathrm|textbf|mathbf)\s{0,8}\{)?([^{}]{1,2000})\}")
STATED = re.compile(
    r"\b(?i:answers?|options?|choices?)\b[\s*_]{0,8}(?:(?i:is|are|was|would be|should be)\b|[:：=])[\s:*_]{0,8}"
    rf"(?:(?i:the )?(?i:options?|choices?|letters?)\s{{1,8}})?({LIST})"
)
ALONE = re.compile(rf"\s{{0,8}}({LIST})\s{{0,8}}[.)\]:]?\s{{0,8}}")
LETTER = re.compile(r"(?<!\w)[A-Z](?!\w)")
LED_BY_LETTER = re.compile(r"[(\[*_]{0,8}([A-Z])[)\]*_]{0,8}[.):\]]\s{0,8}\S")
AN_ARTICLE = re.compile(r"\s+(?!is\b|because\b|since\b|as\b|and\b|or\b)[a-z]")
"""What follows an A that is a word: the answer is A matter of taste."""
ENDS = " \t\n.,;:!*_\"'()[]{}$"


class Choice(Verifier):
    """The option that the answer ends with is the reference's: a letter, several (A, C), or an option's text."""

    short_forms: ClassVar = ("choice",)

    verifier: Literal["choice"] = "choice"
    options: tuple[str, ...] = Field((), max_length=26, description="the options' texts, A first")

    def verdict(self, answer: str, reference: str) -> Verdict:
        wanted = self.reference_letters(reference)
        if not wanted:
            return missing(f"bad_reference: {reference[:80]!r} names no option")
        chosen = self.chosen(answer)
        if not chosen:
            return failed("no_choice: it ends with no option")
        return Verdict(1.0) if chosen == wanted else failed(f"other_choice: {', '.join(sorted(chosen))}")

    def reference_letters(self, reference: str) -> frozenset[str]:
        """The letters that a reference names: a JSON list of letters or texts, an option's text, or letters."""
        sets = [self.by_text(text) or letters_of(text) for text in texts_in(reference)]
        return frozenset().union(*sets) if all(sets) else frozenset()

    def chosen(self, answer: str) -> frozenset[str]:
        """What the answer chooses: the last boxed option, else the last that it states as its answer, else its last
        line, else its first.
        """
        for pattern in (BOXED, STATED):
            for match in reversed(list(pattern.finditer(answer))):
                is_word = pattern is STATED and match[1] == "A" and AN_ARTICLE.match(answer, match.end())
                chosen = frozenset() if is_word else self.by_text(match[1]) or letters_of(match[1])
                if chosen:
                    return self.known(chosen)
        lines = [line.strip() for line in answer.splitlines() if line.strip()]
        for line in (*lines[-1:], *lines[:1]):
            if chosen := self.by_text(line) or self.by_text(after_colon(line)):
                return chosen
            if letters := letters_of(line):
                return self.known(letters)
            if len(lines) == 1 and (led := LED_BY_LETTER.match(line)):
                return self.known(frozenset(led[1]))
        return frozenset()

    def known(self, letters: frozenset[str]) -> frozenset[str]:
        """The letters, if all of them are options."""
        last = chr(ord("A") + len(self.options) - 1) if self.options else "Z"
        return letters if all(letter <= last for letter in letters) else frozenset()

    def by_text(self, text: str) -> frozenset[str]:
        """The letter of the option whose text this is; empty where there is none, or several."""
        own = plain(text)
        places = [place for place, option in enumerate(self.options) if own and plain(option) == own]
        return frozenset(chr(ord("A") + place) for place in places) if len(places) == 1 else frozenset()


def letters_of(text: str) -> frozenset[str]:
    """The letters of a text that is nothing but letters of options."""
    alone = text.strip(ENDS)
    match = ALONE.fullmatch(alone.upper() if len(alone) == 1 else text)
    return frozenset(LETTER.findall(match[1])) if match else frozenset()


def after_colon(line: str) -> str:
    return line.rpartition(":")[2]


def plain(text: str) -> str:
    return " ".join(text.split()).casefold().strip(ENDS)
