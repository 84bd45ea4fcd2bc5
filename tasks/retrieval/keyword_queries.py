"""Queries with keywords from several instructions: joined to one query, or searched for one by one.

Source: docs/papers.md#genqrensemble.
"""

import re
from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop
from synthmill.schemas.retpo import FUSION, Candidate, KeywordMethod, WithCandidates
from synthmill.schemas.texts import normalised, one_line
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_each
from synthmill.tasks.retrieval.fused_lists import BETWEEN_QUERIES
from synthmill.tasks.texts.words import words_of

INSTRUCTIONS = (
    "Improve the search by suggesting expansion terms for the query.",
    "Suggest terms that help a search engine to find what the query asks for.",
    "Name words that a passage which answers the query is likely to contain.",
    "Give keywords that make the query more specific.",
    "List synonyms and related terms for what is in the query.",
    "Expand the query with words that describe the same need.",
    "Which further terms would an expert search for?",
    "Name the entities, places and technical terms that belong to the query.",
    "Add search terms that cover other ways to say the same.",
    "Propose keywords that lead from this query to relevant documents.",
)
"""Paraphrases of one instruction; ours, since the paper's own are a model's."""
LONGEST_KEYWORD = 6  # words: more are a sentence
MARK = re.compile(r"^\s*(?:[-*\u2022]|\d+[.)])\s*")
LEAD = re.compile(r"^[^:,\n]{0,60}:\s*")
NUMBERED = re.compile(r"(\D*?)\W*(\d+)")
FIRST_NUMBERS = ({"0", "1", "2"}, {"1", "2", "3"})


class KeywordQueries(Recipe[WithCandidates, WithCandidates]):
    """A turn with candidates -> the same with more: each instruction's keywords behind the question, joined to one
    query (`ensemble`), or one query for each instruction, whose lists are fused (`fusion`: a line each).

    The question is the human rewrite, where there is one, else the first rewrite among the candidates, else as asked. A
    turn without keywords keeps its candidates. A first turn makes no call, unless `first_turns`.
    """

    name: ClassVar = "keyword_queries"
    version: ClassVar = "2"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {"retpo/keywords": ("instruction", "question", "most")}

    methods: tuple[KeywordMethod, ...] = Field(("ensemble", "fusion"), min_length=1)
    instructions: tuple[str, ...] = Field(INSTRUCTIONS, min_length=1)
    most: int = Field(10, ge=1, description="keywords of an instruction")
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)
    first_turns: bool = False

    def requests_per_row(self) -> int:
        return len(self.instructions) * self.attempts

    def steps(self, row: WithCandidates) -> Steps[WithCandidates]:
        if not (row.history or row.turn == 0 or self.first_turns):
            return row.model_copy()
        question, prompt = question_of(row), load("retpo/keywords")
        requests = [
            Request(
                role="teacher",
                messages=prompt.render(row=row, instruction=instruction, question=question, most=self.most),
                sampling=self.sampling,
                optional=True,
            )
            for instruction in self.instructions
        ]
        answers, _ = yield from ask_each(
            requests, self.attempts, lambda _, reply: read_keywords(reply, question)[: self.most]
        )
        keywords = [" ".join(of_instruction) for of_instruction in answers if of_instruction]
        if not keywords:
            return row.model_copy()
        queries = {
            "ensemble": " ".join([question, *keywords]),
            FUSION: BETWEEN_QUERIES.join(f"{question} {of_instruction}" for of_instruction in keywords),
        }
        number = max((candidate.number for candidate in row.candidates), default=-1) + 1
        more = [
            Candidate(query=queries[method], methods=(method,), number=number + place)
            for place, method in enumerate(self.methods)
        ]
        return row.model_copy(update={"candidates": (*row.candidates, *more)})


def question_of(row: WithCandidates) -> str:
    """The question as it can be understood alone, where the row has it so."""
    rewrites = (candidate.query for candidate in row.candidates if "rewrite" in candidate.methods)
    return one_line(row.human_rewrite or next(rewrites, "") or row.question)


def read_keywords(completion: Completion, question: str) -> list[str]:
    """The keywords of an answer, by commas or lines, or, where it has no punctuation, by spaces; each once, without
    those that only repeat the question, and those that are counted through ("Keyword 1, Keyword 2, Keyword 3"). The
    last one of a cut answer is left out. Raises Drop where there is none.
    """
    if completion.error:
        raise Drop(completion.error)
    lines = [MARK.sub("", line) for line in completion.text.strip().splitlines() if line.strip()]
    between = r"\s" if len(lines) == 1 and not re.search(r"[,;.:!?]", lines[0]) else "[,;]"
    pieces = [piece for line in lines for piece in re.split(between, LEAD.sub("", line))]
    if completion.finish_reason == "length":
        pieces = pieces[:-1]
    asked, keywords = set(words_of(question)), dict[str, str]()
    for piece in (one_line(piece).strip(" .\"'*`") for piece in pieces):
        words = words_of(piece)
        if words and len(words) <= LONGEST_KEYWORD and not set(words) <= asked:
            keywords.setdefault(normalised(piece), piece)
    for name in placeholders(keywords):
        del keywords[name]
    if not keywords:
        raise Drop("no_keywords: there were none beside the query's words; list some, with commas between them")
    return list(keywords.values())


def placeholders(names: Iterable[str]) -> list[str]:
    """The names that a word and a number make, where the same word has the first three numbers."""
    numbers: dict[str, dict[str, str]] = {}
    for name in names:
        if match := NUMBERED.fullmatch(name):
            numbers.setdefault(match[1], {})[match[2]] = name
    counted = [of_word for of_word in numbers.values() if any(first <= of_word.keys() for first in FIRST_NUMBERS)]
    return [name for of_word in counted for name in of_word.values()]
