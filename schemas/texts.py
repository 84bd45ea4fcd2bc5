"""Plain forms of texts."""

import unicodedata


def normalised(text: str) -> str:
    """NFKC, casefold, white space collapsed: what two exact duplicates share, in any script."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def printable(text: str, *, keep: str = "\n\t") -> str:
    """The text without control characters, which terminals obey and XML refuses; but for those to keep."""
    return "".join(c for c in text if c in keep or unicodedata.category(c) not in ("Cc", "Cs"))


def one_line(text: str) -> str:
    """White space collapsed, control characters dropped."""
    return " ".join(printable(" ".join(text.split())).split())
