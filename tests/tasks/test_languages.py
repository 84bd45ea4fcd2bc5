"""Which language a text is in, and when that is a guess; letters and tokens of scripts with combining marks."""

import pytest

from synthmill.tasks.texts.languages import FEWEST_LETTERS, is_letter, language_of
from synthmill.tasks.texts.words import tokens_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the capital of France, and why did it become the capital?", "en"),
        ("Wie halte ich Basilikum in einer dunklen Küche am Leben?", "de"),
        ("फ्रांस की राजधानी क्या है और क्यों?", "hi"),
        ("请用简单的语言解释一下为什么天空是蓝色的", "zh"),
        ("Compare iPhone 15 Pro Max vs Samsung Galaxy S24 Ultra camera", ""),  # Italian, at .083
        ("def f(x):\n    return [i for i in range(x) if i % 2 == 0]\nprint(f(10))", ""),
        ("for (int i = 0; i < n; i++) { arr[i] = arr[i-1] + arr[i-2]; } return arr;", ""),
        ("aGVsbG8gd29ybGQgdGhpcyBpcyBiYXNlNjQgb2YgYSBsb25nIHRleHQ=", ""),  # no linguistic content
        ("apple, banana, kiwi, mango, papaya, guava, lychee, durian", ""),
        ("Why?", ""),
    ],
)
def test_a_language_is_told_where_it_is_likely(text: str, language: str) -> None:
    assert language_of(text) == language


def test_marks_count_with_their_letters() -> None:
    hindi = "भारत की राजधानी क्या है?"
    assert len("".join(filter(str.isalpha, hindi)).encode()) < FEWEST_LETTERS
    assert len("".join(filter(is_letter, hindi)).encode()) >= FEWEST_LETTERS
    assert language_of(hindi) == "hi"
    assert not any(map(is_letter, "1 ,.؟_"))


def test_tokens_are_those_of_nltk_3_9() -> None:
    assert tokens_of("नमस्ते दुनिया") == ["नमस", "्", "त", "े", "द", "ु", "न", "ि", "य", "ा"]
    assert tokens_of("It's 3.5 o'clock...") == ["It", "'", "s", "3", ".", "5", "o", "'", "clock", "..."]
