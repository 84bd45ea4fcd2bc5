"""WRPO's pairs and quadruples, WPO's weights, iLR-DPO's margins, MORE's weights: known answers."""

import math
import re
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.pools import PolicyAnswer, Score, ScoredPool
from synthmill.schemas.rows import TableRow, to_arrow
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.trainers.trl import TRAINER as TRL
from synthmill.storage.published.uses import rows_for
from synthmill.tasks.cuts.cut import CutSettings
from synthmill.tasks.cuts.pool_pairs import PoolPairs
from synthmill.tasks.generators.pair_weights import MAKES, WpoWeights
from synthmill.tasks.tables import pair_columns
from synthmill.tasks.tables.pair_columns import LengthMargin, MoreWeights, more_weights, shortest_mixture
from synthmill.tasks.tables.quadruples import Quadruples
from synthmill.tasks.tables.shaping import Map
from tests.command import ROOT, synthmill
from tests.conftest import ChatServer, write_jsonl
from tests.tasks.test_tables import run

PAGE = ROOT / "docs" / "comparing-cuts.md"
POLICIES = ("me", "big", "me", "wide", "me")
TEXTS = ("mine", "big's", "my best", "wide's", "my worst")


def pool(name: str, values: tuple[float | None, ...], policies: tuple[str, ...] = POLICIES) -> ScoredPool:
    answers = tuple(
        PolicyAnswer(answer_index=n, text=text, finish_reason="stop", completion_tokens=1, policy=policy)
        for n, (text, policy) in enumerate(zip(TEXTS, policies, strict=True))
    )
    score = Score(scorer="rm", settings="{}", values=values)
    return ScoredPool(id=name, parent_id="", prompt=f"What is {name}?", answers=answers, scores=(score,))


POOLS = to_arrow(
    ScoredPool,
    [
        pool("q", (2, 4, 3, 5, 1)),
        pool("worse-sources", (2, 0, 3, 0, 1)),
        pool("equal", (2, 4, 2, 5, 2)),
        pool("alone", (1, 2, 3, 4, 5), ("me",) * 5),
        pool("unscored", (2, None, 3, None, 1)),
    ],
)


def test_wrpo_pairs_the_best_source_and_the_best_of_ones_own_with_its_worst() -> None:
    rule = CutSettings.model_validate({"spec": "wrpo", "own": "me"})
    pairs, dropped = PoolPairs(reward="rm", cuts=(rule,)).apply(pl.DataFrame(POOLS), None)  # type: ignore[arg-type]
    made = [(row["parent_id"], row["pair"], row["chosen"], row["rejected"]) for row in pairs.to_dicts()]
    assert made == [
        ("q", 0, "wide's", "my worst"),
        ("q", 1, "my best", "my worst"),
        ("worse-sources", 1, "my best", "my worst"),
        ("equal", 0, "wide's", "mine"),
    ]
    assert {row.id: row.reason for row in dropped} == {"alone": "one_policy", "unscored": "one_policy"}


def test_quadruples_need_both_pairs() -> None:
    table, dropped = run(Quadruples(reward="rm", own="me"), POOLS)
    [row] = table.to_pylist()
    assert [row[name] for name in ("prompt", "chosen_source", "chosen", "rejected", "source_policy")] == [
        "What is q?",
        "wide's",
        "my best",
        "my worst",
        "wide",
    ]
    assert (row["source_reward"], row["chosen_reward"], row["rejected_reward"], row["parent_id"]) == (5, 3, 1, "q")
    assert {reason for reason, _ in dropped.values()} == {"no_quadruple"} and len(dropped) == 4


def test_quadruples_in_the_form_of_the_released_trainer() -> None:
    """What github.com/SLIT-AI/WRPO's scripts/run_wrpo.py reads; docs/comparing-cuts.md shows the step."""
    [written] = re.findall(r"  trainer:\n(    stage: map.*?)```", PAGE.read_text(), re.S)
    step = yaml.safe_load(written)
    assert step.pop("stage") == "map"
    table, _ = run(Map.model_validate(step), run(Quadruples(reward="rm", own="me"), POOLS)[0])
    [row] = table.to_pylist()
    assert row["prompt"] == {"role": "user", "content": "What is q?"}
    answers = [{"role": "assistant", "content": text} for text in ("wide's", "my best", "my worst")]
    assert row["chosen"] == answers[:2] and row["rejected"] == answers[2:]


