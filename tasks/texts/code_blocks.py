"""Blocks of code in answers, between rows of three backticks or more."""

import re

FENCE = re.compile(r"^[ \t]{0,3}(`{3,})[ \t]*([\w+.#-]*)[^\n`]*\n(.*?)^[ \t]{0,3}\1`*[ \t]*$", re.M | re.S)


def code_blocks(text: str, *languages: str) -> list[str]:
    """The contents of a text's closed blocks, in order: those of these languages, or, where there are none, those that
    name no language.
    """
    blocks = [(match[2].lower(), match[3]) for match in FENCE.finditer(text if text.endswith("\n") else f"{text}\n")]
    return [code for language, code in blocks if language in languages] or [
        code for language, code in blocks if not language
    ]


def code_in(text: str, *languages: str) -> str:
    """The last block of code of a text; the whole text where it has none."""
    blocks = code_blocks(text, *languages)
    return blocks[-1] if blocks else text
