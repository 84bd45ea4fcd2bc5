"""CLUE: traces by their hidden states, with a model of two layers and random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthmill.schemas.errors import InputError
from synthmill.schemas.pools import PolicyAnswer, Score, ScoredPool
from synthmill.tasks.scorers.clue import ClueScores, ClueSettings, nearness
from synthmill.tasks.scorers.scoring import ScorerSettings
from tests.tasks.judging_by_hand import CONTEXT, pool
from tests.tasks.test_scorers import frame
from tests.tiny import make_tiny_model

LOCK = {"stages": {"clue_scores@1": "0507e9803108e517"}, "prompts": {}}
RIGHT, WRONG = "seven birds draw circles", "the river carries light"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("clue") / "tiny")


def labelled(name: str, texts: tuple[str, ...], *labels: float | None) -> ScoredPool:
    right = Score(scorer="right", settings="{}", values=labels)
    return pool(*texts, id=name, prompt=f"{name}?", scores=(right,))


def scores_of(stage: ClueScores, *rows: ScoredPool) -> list[list[float | None]]:
    made, dropped = stage.apply(frame(*rows), Path())
    assert not dropped
    return [scores[-1]["values"] for scores in made["scores"].to_list()]


def test_a_delta_is_what_transformers_says(model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, whole = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).float()
    row = pool(RIGHT, system="Be brief.", prompt="what?").model_dump()
    ends = "<|im_end|>\n"
    text = f"<|im_start|>system\nBe brief.{ends}<|im_start|>user\nwhat?{ends}<|im_start|>assistant\n{RIGHT}"
    tokens, length = tokenizer.encode(text), len(tokenizer.encode(RIGHT))
    states = whole(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    expected = np.stack([(layer[0, -1] - layer[0, -1 - length]).detach().numpy() for layer in states])
    stage = ClueScores(model=str(model), by="right")
    assert stage.delta(row, row["answers"][0]) == pytest.approx(expected, abs=1e-4)
    last = ClueScores(model=str(model), by="right", layer=-1, read="mean").delta(row, row["answers"][0])
    mean = states[-1][0, -length:].mean(0) - states[-1][0, -1 - length]
    assert last == pytest.approx(mean.detach().numpy()[None], abs=1e-4)


def test_traces_lie_near_those_that_are_like_them_and_no_prompt_judges_itself(model: Path) -> None:
    rows = [labelled(str(n), (f"{n} {RIGHT}", f"{n} {WRONG}"), 1.0, 0.0) for n in range(4)]
    new = labelled("new", (RIGHT, WRONG, "", WRONG * 100), None, None, None, None)
    stage = ClueSettings(model=str(model), by="right", folds=4, max_length=128).stage(CONTEXT)
    scores = scores_of(stage, *rows, new)
    assert all(right > 0 > wrong for right, wrong in scores[:4])  # type: ignore[operator]
    assert scores[4][0] > 0 > scores[4][1] and scores[4][2:] == [None, None]  # type: ignore[operator]
    turned = labelled("0", (f"0 {RIGHT}", f"0 {WRONG}"), 0.0, 1.0)
    again = scores_of(stage, turned, *rows[1:], new)
    assert again[0] == scores[0] and again[1] != scores[1] and again[4] != scores[4]


def test_thinking_is_the_trace(model: Path) -> None:
    row = pool("42").model_dump()
    thought = PolicyAnswer(answer_index=0, text="42", finish_reason="stop", completion_tokens=1, reasoning=RIGHT)
    stage: Any = ClueScores(model=str(model), by="right")
    assert (stage.delta(row, thought.model_dump()) == stage.delta(row, pool(RIGHT).model_dump()["answers"][0])).all()


def test_what_cannot_be_learned(model: Path) -> None:
    stage = ClueSettings(model=str(model), by="right").stage(CONTEXT)
    with pytest.raises(InputError, match="clue learns from right and wrong answers; right has not both"):
        stage.apply(frame(labelled("a", (RIGHT,), 1.0), labelled("b", (RIGHT,), None)), Path())
    one_each = (labelled("a", (RIGHT,), 1.0), labelled("b", (WRONG,), 0.0))
    assert scores_of(stage, *one_each) == [[None], [None]]  # each lacks what only the other could teach
    with pytest.raises(InputError, match="no layer 7; expected 0 to 2"):
        stage.model_copy(update={"layer": 7}).apply(frame(*one_each), Path())
    with pytest.raises(InputError, match="/nowhere"):
        ClueSettings(model="/nowhere", by="right").stage(CONTEXT)
    assert nearness(np.zeros((1, 2)), np.array([[3.0, 4.0]]), np.array([[0.0, 1.0]])) == 4


def test_the_key_covers_the_weights_and_not_their_place(model: Path) -> None:
    settings = ScorerSettings.model_validate({"spec": "clue", "model": str(model), "by": "right"})
    stage = settings.stage(CONTEXT)
    assert isinstance(stage, ClueScores) and settings.reads == ("right",)
    assert str(model) not in stage.model_dump_json() and stage.identity_of_model.startswith("tiny@")
