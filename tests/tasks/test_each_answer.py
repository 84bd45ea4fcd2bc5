"""What a pool's answers share stands before them in every judge's prompt, so that a server's prefix cache serves it."""

from typing import Any

import orjson
import pytest

from synthmill.schemas.calls import Completion, Request
from synthmill.tasks.scorers.biggen import InstanceScores
from synthmill.tasks.scorers.flask import FlaskScores
from synthmill.tasks.scorers.helpsteer import AttributeScores
from synthmill.tasks.scorers.self_rewarding import AdditiveScores
from tests.tasks.judging_by_hand import drive, pool

RUBRIC = {"criteria": "?", "score_descriptions": ["1", "2", "3", "4", "5"]}
TEXTS = ("the first answer", "another one")


def reply(request: Request) -> Completion:
    if "criteria" in (request.schema_ or {}).get("properties", {}):
        return Completion(text=orjson.dumps(RUBRIC).decode())
    return Completion(text="[1, 2, 3]")


@pytest.mark.parametrize(
    "judge",
    [AdditiveScores(), AttributeScores(), AttributeScores(calls="each"), FlaskScores(), InstanceScores()],
    ids=lambda judge: judge.name,
)
def test_the_answer_comes_last_and_all_else_is_shared(judge: Any) -> None:
    _, asked = drive(judge.model_copy(update={"attempts": 1, "evaluations": 1}), pool(*TEXTS), reply)
    first, second = ([r for r in asked if r.messages[-1].content.endswith(text)] for text in TEXTS)
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.messages[:-1] == other.messages[:-1]
        shared = [r.messages[-1].content.removesuffix(text) for r, text in zip((one, other), TEXTS, strict=True)]
        assert shared[0] == shared[1] and shared[0].startswith("The instruction:\nWhat carries light?")
