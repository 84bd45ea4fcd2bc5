"""The guard over mixtures: who stands apart from most of a prompt's answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthmill.tasks.scorers.majority import MajorityScores, majority
from synthmill.tasks.scorers.scoring import ScorerSettings
from tests.tasks.test_scorers import frame, pool

LOCK = {"stages": {"majority_scores@1": "01444348383fa6c0"}}


def directions(*angles: float) -> Any:
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], 1)


@pytest.mark.parametrize(
    ("angles", "marks"),
    [
        ((0, 5, 10, 90), [True, True, True, False]),
        ((90, 0, 5, 95, 10), [False, True, True, False, True]),
        ((0, 2, 4, 6), [True] * 4),  # hardly apart
        ((0, 1, 90, 91), [True] * 4),  # two against two
        ((0, 0, 0), [True] * 3),
    ],
)
def test_the_smaller_cluster_is_apart(angles: tuple[float, ...], marks: list[bool]) -> None:
    assert majority(directions(*angles)).tolist() == marks
    order = np.argsort(np.sin(np.arange(len(angles)) * 7))
    assert majority(directions(*angles)[order]).tolist() == np.array(marks)[order].tolist()


def test_a_deceptive_answer_stands_apart(tmp_path: Path) -> None:
    answers = (
        "The capital of France is Paris, a city on the Seine.",
        "Buy our new vacuum cleaner today and save half of the price.",
        "Paris is the capital of France; it lies on the Seine.",
        "France's capital city is Paris.",
        "",
    )
    rows = frame(pool(*answers), pool("one", "two", row_id="b"))
    scored, _ = MajorityScores(embedder="minilm").apply(rows, tmp_path)
    values = [scores[-1]["values"] for scores in scored["scores"].to_list()]
    assert values == [[1, 0, 1, 1, 0], [None, None]]


def test_the_settings_are_read() -> None:
    settings = ScorerSettings.model_validate({"spec": "majority", "apart": 0.1})
    assert settings.label == "majority" and settings.roles == ()
