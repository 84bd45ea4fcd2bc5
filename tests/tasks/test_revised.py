"""RevisEval: an answer's own revision as its reference, for a judge and for ROUGE-L."""

import numpy as np
import pytest

from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.errors import Drop
from synthmill.tasks.scorers.revised import RevisedScores, revision_of
from synthmill.tasks.scorers.scoring import ScorerSettings
from synthmill.tasks.vectors.token_matching import matching_f1, token_vectors
from tests.tasks.judging_by_hand import CONTEXT, answer_of, drive, pool, through_engine, values_of

LOCK = {
    "stages": {"revised_scores@2": "2cfa2cde3921c6b7"},
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


def test_an_embedder_compares_token_by_token() -> None:
    settings = ScorerSettings.model_validate({"spec": "reviseval", "embedded": True})
    stage = settings.stage(CONTEXT)
    assert isinstance(stage, RevisedScores)
    names = ("reviseval_rouge", "reviseval_embedded", "reviseval")
    assert settings.labels == names and stage.identity({"judge": "j", "reviser": "r"})["embedder"].startswith(
        "all-Mini"
    )
    row, _ = drive(stage, pool(*REVISIONS, ""), reply)
    mute, _ = drive(stage, pool("Sound does.", id="b"), lambda _: Completion(text="?"))
    first, second = stage.to_table([row, mute]).to_pylist()
    assert tuple(score["scorer"] for score in first["scores"]) == names and "revisions" not in first
    same, other, empty = first["scores"][1]["values"]
    assert same == pytest.approx(1) and 0.3 < other < 0.9 and empty == 0
    assert second["scores"][1]["values"] == [None]
    assert RevisedScores().model_dump().keys().isdisjoint({"embedder"})  # stages without one keep their keys


def test_matching_is_greedy_in_both_directions() -> None:
    east, north, between = (np.array(vector) for vector in ((1.0, 0.0), (0.0, 1.0), (0.6, 0.8)))
    # recall: east 1, north 0.8; precision: east 1, between 0.8, east 1
    value = matching_f1(np.stack([east, between, east]), np.stack([east, north]))
    assert value == pytest.approx(2 * (2.8 / 3) * 0.9 / (2.8 / 3 + 0.9))
    assert matching_f1(np.stack([east]), np.stack([-east])) == 0.0
    assert matching_f1(np.zeros((0, 2)), np.stack([east])) is None


def test_long_texts_count_to_their_end() -> None:
    words = " ".join(f"word{n}" for n in range(300))
    long, longer, empty = token_vectors("minilm", [words, f"{words} Photons carry light.", ""])
    assert len(long) > 600 and len(longer) == len(long) + 5 and len(empty) == 0  # photon ##s carry light .


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
