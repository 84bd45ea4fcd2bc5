"""Candidate queries for a turn of a conversation: rewritten, planned and rewritten, expanded with guessed answers.

Source: docs/papers.md#retpo, step A.
"""

import re
from typing import ClassVar

from pydantic import Field

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.endings import ending_of
from synthmill.schemas.errors import Drop
from synthmill.schemas.retpo import Form, Method, Turn, WithCandidates
from synthmill.schemas.texts import one_line
from synthmill.storage.plain_files.turns import unique_queries
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import Recipe, Steps, ask_each

LABEL = re.compile(r"^[\s*#>()\d.-]*\b(Rewrite|Plan|Answer) ?\d+ ?:[*\s]*", re.IGNORECASE | re.MULTILINE)
INLINE = re.compile(r"(?<=\S) (?=Rewrite \d+: )")  # the paper's marker needs no line of its own
QUOTED = re.compile(r"[\"'“`](.*)[\"'”`]")


class Candidates(Recipe[Turn, WithCandidates]):
    """A turn -> its pool of queries: several per method, and the forms that join them.

    One call asks for all queries of a method, so that they differ. A first turn makes no call, unless `first_turns`.

    Drops: no_queries, when no method gave one.
    """

    name: ClassVar = "candidates"
    version: ClassVar = "2"
    roles: ClassVar = ("teacher",)
    prompts: ClassVar = {
        "retpo/rewrite": ("fewest", "most"),
        "retpo/plan": ("fewest", "most"),
        "retpo/expand": ("fewest", "most", "base"),
    }

    methods: tuple[Method, ...] = ("rewrite", "plan", "expand")
    pool: tuple[Form, ...] = ("question", "history", "human_rewrite")
    fewest: int = Field(5, ge=1)
    most: int = Field(10, ge=1)
    attempts: int = Field(3, ge=1)
    human_base: bool = True
    first_turns: bool = False

    def requests_per_row(self) -> int:
        return len(self.methods) * self.attempts

    def steps(self, row: Turn) -> Steps[WithCandidates]:
        methods = self.methods if row.history or row.turn == 0 or self.first_turns else ()
        requests = [self.request(row, method) for method in methods]
        queries_by_method: dict[Method, list[str]] = {}
        thoughts: dict[str, str] = {}

        def parse(place: int, completion: Completion) -> list[str]:
            queries = parse_queries(completion, methods[place], self.base(row))[: self.most]
            if len(queries) > len(queries_by_method.get(methods[place], ())):
                queries_by_method[methods[place]] = queries
                thoughts[methods[place]] = completion.reasoning
            if len(queries) < self.fewest:
                raise Drop(f"no_queries: there were {len(queries)} that could be read; write at least {self.fewest}")
            return queries

        if requests:
            _, faults = yield from ask_each(requests, self.attempts, parse)
            if not queries_by_method:
                raise faults[min(faults)]
        queries_by_source: list[tuple[str, str]] = [
            (method, query) for method in methods for query in queries_by_method.get(method, ())
        ]
        queries_by_source += [(form, form_of(row, form)) for form in self.pool]
        candidates = unique_queries(queries_by_source, thoughts)
        if not candidates:
            raise Drop("no_queries: no method was asked, and nothing joins the pool")
        return WithCandidates(**row.__dict__, candidates=candidates)

    def base(self, row: Turn) -> str:
        """The query that expansions start from, where no model has to write it."""
        return row.human_rewrite or "" if self.human_base else ""

    def request(self, row: Turn, method: Method) -> Request:
        variables = {"base": self.base(row)} if method == "expand" else {}
        messages = load(f"retpo/{method}").render(row=row, fewest=self.fewest, most=self.most, **variables)
        return Request(role="teacher", messages=messages, sampling=self.sampling, optional=True)


def parse_queries(completion: Completion, method: Method, base: str) -> list[str]:
    """The queries of one answer, each one line, each once. Raises Drop for an answer that never came.

    The paper splits at `Rewrite k: `, strips and leaves out what is empty; we also take the marker in bold, in a list
    or in lower case, and of each piece the first line. Of an answer that was cut at max_tokens, or broken off by a
    content filter, the last piece is left out.
    """
    if completion.error:
        raise Drop(completion.error)
    _, *marked = LABEL.split(INLINE.sub("\n", completion.text))
    pieces = [(kind.lower(), bare(text)) for kind, text in zip(marked[::2], marked[1::2], strict=True)]
    if ending_of(completion.finish_reason) != "stop":
        pieces = pieces[:-1]
    rewrites = [text for kind, text in pieces if kind == "rewrite" and text]
    if method == "expand":
        question = base or (rewrites[0] if rewrites else "")
        guesses = [text for kind, text in pieces if kind == "answer" and text]
        rewrites = [f"{question} {guess}" for guess in guesses] if question else []
    return list(dict.fromkeys(rewrites))


def form_of(turn: Turn, form: Form) -> str:
    """A turn as a query, without a model; empty where there is none. The question stands first, then the messages from
    the last to the first: encoders cut the end of long texts.
    """
    if form == "human_rewrite":
        return one_line(turn.human_rewrite or "")
    before = [message.content for message in turn.history if form == "history" or message.role == "user"]
    return one_line(" ".join([turn.question, *(reversed(before) if form != "question" else ())]))


def bare(text: str) -> str:
    """The first line of a piece, without bold marks and the quotes around all of it."""
    line = one_line(text.strip().partition("\n")[0]).strip("*").strip()
    quoted = QUOTED.fullmatch(line)
    return quoted[1].strip() if quoted and quoted[1] else line
