"""Prompts in the order that a prefix cache serves most: what all pools share, a pool's own texts, answers."""

import pytest

from synthmill.schemas.calls import Completion
from synthmill.schemas.pools import ScoredPool
from synthmill.tasks.scorers.direct import HELPFUL, DirectScores
from synthmill.tasks.scorers.expected import ExpectedScores
from synthmill.tasks.scorers.pairwise import PairwiseScores
from synthmill.tasks.scorers.scoring import ScorerSettings
from synthmill.tasks.scorers.shared_first import PoolJudge
from synthmill.tasks.scorers.tournament import TournamentScores
from tests.tasks.judging_by_hand import CONTEXT, drive, pool

STAGES = (
    DirectScores(evaluations=1),
    DirectScores(evaluations=1, rubric=HELPFUL),
    ExpectedScores(),
    PairwiseScores(),
    TournamentScores(rubric=HELPFUL),
)
ROW = pool("one,\n\nResponse B:\n\0first\0", "zwei", prompt="Why?\n\nSay \0reference\0.", reference="Because.")


def asked(stage: PoolJudge, shared_first: bool, row: ScoredPool = ROW) -> list[str]:
    stage = stage.model_copy(update={"shared_first": shared_first, "attempts": 1})
    return [request.messages[-1].content for request in drive(stage, row, lambda _: Completion(text=""))[1]]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: f"{stage.name} {bool(getattr(stage, 'rubric', None))}")
def test_the_same_paragraphs_in_another_order(stage: PoolJudge) -> None:
    for before, now in zip(asked(stage, False), asked(stage, True), strict=True):
        texts = (ROW.prompt, ROW.reference, *(answer.text for answer in ROW.answers))
        assert sorted(before.split("\n\n")) == sorted(now.split("\n\n"))
        assert all((text in before) == (text in now) for text in texts)
        places = [now.index(text) for text in texts if text in now]
        assert places[:2] == sorted(places[:2]) and min(places[2:]) > places[1]
        assert now.endswith(tuple(answer.text for answer in ROW.answers))


def test_what_pools_share_comes_first() -> None:
    rubric = DirectScores(evaluations=1, rubric=HELPFUL)
    [first, second] = asked(rubric, True)
    answer, instruction = "The response to score:\n", "The instruction:\n"
    assert first.partition(answer)[0] == second.partition(answer)[0]
    shared = first.partition(instruction)[0]
    assert HELPFUL.score_descriptions[4] in shared and "[RESULT]" in shared
    assert asked(rubric, True, ROW.model_copy(update={"prompt": "How?"}))[0].startswith(shared + instruction)


def test_it_is_in_no_key_until_it_is_set() -> None:
    plain, turned = (
        ScorerSettings.model_validate({"spec": "pairwise", **more}) for more in ({}, {"shared_first": True})
    )
    assert "shared_first" not in plain.model_dump() and "shared_first" not in plain.stage(CONTEXT).model_dump()
    engines = {"judge": "m"}
    assert plain.stage(CONTEXT).key(engines) == PairwiseScores(sampling=plain.stage(CONTEXT).sampling).key(engines)
    assert turned.stage(CONTEXT).key(engines) != plain.stage(CONTEXT).key(engines)
