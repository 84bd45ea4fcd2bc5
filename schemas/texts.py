"""Normal forms of texts, and a parser for JSON that other programs wrote."""

import json
import re
import unicodedata
from typing import Any

import orjson

HALF_SURROGATE = "\\ud"
FENCED = re.compile(r"```\w*\s*\n(.*?)```", re.DOTALL)
MOST_BRACES = 200  # places where an object may begin


def normalised(text: str) -> str:
    """NFKC, casefold, white space collapsed: what two exact duplicates share, in any script."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def printable(text: str, *, keep: str = "\n\t") -> str:
    """The text without control characters, which terminals obey and XML refuses; those in `keep` stay."""
    return "".join(c for c in text if c in keep or unicodedata.category(c) not in ("Cc", "Cs"))


def one_line(text: str) -> str:
    """White space collapsed, control characters dropped."""
    return " ".join(printable(" ".join(text.split())).split())


def loads(data: bytes | str) -> Any:
    """Parse JSON that other programs wrote. Half a surrogate pair, which a cut emoji leaves, becomes U+FFFD, as in
    tokenizers and servers; orjson alone refuses such a document. Raises ValueError.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        text = data if isinstance(data, str) else data.decode()
        if HALF_SURROGATE not in text.lower():
            raise
        return without_halves(json.loads(text, parse_constant=refuse_constant))


def object_in(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is or holds: between code fences, or with words around it; the longest of several.
    None where there is none.
    """
    for candidate in (text, *FENCED.findall(text)):
        try:
            value = loads(candidate)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    longest = ""
    end = tries = 0
    while (start := text.find("{", end)) >= 0 and tries < MOST_BRACES:
        tries += 1
        try:
            _, end = DECODER.raw_decode(text, start)
            longest = max(longest, text[start:end], key=len)
        except (ValueError, RecursionError):
            end = start + 1
    value = loads(longest) if longest else None
    return value if isinstance(value, dict) else None


def refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


DECODER = json.JSONDecoder(parse_constant=refuse_constant)


def without_halves(value: Any) -> Any:
    """A JSON value whose texts hold no half of a surrogate pair."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [without_halves(member) for member in value]
    if isinstance(value, dict):
        return {without_halves(name): without_halves(member) for name, member in value.items()}
    return value
