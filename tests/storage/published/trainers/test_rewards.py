"""The reward functions beside rows for RL: they call the verifier that each row names, with its arguments."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tests.storage.published.trainers.samples import RL, exported, lines_of, turn, whole

CALLS: list[tuple[Any, ...]] = []


def verify(name: str, answer: Any, reference: Any = "", **arguments: Any) -> tuple[float | None, str]:
    """A verifier in the place of the project's, which lies above this layer: it remembers what it was asked."""
    CALLS.append((name, answer, reference, arguments))
    return (None, "timed_out") if answer == "?" else (float("4" in str(answer)), "")


def functions(trainer: str, file: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the exported file defines."""
    import synthmill

    CALLS.clear()
    monkeypatch.setattr(synthmill, "verify", verify, raising=False)
    namespace: dict[str, Any] = {}
    exec(whole(exported(trainer, RL).files[file]), namespace)
    return namespace


EXPECTED = ("math", "It is 4.", "4", {"strict": True})


@pytest.mark.parametrize("trainer", ["trl", "trl-grpo"])
def test_trl_gets_columns_and_a_function_of_them(trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verified = functions(trainer, "reward_funcs.py", monkeypatch)["verified"]
    [row] = exported(trainer, RL).tables["t_rl"].rows.frame().to_dicts()
    assert row["prompt"] == [turn("user", "2 + 2?")] and row["pass_rate"] == 0.5
    columns = {name: [value] * 3 for name, value in row.items() if name != "prompt"}
    completions = ["It is 4.", "5", "?"]
    assert verified(completions=completions, prompts=[row["prompt"]] * 3, **columns) == [1.0, 0.0, None]
    assert CALLS[0] == EXPECTED


def test_verl_finds_truth_and_verifier_in_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    compute_score = functions("verl", "reward_func.py", monkeypatch)["compute_score"]
    [row] = exported("verl", RL).tables["t_rl"].rows.frame().to_dicts()
    assert row["data_source"] == "sums" and row["extra_info"]["pass_rate"] == 0.5 and row["ability"] == "math"
    truth = row["reward_model"]["ground_truth"]
    answer = {"data_source": row["data_source"], "ground_truth": truth, "extra_info": row["extra_info"]}
    assert compute_score(solution_str="It is 4.", **answer) == 1.0 and CALLS == [EXPECTED]
    assert compute_score(solution_str="?", **answer) == 0.0


def test_openrlhf_finds_them_in_the_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(tensor=list))  # which takes seconds to load
    reward = functions("openrlhf", "reward_func.py", monkeypatch)["reward_func"]
    [row] = lines_of("openrlhf", RL)
    rewards = reward(["2 + 2?It is 4."], ["2 + 2?"], [row["label"]])["rewards"]
    assert rewards == [1.0] and CALLS == [EXPECTED]
    assert row["datasource"] == "sums"


def test_other_environments_get_prompts_with_their_answers() -> None:
    [row] = lines_of("nemo-rl", RL)
    assert (row["input"], row["output"], row["verifier"]) == ("2 + 2?", "4", "verify:math")
    [row] = lines_of("verifiers", RL)
    assert row["prompt"] == [turn("user", "2 + 2?")] and json.loads(row["verifier_arguments"]) == {"strict": True}
    compile(whole(exported("verifiers", RL).files["taskset.py"]), "taskset.py", "exec")