def test_wrpo_on_a_plain_file(tmp_path: Any) -> None:
    wide = {"prompt": "What?", "answers": list(TEXTS), "rewards": [2, 4, 3, 5, 1], "policies": list(POLICIES)}
    write_jsonl(tmp_path / "pools.jsonl", [wide])
    synthmill("pairs", "pools.jsonl", "--rule", "wrpo", "--own", "me", "--out", "pairs.jsonl", cwd=tmp_path)
    assert pl.read_ndjson(tmp_path / "pairs.jsonl")["chosen"].to_list() == ["wide's", "my best"]


def scored(*logprobs: float) -> Completion:
    return Completion(text="", logprobs=[["t", logprob, {}] for logprob in logprobs])


def test_wpo_weighs_a_pair_by_both_answers_mean_token_probabilities() -> None:
    stage = WpoWeights()
    row = TableRow(id="a", values={"prompt": "p", "system": "s", "chosen": "yes", "rejected": "no"})
    steps = stage.steps(row)
    asks = next(steps)
    assert [(ask.scored, [m.role for m in ask.messages]) for ask in asks] == [
        ("yes", ["system", "user"]),
        ("no", ["system", "user"]),
    ]
    with pytest.raises(StopIteration) as done:
        steps.send([scored(math.log(0.5), math.log(0.5)), scored(math.log(0.1), math.log(0.4))])
    values = done.value.value.values
    assert values["wpo_weight"] == pytest.approx(0.5 * math.sqrt(0.1 * 0.4))
    assert tuple(values) == MAKES and stage.to_table([done.value.value]).column_names == ["id", "parent_id", *MAKES]
    for completion, reason in ((Completion(text=""), "no_logprobs"), (scored(-9999.0), "bad_logprob")):
        steps = stage.steps(row)
        next(steps)
        with pytest.raises(Drop, match=reason):
            steps.send([scored(-1.0), completion])
    with pytest.raises(Drop, match="not_text: chosen"):
        next(stage.steps(row.model_copy(update={"values": {**row.values, "chosen": None}})))
    [read], _ = stage.read(pl.DataFrame({"id": ["a"], "prompt": ["p"], "chosen": ["c"], "rejected": ["r"]}).to_arrow())
    assert read.values == {"prompt": "p", "chosen": "c", "rejected": "r"}


def test_length_margins() -> None:
    pairs = pl.DataFrame({"id": ["a", "b"], "chosen": ["one two, three", ""], "rejected": ["one", "x y"]})
    rows = run(LengthMargin(alpha=0.5), pairs.to_arrow())[0].to_pylist()
    assert [(row["length_gap"], row["loss_margin"]) for row in rows] == [(3, -1.5), (-2, 1.0)]
    rows = run(LengthMargin(alpha=1, length="characters"), pairs.with_columns(margin=2.0).to_arrow())[0].to_pylist()
    assert [(row["length_gap"], row["penalised_margin"]) for row in rows] == [(11, -9.0), (-3, 5.0)]
    with pytest.raises(InputError, match="chosen holds List"):
        run(LengthMargin(), pairs.with_columns(chosen=pl.lit([["a"]]).first()).to_arrow())


def test_reward_models_get_the_margin_that_their_loss_subtracts() -> None:
    chats = {side: [[{"role": "assistant", "content": side}]] for side in ("prompt", "chosen", "rejected")}
    rows = pl.DataFrame({"id": ["a"], **chats, "loss_margin": [-1.5], "note": ["x"]})
    [use] = rows_for("reward", "preferences", RowStream.of(rows)).batches()
    assert use.columns == ["id", "prompt", "chosen", "rejected", "loss_margin"]
    assert TRL.forms["reward"].make(use)["margin"].to_list() == [-1.5]
    [use] = rows_for("pairs", "preferences", RowStream.of(rows)).batches()
    assert "loss_margin" not in use.columns


