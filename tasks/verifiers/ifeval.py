"""IFEval's instructions, by their names and parameters, as constraints of ours. Source: docs/papers.md#verifiers."""

from collections.abc import Callable, Mapping
from typing import Any

from synthmill.schemas.errors import InputError

Parameters = Mapping[str, Any]
YES_NO_MAYBE = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def limit(relation: Any, number: Any) -> dict[str, Any]:
    """IFEval knows two relations: at least, and less than."""
    if relation == "at least":
        return {"at_least": number}
    if relation == "less than" and isinstance(number, int | float) and number >= 1:
        return {"at_most": int(number) - 1}
    raise InputError(f"{relation!r} {number!r} is no limit of IFEval; expected at least or less than, and a number")


TRANSLATED: Mapping[str, Callable[[Parameters], dict[str, Any]]] = {
    "keywords:existence": lambda p: {"check": "keywords", "keywords": p["keywords"], "whole_word": False},
    "keywords:frequency": lambda p: {
        "check": "keyword",
        "keyword": p["keyword"],
        "whole_word": False,
        **limit(p["relation"], p["frequency"]),
    },
    "keywords:forbidden_words": lambda p: {"check": "forbidden", "words": p["forbidden_words"]},
    "keywords:letter_frequency": lambda p: {
        "check": "letter",
        "letter": p["letter"],
        **limit(p["let_relation"], p["let_frequency"]),
    },
    "language:response_language": lambda p: {"check": "language", "language": p["language"]},
    "length_constraints:number_sentences": lambda p: {"check": "sentences", **limit(p["relation"], p["num_sentences"])},
    "length_constraints:number_words": lambda p: {"check": "words", **limit(p["relation"], p["num_words"])},
    "length_constraints:number_paragraphs": lambda p: {
        "check": "paragraphs",
        "divider": "***",
        "exactly": p["num_paragraphs"],
    },
    "length_constraints:nth_paragraph_first_word": lambda p: {
        "check": "paragraph_start",
        "number": p["nth_paragraph"],
        "word": p["first_word"],
        "paragraphs": p["num_paragraphs"],
    },
    "detectable_content:number_placeholders": lambda p: {"check": "placeholders", "at_least": p["num_placeholders"]},
    "detectable_content:postscript": lambda p: {"check": "postscript", "mark": p["postscript_marker"]},
    "detectable_format:number_bullet_lists": lambda p: {
        "check": "bullets",
        "numbered": False,
        "exactly": p["num_bullets"],
    },
    "detectable_format:constrained_response": lambda p: {"check": "options", "options": YES_NO_MAYBE},
    "detectable_format:number_highlighted_sections": lambda p: {
        "check": "highlights",
        "at_least": p["num_highlights"],
    },
    "detectable_format:multiple_sections": lambda p: {
        "check": "sections",
        "heading": p["section_spliter"],
        "at_least": p["num_sections"],
    },
    "detectable_format:json_format": lambda p: {"check": "json"},
    "detectable_format:title": lambda p: {"check": "title"},
    "combination:two_responses": lambda p: {"check": "divided"},
    "combination:repeat_prompt": lambda p: {"check": "starts_with", "text": p["prompt_to_repeat"]},
    "startend:end_checker": lambda p: {"check": "ends_with", "text": p["end_phrase"]},
    "startend:quotation": lambda p: {"check": "quoted"},
    "change_case:capital_word_frequency": lambda p: {
        "check": "capital_words",
        **limit(p["capital_relation"], p["capital_frequency"]),
    },
    "change_case:english_capital": lambda p: {"check": "uppercase"},
    "change_case:english_lowercase": lambda p: {"check": "lowercase"},
    "punctuation:no_comma": lambda p: {"check": "no_commas"},
}


def from_ifeval(name: str, parameters: Parameters) -> dict[str, Any]:
    """The constraint that an instruction of IFEval's is; parameters that are null are left out. Raises InputError."""
    if name not in TRANSLATED:
        raise InputError(f"IFEval has no instruction {name!r}; expected one of {', '.join(TRANSLATED)}")
    try:
        return TRANSLATED[name]({key: value for key, value in parameters.items() if value is not None})
    except KeyError as error:
        raise InputError(f"{name} needs the parameter {error.args[0]}") from error
