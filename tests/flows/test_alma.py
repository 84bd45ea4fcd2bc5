"""The method `alma`: one unused prompt of each cluster that a round draws, and whole, with three checkpoints."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from synthmill.flows.methods.alma import AlmaSettings, best_answers
from synthmill.tasks.generators.cluster_draws import nearest, rounds_of
from tests.command import synthmill
from tests.conftest import ChatServer, write_jsonl


def test_near_vectors_share_a_cluster() -> None:
    draw = np.random.default_rng(3)
    centres = np.eye(8, dtype=np.float32)[:4]
    vectors = np.repeat(centres, 10, axis=0) + draw.normal(0, 0.02, (40, 8)).astype(np.float32)
    clusters = nearest(vectors, 4, seed=0).reshape(4, 10)
    assert all(len(set(of_centre)) == 1 for of_centre in clusters.tolist()) and len(set(clusters[:, 0])) == 4
    assert (nearest(vectors, 4, seed=0) == clusters.ravel()).all() and not len(nearest(vectors[:0], 0, seed=0))


def test_a_round_takes_one_unused_prompt_of_each_cluster_it_draws() -> None:
    ids, clusters = [f"p{n}" for n in range(20)], np.arange(20) % 4
    rounds = rounds_of(ids, clusters, 3, 2, 0)
    for number in (1, 2):
        drawn = clusters[rounds == number]
        assert len(drawn) == 3 == len(set(drawn))
    assert (rounds_of(ids, clusters, 3, 1, 0) == 1).tolist() == (rounds == 1).tolist()
    assert rounds_of(ids, clusters, 3, 1, 1).tolist() != (rounds == 1).tolist()
    all_used = rounds_of(ids, clusters, 4, 9, 0)
    assert Counter(all_used.tolist()) == {1: 4, 2: 4, 3: 4, 4: 4, 5: 4}  # then nothing is left to draw


def test_the_best_answers_say_how_their_prompts_were_drawn() -> None:
    pairs = pl.DataFrame(
        {
            "id": ["x"],
            "parent_id": ["p"],
            "prompt": ["Why?"],
            "source": ["alma"],
            "chosen": ["So."],
            "chosen_reward": [7.5],
        }
    ).with_columns(chosen_policy=pl.lit("late"), chosen_reasoning=pl.lit("Hm."))
    how = pl.DataFrame({"prompt": ["Why?"], "cluster": [3], "round": [1]})
    [row] = best_answers(pairs, how).to_dicts()
    assert row["messages"][-1] == {"role": "assistant", "content": "So.", "reasoning_content": "Hm."}
    assert (row["policy"], row["cluster"], row["round"], row["reward"]) == ("late", 3, 1, 7.5)


def test_settings_that_make_no_run_are_refused() -> None:
    for wrong, fault in (({"policies": []}, "no policies"), ({"fewest_shots": 6}, "fewest_shots is above")):
        with pytest.raises(ValueError, match=fault):
            AlmaSettings.model_validate({"source": "in.jsonl", "scorers": ["expected"], **wrong})


def test_whole(tmp_path: Path, server: ChatServer) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"id": f"s{n}", "prompt": f"Name task {n}."} for n in range(4)])
    names = ("first", "second", "third")
    engines = ", ".join(f"{name}: '{server.spec.replace('local', name)}'" for name in names)
    (tmp_path / "run.yaml").write_text(
        f"source: in.jsonl\nengines: {{teacher: '{server.spec}', {engines}}}\nworkers: 0\ncount: 8\noverlap: 1\n"
        f"clusters: 4\nper_round: 3\npolicies: [{', '.join(names)}]\nanswers: {{count: 2}}\n"
        "dedup: {layers: [exact]}\n"
    )
    run = ("run", "alma", "--config", "run.yaml")
    out, _ = synthmill(*run, cwd=tmp_path)
    asked = server.stats()["total"]
    assert "Prompts that were drawn" in out and asked == 8 + 3 * 3 * 2 * 2  # prompts; answers and their judgements
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    pools = pl.read_parquet(folder / "data" / "pools" / "*.parquet")
    best = pl.read_parquet(folder / "data" / "sft" / "*.parquet")
    assert pools.height == 3 and set(best["round"]) == {1} and best["cluster"].n_unique() == best.height
    assert all(3 <= len(parents) <= 5 for parents in best["parents"].to_list())
    synthmill(*run, "--set", "round=2", cwd=tmp_path)
    assert asked < server.stats()["total"] <= asked + 3 * 3 * 2 * 2  # no prompt is written again
