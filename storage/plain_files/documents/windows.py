"""Sections of a document, and windows of whole sentences over them."""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import regex

TOKEN = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|\w+|[^\w\s]")
SENTENCE = regex.compile(r".+?(?:[.!?]+[\"'”’)\]]*\s+|[。！？]+[」』”’]*\s*|\n\s*|$)", regex.DOTALL)


class Section(NamedTuple):
    """Text under the same headings, the outermost first. page: of a PDF, from 1; 0 elsewhere."""

    headings: tuple[str, ...]
    text: str
    page: int = 0


class Sentence(NamedTuple):
    """A sentence or a line, with the white space behind it; at most a window's tokens."""

    text: str
    tokens: int
    page: int


def token_count(text: str) -> int:
    """Words, signs, and letters of scripts without spaces: no tokenizer's count, and the same everywhere."""
    return sum(1 for _ in TOKEN.finditer(text))


def windows(sections: Iterable[Section], window: int, overlap: int) -> Iterator[Section]:
    """Sections of the same headings joined, and cut where a sentence would make more than `window` tokens; each further
    cut begins with the last sentences of the one before, up to `overlap` tokens. One section is read at a time.
    """
    headings: tuple[str, ...] = ()
    sentences: list[Sentence] = []
    fresh = False  # whether a sentence stands there that no window has yet
    for section in sections:
        if section.headings != headings:
            if fresh:
                yield joined(headings, sentences)
            headings, sentences, fresh = section.headings, [], False
        for sentence in sentences_of(section, window):
            size = sum(each.tokens for each in sentences)
            if size + sentence.tokens > window:
                if fresh:
                    yield joined(headings, sentences)
                sentences = tail(sentences, min(overlap, window - sentence.tokens))
            sentences.append(sentence)
            fresh = True
    if fresh:
        yield joined(headings, sentences)


def joined(headings: tuple[str, ...], sentences: list[Sentence]) -> Section:
    return Section(headings, "".join(sentence.text for sentence in sentences).strip(), sentences[0].page)


def tail(sentences: list[Sentence], most: int) -> list[Sentence]:
    """The last sentences of at most so many tokens together, never all of them."""
    size, kept = 0, len(sentences)
    while kept > 1 and size + sentences[kept - 1].tokens <= most:
        kept -= 1
        size += sentences[kept].tokens
    return sentences[kept:]


def sentences_of(section: Section, window: int) -> Iterator[Sentence]:
    """A section's sentences; one that is longer than a window is cut between tokens. The last one ends in white space,
    so that what follows does not touch it.
    """
    text = section.text.strip() + "\n"
    for match in SENTENCE.finditer(text):
        starts = [token.start() for token in TOKEN.finditer(match[0])]
        if not starts:
            continue
        cuts = [0, *starts[window::window], len(match[0])]
        for n, (begin, end) in enumerate(itertools.pairwise(cuts)):
            tokens = min(window, len(starts) - n * window)
            yield Sentence(match[0][begin:end], tokens, section.page)
