"""Judges driven by hand: a pool, replies by request, and completions as an engine hands them on."""

from collections.abc import Callable
from typing import Any

from synthmill.schemas.calls import Completion, Message, Request
from synthmill.schemas.pools import JudgedPool, PolicyAnswer, ScoredPool
from synthmill.schemas.thinking_settings import ThinkingSettings
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.texts.thinking import answer_alone

CONTEXT = ScoringContext("minilm")


def pool(*texts: str, **fields: Any) -> ScoredPool:
    answers = tuple(
        PolicyAnswer(answer_index=n, text=text, finish_reason="stop", completion_tokens=1)
        for n, text in enumerate(texts)
    )
    return ScoredPool(**{"id": "a", "prompt": "What carries light?", "answers": answers, **fields})


def drive(stage: Any, row: Any, reply: Callable[[Request], Completion]) -> tuple[Any, list[Request]]:
    """(what a recipe makes when `reply` answers every request, all requests in their order)."""
    steps, asked = stage.steps(row), list[Request]()
    requests = next(steps)
    while True:
        asked += requests
        try:
            requests = steps.send([reply(request) for request in requests])
        except StopIteration as end:
            return end.value, asked


def answer_of(request: Request) -> str:
    """The answer that a judge is asked about: the last line of its first try."""
    return str(request.messages[-1].content).split("\n\n(An earlier reply")[0].rpartition("\n")[2]


def through_engine(text: str) -> Completion:
    """A completion as a recipe sees it: thinking is apart from the answer."""
    request = Request(role="judge", messages=(Message(role="user", content="?"),))
    return answer_alone(request, Completion(text=text, finish_reason="stop"), ThinkingSettings())


def values_of(row: JudgedPool) -> dict[str, tuple[float | None, ...]]:
    return {score.scorer: score.values for score in row.scores}
