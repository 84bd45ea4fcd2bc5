"""Judges whose prompts may stand in the order in which a server's prefix cache serves most: answers at the very end."""

import re
from operator import not_
from typing import Annotated, Any

from pydantic import Field

from synthmill.schemas.calls import Message, Request
from synthmill.schemas.pools import ScoredPool
from synthmill.tasks.prompts import load
from synthmill.tasks.scorers.judges import Judge, JudgeSettings

OF_POOL = ("system", "prompt", "reference")
MARK = re.compile("\x00([a-z]+)\x00")
SharedFirst = Annotated[
    bool,
    Field(
        exclude_if=not_,
        description="what all pools share first, then the pool's own texts, answers last: a prefix cache serves more",
    ),
]


class PoolJudge(Judge):
    """A judge by the prompts of `pools/`. shared_first: another order, which asks anew; default: as it is written."""

    shared_first: SharedFirst = False

    def request(self, row: ScoredPool, **variables: Any) -> Request:
        if not self.shared_first:
            return super().request(row, **variables)
        messages = shared_first(self.prompt(), row, **variables)
        return Request(role=self.role, messages=messages, sampling=self.sampling, optional=True)


class PoolJudgeSettings(JudgeSettings):
    """The settings that such judges share."""

    shared_first: SharedFirst = False

    def shared_fields(self, context: Any) -> dict[str, Any]:
        return {**super().shared_fields(context), "shared_first": self.shared_first}


def shared_first(prompt: str, row: ScoredPool, **variables: Any) -> tuple[Message, ...]:
    """A prompt's messages with the paragraphs of the last one in three groups: those that are the same for all pools,
    those that show a text of the pool, those that show an answer. Texts are put in after the paragraphs are ordered.

    variables: the template's own; those that are texts are answers.
    """
    answers = {name: text for name, text in variables.items() if isinstance(text, str)}
    of_pool = {name: text for name in OF_POOL if (text := getattr(row, name))}
    marked = row.model_copy(update={name: f"\0{name}\0" for name in of_pool})
    *before, last = load(prompt).render(row=marked, **variables | {name: f"\0{name}\0" for name in answers})

    def group(paragraph: str) -> int:
        return max((2 if name in answers else 1 for name in MARK.findall(paragraph)), default=0)

    ordered = "\n\n".join(sorted(re.split(r"\n{2,}", last.content), key=group))
    content = MARK.sub(lambda mark: {**of_pool, **answers}[mark[1]], ordered)
    return (*before, last.model_copy(update={"content": content}))
