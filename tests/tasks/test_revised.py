"""RevisEval: an answer's own revision as its reference, for a judge and for ROUGE-L."""

import pytest

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop
from synthmill.tasks.scorers.revised import RevisedScores, revision_of
from synthmill.tasks.scorers.scoring import ScorerSettings
from tests.tasks.judging_by_hand import CONTEXT, answer_of, drive, pool, through_engine, values_of

LOCK = {
    "stages": {"revised_scores@1": "384632e5f9ccf19d"},
    "prompts": {"revised/revise": "7568c8727ebe", "revised/score": "47a06f977603"},
}
REVISIONS = {"Photons carry light.": "Photons carry light.", "Sound does.": "Photons carry light, not sound."}


def reply(request: Request) -> Completion:
    if request.role == "reviser":
        return Completion(text=f"<revised>\n{REVISIONS[answer_of(request)]}\n</revised>")
    same = REVISIONS[answer_of(request)] == answer_of(request)
    return Completion(text=f"Mended. [RESULT] {5 if same else 2}")


def test_an_answer_is_judged_against_its_own_revision() -> None:
    row, requests = drive(RevisedScores(evaluations=2), pool(*REVISIONS, ""), reply)
    assert [request.role for request in requests] == ["reviser"] * 2 + ["judge"] * 4
    judged = str(requests[4].messages[-1].content)
    assert "The reference:\nPhotons carry light, not sound.\n\nThe response:\nSound does." in judged
    scores = values_of(row)
    assert scores["reviseval"] == (5, 2, 1)
    # of 7 and 3 tokens "Photons carry light , not sound ." and "Sound does ." have "sound ." in common
    assert scores["reviseval_rouge"] == pytest.approx((1, 2 * 2 / (7 + 3), 0))


def test_without_a_revision_there_is_no_score() -> None:
    def mute(request: Request) -> Completion:
        return Completion(text="I would not change it.") if request.role == "reviser" else reply(request)

    row, requests = drive(RevisedScores(attempts=2), pool("Sound does."), mute)
    assert len(requests) == 2 and values_of(row) == {"reviseval_rouge": (None,), "reviseval": (None,)}
    assert (row.judgements, row.unread) == (1, 1)


@pytest.mark.parametrize(
    "text", ["", "none", "<revised></revised>", "<revised>a", "<revised>a</revised><revised>b</revised>"]
)
def test_what_is_no_revision(text: str) -> None:
    with pytest.raises(Drop, match="no_revision"):
        revision_of(through_engine(text))
    assert revision_of(through_engine("<think><revised>x</revised></think><revised> y\nz </revised>")) == "y\nz"


def test_the_settings_name_the_reviser() -> None:
    settings = ScorerSettings.model_validate({"spec": "reviseval", "reviser": "big"})
    assert settings.roles == ("judge", "big") and settings.labels == ("reviseval_rouge", "reviseval")
    assert settings.stage(CONTEXT).needs_roles() == ("judge", "big")  # type: ignore[union-attr]
