"""The method `steer`: series by hand, by logits with a tiny model, measures, and whole."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from synthmill.schemas.calls import Completion, Message
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.pools import Shots
from synthmill.tasks.generators.guided_series import GuidedSeries, open_guided
from synthmill.tasks.generators.series import PromptSeries, measured
from tests.command import synthmill
from tests.conftest import ChatServer, prompts, write_jsonl
from tests.tiny import make_tiny_model

LOCK = {
    "stages": {
        "guided_series@2": "ea32c208a90e5a68",
        "prompt_series@2": "1ce96b42df246f10",
        "series_measures@1": "daf1c19c070bdf81",
    },
    "prompts": {
        "steer/guided": "2664e80cfea1",
        "steer/series": "71e8cc87ed5d",
    },
}

SHOTS = Shots(id="s", examples=("Sum 3 and 4.", "Name a bird that swims."))


def written(text: str) -> list[Completion]:
    return [Completion(text=f"<begin> {text} </end>")]


def test_each_prompt_is_shown_the_latest_before_it_and_must_be_unlike_all() -> None:
    steps = PromptSeries(length=4, negatives=1, attempts=2).steps(SHOTS)
    [first] = next(steps)
    assert "written already" not in first.messages[-1].content and first.sample == 0
    [second] = steps.send(written("Divide 7 by 2."))
    assert "Nothing like them" in second.messages[-1].content and "- Divide 7 by 2." in second.messages[-1].content
    [third] = steps.send(written("Spell owl backwards."))
    shown = third.messages[-1].content
    assert "- Spell owl" in shown and "- Divide" not in shown and third.sample == 200
    [again] = steps.send(written("Divide 7 by 3."))
    assert "ROUGE-L" in again.messages[-1].content  # refused, though it was not shown
    [fourth] = steps.send(written("Divide 7 by 2."))
    assert "Spell owl" in fourth.messages[-1].content
    with pytest.raises(StopIteration) as done:
        steps.send(written("Which river is longest?"))
    assert done.value.value.prompt == ("Divide 7 by 2.", "Spell owl backwards.", "Which river is longest?")


def test_a_series_without_any_prompt_says_why() -> None:
    steps = PromptSeries(length=1, attempts=1).steps(SHOTS)
    next(steps)
    with pytest.raises(Drop, match="shot_given_back"):
        steps.send(written("Sum 3 and 4."))


def test_measures_by_hand() -> None:
    unit = np.eye(3, dtype=np.float32)
    series = np.stack([unit[0], unit[1], (unit[0] + unit[1]) / np.sqrt(2)])
    rows = measured(series, unit[:1])
    assert [coherence for coherence, _ in rows] == pytest.approx([1, 0, 0.7071], abs=1e-4)
    assert [likeness for _, likeness in rows][:2] == [None, 0.0] and rows[2][1] == pytest.approx(0.7071, abs=1e-4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("tiny")))


def test_logits_are_moved_as_the_formula_says(model: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, UnbatchedClassifierFreeGuidanceLogitsProcessor

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ids, negative = torch.tensor([[5, 6, 7]]), torch.tensor([[9, 9]])
    with torch.inference_mode():
        own, other = (torch.log_softmax(network(each).logits[:, -1], -1) for each in (ids, negative))
        guide = UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, network, negative)
        moved = guide(ids, network(ids).logits[:, -1])
    assert torch.allclose(moved, own + 0.5 * (own - other), atol=1e-5)


def test_a_guided_series_is_a_function_of_its_seed_and_its_guidance(model: str, tmp_path: Path) -> None:
    ask, avoid = [Message(role="user", content="the river")], [Message(role="user", content="seven birds")]
    plain, guided = (open_guided(model, "", (0.0, away), (1.0, 1.0, 12)) for away in (0.0, 8.0))
    assert plain(ask, avoid, 1) == plain(ask, avoid, 1) != plain(ask, avoid, 2)
    assert guided(ask, [], 1) == plain(ask, [], 1) and guided(ask, avoid, 1) != plain(ask, avoid, 1)
    assert plain(ask, avoid, 1).startswith("<begin>")  # however the model would begin
    contrast = open_guided(model, model, (4.0, 0.0), (1.0, 1.0, 12))
    assert contrast(ask, avoid, 1) == plain(ask, avoid, 1)  # the same model twice has no difference to emphasise
    with pytest.raises(InputError, match="holds no model; expected a folder"):
        GuidedSeries(model=str(tmp_path))
    stage = GuidedSeries(model=model, base=model, length=2, max_tokens=8)
    assert f" over {Path(model).name}@" in stage.weights and model not in str(stage.identity({}))
    frame = pl.DataFrame({"id": ["s"], "examples": [["the river carries"]], "number": [0]})
    rows, drops = stage.apply(frame, tmp_path)
    assert len(rows) + len(drops) == 1  # random weights write no marks
    texts = iter(["<begin> Divide 7. </end>", "no marks"])
    series, fault = stage.series(SHOTS, lambda *_: next(texts))
    assert series == ["Divide 7."] and "no task between" in fault


def test_whole_and_with_another_series(tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthmill.tasks.generators.series.embed_whole", lambda _, texts, __: np.ones((len(texts), 1)))
    write_jsonl(tmp_path / "in.jsonl", prompts(4))
    run = ["run", "steer", "--workers", 0, "--set", "source=in.jsonl", "--set", f"engines.teacher={server.spec}"]
    run += ["--set", "dedup.layers=[exact]", "--set", "length=3", "--set", "count=2"]
    out, _ = synthmill(*run, cwd=tmp_path)
    assert "Coherence and diversity" in out and "distinct word pairs" in out
    asked = server.stats()["total"]
    synthmill(*run[:-1], "count=3", cwd=tmp_path)
    assert asked >= 6 and server.stats()["total"] - asked <= 3 * 3 and server.stats()["repeated"] == 0