def test_the_shortest_mixture_of_vectors() -> None:
    def of(*vectors: Any) -> list[float]:
        matrix = np.array(vectors, np.float64)
        return [round(share, 3) for share in shortest_mixture(matrix @ matrix.T).tolist()]

    assert of([1, 0], [0, 1]) == [0.5, 0.5]
    assert of([2, 0], [0, 1]) == [0.2, 0.8]  # the shortest point between them
    assert of([1, 1], [3, 3]) == [1.0, 0.0]  # one is shorter than any mixture
    assert of([1.0, 0.0], [-1.0, 0.0], [5.0, 5.0]) == pytest.approx([0.5, 0.5, 0.0], abs=0.02)
    assert of([0, 0], [0, 0]) == [0.5, 0.5]


def test_more_weighs_the_preference_down_that_is_easily_learned() -> None:
    draw = np.random.default_rng(0)
    shared, easy = np.eye(6)[0], np.eye(6)[1]
    plain, loud = (draw.normal(0, 0.1, (50, 6)) + shared * 0.5 for _ in range(2))
    loud += easy * 2.0
    weights = more_weights([plain, loud], 100, 1.0, 0.9)
    assert weights.sum() == pytest.approx(1) and weights[0] > 0.6
    even = more_weights([plain, plain], 100, 1.0, 0.9)
    assert even.tolist() == pytest.approx([0.5, 0.5], abs=0.01)


def test_every_pair_has_its_preferences_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    vectors = {text: draw.normal(size=4) for text in ("a", "b", "c", "d", "e", "")}
    monkeypatch.setattr(pair_columns, "embed_whole", lambda _, texts, __: np.array([vectors[text] for text in texts]))
    pairs = pl.DataFrame(
        {"id": ["1", "2", "3"], "chosen": ["a", "b", "c"], "rejected": ["d", "e", None], "kind": ["x", "y", "x"]}
    )
    rows = pl.DataFrame(run(MoreWeights(by="kind"), pairs.to_arrow())[0])
    weights = rows["more_weight"].to_list()
    assert weights[0] == weights[2] and weights[0] + weights[1] == pytest.approx(2)
    assert run(MoreWeights(by="kind"), pairs[:0].to_arrow())[0].num_rows == 0
    alone = pl.DataFrame(run(MoreWeights(by="kind"), pairs.with_columns(kind=None).to_arrow())[0])
    assert alone["more_weight"].to_list() == pytest.approx([1.0] * 3)


PIPELINE = """
source: pairs.jsonl
engines: {student: %s}
steps:
  weights: {stage: wpo_weights}
  margins: {stage: length_margin, alpha: 0.1}
  mixed: {stage: mixture, by: kind, shares: {x: 1, y: 1}}
publish: {default: {from: mixed}}
"""


def test_pairs_are_weighed_in_a_pipeline_and_asked_once(tmp_path: Any, server: ChatServer) -> None:
    pairs = [
        {"id": f"p{n}", "prompt": f"Question {n}?", "chosen": f"yes {n}", "rejected": "no", "kind": "xy"[n % 2]}
        for n in range(4)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", [*pairs, {**pairs[0], "id": "empty", "chosen": " "}])
    (tmp_path / "weigh.yaml").write_text(PIPELINE % server.spec)
    synthmill("run", "weigh.yaml", "--no-prefect", cwd=tmp_path)
    [path] = (tmp_path / "store").glob("datasets/*/**/*.parquet")
    rows = pl.read_parquet(path)
    assert rows.height == 4 and rows["wpo_weight"].is_between(0, 1).all() and {*MAKES} <= {*rows.columns}
    assert rows["length_gap"].to_list() == [1] * 4 and rows["loss_margin"].to_list() == [-0.1] * 4
    asked = server.stats()["total"]
    write_jsonl(tmp_path / "pairs.jsonl", [*pairs, {**pairs[0], "id": "new", "prompt": "Another?"}])
    synthmill("run", "weigh.yaml", "--no-prefect", cwd=tmp_path)
    assert 0 < server.stats()["total"] - asked <= 4
