"""Verdicts on pools: scores with reasons, rules for pairs, pass rates, rows for SFT and for RL."""

import itertools
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synthmill.flows.cli import cli
from synthmill.flows.methods.preferences.settings import PreferencesSettings
from synthmill.schemas.errors import InputError
from synthmill.schemas.pools import PolicyAnswer, Score, ScoredPool
from synthmill.schemas.rows import arrow_schema
from synthmill.tasks.cuts.cut import REASONS, CutSettings, cut
from synthmill.tasks.scorers.scoring import ScorerSettings, ScoringContext
from synthmill.tasks.scorers.verified import VerifierScores
from synthmill.tasks.tables.pass_rates import PassRateBand, PassRates, pass_at_k
from synthmill.tasks.tables.rejection import Rejection, most_different
from synthmill.tasks.tables.rl_rows import RlRows

NOWHERE = Path("/nowhere")
SCHEMA = pl.DataFrame(arrow_schema(ScoredPool).empty_table()).schema


def pool(name: str, texts: list[str], values: list[float | None] | None = None, reference: str = "") -> ScoredPool:
    answers = tuple(
        PolicyAnswer(answer_index=n, text=text, finish_reason="stop", completion_tokens=1)
        for n, text in enumerate(texts)
    )
    scores = () if values is None else (Score(scorer="right", settings="{}", values=tuple(values)),)
    return ScoredPool(id=name, prompt=f"{name}?", reference=reference, source="file", answers=answers, scores=scores)


def frame(*pools: ScoredPool, **columns: Any) -> pl.DataFrame:
    rows = pl.DataFrame([row.model_dump() for row in pools], schema=SCHEMA)
    return rows.with_columns(pl.Series(name, values) for name, values in columns.items())


POOLS = (
    pool("sum", ["It is 2.", "3", "<think>2</think>", "$\\frac{1}{$"], reference="2"),
    pool("rain", ["a, b", "ab"]),
    pool("code", ["x = 1"], reference="assert x == 1"),
    pool("none", ["x"]),
    pool("bad", ["x"]),
)
VERIFIERS = {
    "verifier": ["math", "verify:constraints", "code", None, "math"],
    "verifier_arguments": ["", '{"constraints": ["no_commas"]}', "{}", None, '{"decimals": -1}'],
}


def test_rows_choose_their_verifiers() -> None:
    rows = frame(*POOLS, **VERIFIERS)
    scored, dropped = VerifierScores(label="right", verifier="by-row").apply(rows, NOWHERE)
    values = [list(row["scores"][0]["values"]) for row in scored.to_dicts()]
    assert dropped == [] and values == [[1.0, 0.0, 0.0, None], [0.0, 1.0], [None], [None], [None]]
    reasons = [[(reason or "").partition(":")[0] for reason in row] for row in scored["right_missing"].to_list()]
    assert reasons == [["", "", "", "unparsed"], ["", ""], ["not_allowed"], ["no_verifier"], ["bad_verifier"]]
    assert scored.columns == [*rows.columns, "right_missing"]
    allowed, _ = VerifierScores(label="right", verifier="by-row", run_code=True).apply(rows[2:3], NOWHERE)
    assert list(allowed["scores"][0][0]["values"]) == [1.0]
    with pytest.raises(InputError, match="reads the column verifier"):
        VerifierScores(verifier="by-row").apply(frame(*POOLS), NOWHERE)


def test_a_row_cannot_allow_code() -> None:
    row = {"verifier": ["code"], "verifier_arguments": ['{"run_code": true}']}
    scored, _ = VerifierScores(label="right", verifier="by-row").apply(frame(POOLS[2], **row), NOWHERE)
    assert scored["right_missing"][0][0].startswith("bad_verifier")


def test_a_verifier_is_a_scorer() -> None:
    settings = ScorerSettings.model_validate({"spec": "verify:exact", "arguments": {"ignore": ["case"]}})
    stage = settings.stage(ScoringContext("minilm"))
    assert settings.label == "verify_exact" and isinstance(stage, VerifierScores)
    assert ScorerSettings.model_validate_json(settings.model_dump_json()) == settings
    assert list(
        stage.apply(frame(pool("a", ["PARIS", "Lyon"], reference="Paris")), NOWHERE)[0]["scores"][0][0]["values"]
    ) == [1, 0]
    for spec, fault in (
        ("verify:nothing", "no verifier is called 'nothing'; expected choice, .*, by-row"),
        ({"spec": "verify:by-row", "arguments": {"a": 1}}, "arguments mean nothing to by-row"),
        ("verifier", "no scorer is called 'verifier' .*; expected .*verify:math"),
    ):
        with pytest.raises(ValidationError, match=fault):
            ScorerSettings.model_validate(spec)
    with pytest.raises(InputError, match="decimals"):
        ScorerSettings.model_validate({"spec": "verify:math", "arguments": {"decimals": -1}}).stage(ScoringContext(""))
    with pytest.raises(ValidationError, match="by-row reads columns of rows that bring answers"):
        PreferencesSettings.model_validate({"source": "x.jsonl", "scorers": "verify:by-row"})


def test_a_file_is_scored_and_cut(tmp_path: Path) -> None:
    source, scored, pairs = tmp_path / "in.jsonl", tmp_path / "scored.jsonl", tmp_path / "pairs.jsonl"
    rows = [
        {
            "prompt": "1 + 1?",
            "reference": "2",
            "answers": ["2", "It is 3.", "$\\frac{1}{$"],
            "policies": ["s", "w", "w"],
        },
        {"prompt": "1 + 2?", "reference": "3", "answers": ["4", "3"], "policies": ["s", "w"]},
    ]
    options = {"verifier": "math", "verifier_arguments": {"decimals": 3}}
    source.write_text("".join(json.dumps({**row, **options}) + "\n" for row in rows))
    command = ["score", str(source), "--scorer", "verify:by-row", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(cli, [*command, "--name", "right", "--out", str(scored)])
    assert done.exit_code == 0 and "right: 1 of 5 answers have no verdict: 1 unparsed" in done.output
    written = [json.loads(line) for line in scored.read_text().splitlines()]
    assert [row["right"] for row in written] == [[1.0, 0.0, None], [0.0, 1.0]]
    assert written[1]["right_missing"] == [None, None] and written[0]["right_missing"][:2] == [None, None]
    assert written[0]["right_missing"][2].startswith("unparsed")

    def pairs_by(*options: str) -> list[dict[str, Any]]:
        done = CliRunner().invoke(cli, ["pairs", str(scored), "--out", str(pairs), *options])
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in pairs.read_text().splitlines()]

    for rule in ("pass-over-fail", "band"):
        made = pairs_by("--rule", rule, "--matched")
        assert [(row["chosen"], row["rejected"], row["pass_rate"]) for row in made] == [
            ("2", "It is 3.", 0.5),
            ("3", "4", 0.5),
        ]
    made = pairs_by("--rule", "by-policy", "--strong", "s", "--weak", "w")
    assert [(row["chosen"], row["rejected"], row["margin"]) for row in made] == [("2", "It is 3.", 1), ("4", "3", -1)]
    source.write_text(json.dumps({**rows[0], "verifier": "math", "answers": ["$\\frac{1}{$"] * 2}) + "\n")
    done = CliRunner().invoke(cli, [*command, "--out", str(scored)])
    assert done.exit_code == 1 and "2 of 2 answers have no verdict: 2 unparsed" in str(done.exception)


def test_the_flow_verifies_answers_that_rows_bring(tmp_path: Path) -> None:
    import synthmill

    answers = {"answers": ["It is 4.", "5 it is", "$\\frac{1}{$"], "policies": ["s", "w", "s"], "verifier": "math"}
    rows = [{"id": str(n), "prompt": f"What are {n} and {4 - n}?", "reference": "4", **answers} for n in range(2)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "source": str(tmp_path / "in.jsonl"),
        "store": str(tmp_path / "store"),
        "policies": [],
        "scorers": "verify:by-row",
        "reward": "verify_by_row",
        "cuts": ["band", {"spec": "by-policy", "strong": "s", "weak": "w"}],
        "dedup": {"layers": ["exact"]},
        "workers": 0,
    }
    folder = Path(str(synthmill.run("preferences", settings).dataset))
    tables = {path.name: pl.read_parquet(path / "*.parquet") for path in (folder / "data").iterdir()}
    assert {name: rows.height for name, rows in tables.items()} == dict.fromkeys(
        ("dpo_band", "prompts_band", "dpo_by-policy", "pools"), 2
    )
    assert "verify_by_row: 2 of 6 answers have no verdict: 2 unparsed" in (folder / "report.json").read_text()


def table(rewards: list[list[float | None]], texts: list[list[str]] | None = None, **columns: Any) -> pa.Table:
    texts = texts or [[f"answer {n}" for n in range(len(row))] for row in rewards]
    names = [f"p{n}" for n in range(len(rewards))]
    lists = pa.array(rewards, pa.list_(pa.float64()))
    return pa.table(
        {"prompt_id": names, "answers": pa.array(texts, pa.list_(pa.string())), "rewards": lists, **columns}
    )


VALUES = st.lists(st.sampled_from([0.0, 0.5, 1.0, None]), min_size=1, max_size=8)


@pytest.mark.parametrize(
    "spec", ["pass-over-fail", "band", {"spec": "pass-over-fail", "matched": True, "count": 3}], ids=str
)
@given(st.lists(VALUES, min_size=1, max_size=5))
def test_passes_are_paired_with_fails(spec: Any, rewards: list[list[float | None]]) -> None:
    rule = CutSettings.model_validate(spec)
    made = cut(table(rewards), rule)
    for row in made.pairs.to_pylist():
        own = rewards[int(row["prompt_id"][1:])]
        chosen, rejected = own[row["chosen_index"]], own[row["rejected_index"]]
        assert chosen == 1.0 and rejected is not None and rejected < 1.0
        verified = [value for value in own if value is not None]
        assert row["pass_rate"] == pytest.approx(verified.count(1.0) / len(verified))
        assert spec != "band" or 0.2 <= row["pass_rate"] <= 0.8
    used = [
        (row["prompt_id"], row[f"{side}_index"]) for row in made.pairs.to_pylist() for side in ("chosen", "rejected")
    ]
    assert len(set(used)) == len(used)
    for own, reason in zip(rewards, made.reasons, strict=True):
        verified = [value for value in own if value is not None]
        if len(verified) == len(own) > 1:
            rate = verified.count(1.0) / len(own)
            outside = "outside_band" if spec == "band" and not 0.2 <= rate <= 0.8 else ""
            assert REASONS[reason] == ("no_pass" if rate == 0 else "no_fail" if rate == 1 else outside)


def test_lengths_are_matched_and_draws_are_by_id() -> None:
    texts = [["aaaaaaaa", "bb", "c", "dddddd"]]
    rule = CutSettings.model_validate({"spec": "pass-over-fail", "matched": True, "count": 2})
    made = cut(table([[1, 1, 0, 0]], texts), rule).pairs.to_pylist()
    assert [(row["chosen"], row["rejected"]) for row in made] == [("aaaaaaaa", "dddddd"), ("bb", "c")]
    drawing = CutSettings.model_validate("pass-over-fail")
    one, two = (cut(table([[1.0, 0.0] * 20] * n), drawing).pairs.to_pylist() for n in (1, 2))
    assert one[0] == two[0] and two[0]["chosen_index"] != two[1]["chosen_index"]


def test_the_strong_policy_is_chosen_whatever_the_rewards() -> None:
    rule = CutSettings.model_validate({"spec": "by-policy", "strong": "s", "weak": "w", "count": 2})
    rewards: list[list[float | None]] = [[0, 1, None, 1], [1, 1], [1, 0]]
    policies = pa.array([["w", "s", "s", "w"], ["s", "s"], ["s", "w"]])
    texts = [["a", "b", "c", "d"], ["a", "b"], ["same", "same"]]
    made = cut(table(rewards, texts, policies=policies), rule)
    assert [
        (row["chosen"], row["rejected"], row["chosen_reward"], row["margin"]) for row in made.pairs.to_pylist()
    ] == [
        ("b", "a", 1, 1),
        ("c", "d", None, None),
    ]
    assert [REASONS[reason] for reason in made.reasons] == ["", "one_policy", "same_text"]
    with pytest.raises(InputError, match="needs to know who gave each answer"):
        cut(table(rewards, texts), rule)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_pass(answers: int, data: st.DataObject) -> None:
    passed, k = data.draw(st.integers(0, answers)), data.draw(st.integers(1, 8))
    draws = list(itertools.combinations([n < passed for n in range(answers)], k))
    expected = sum(map(any, draws)) / len(draws) if draws else None
    assert pass_at_k(answers, passed, k) == expected


def test_pass_rates() -> None:
    assert pass_at_k(200, 1, 100) == 0.5 and pass_at_k(10, 3, 1) == 0.3
    rows = frame(*(pool(str(n), ["a"] * len(values), values) for n, values in enumerate(VALUES_OF)), topic=["t"] * 4)
    rated, _ = PassRates(score="right", k=(1, 3)).apply(rows, NOWHERE)
    assert rated.select("passed", "verified", "pass_rate", "pass_at_1", "pass_at_3").rows() == [
        (2, 4, 0.5, 0.5, 1.0),
        (3, 3, 1.0, 1.0, 1.0),
        (0, 2, 0.0, 0.0, None),
        (0, 0, None, None, None),
    ]
    kept, dropped = PassRateBand(score="right").apply(rows, NOWHERE)
    assert kept.select("id", "topic", "pass_rate").rows() == [("0", "t", 0.5)]
    assert {row.id: row.reason for row in dropped} == {"1": "too_easy", "2": "too_hard", "3": "not_verified"}
    with pytest.raises(ValidationError, match="expected a band"):
        PassRateBand(score="right", lowest=0.9, highest=0.1)


VALUES_OF: tuple[list[float | None], ...] = ([1, 0, 1, 0], [1, 1, 1], [0, None, 0.5], [None])


def test_rejection_sampling() -> None:
    texts = ["x y z", "x y z", "p q r s", "x y", "fails"]
    rows = frame(pool("a", texts, [1, 1, 1, 1, 0]), pool("b", ["n"], [0]), pool("c", ["m"], [None]), topic=["t"] * 3)

    def kept(**settings: Any) -> list[str]:
        made, dropped = Rejection(score="right", **settings).apply(rows, NOWHERE)
        assert {row.id: row.reason for row in dropped} == {"b": "no_pass", "c": "not_verified"}
        assert set(made["parent_id"]) == {"a"} and made["id"].n_unique() == made.height and set(made["topic"]) == {"t"}
        return made["completion"].to_list()

    assert kept() == ["x y z", "p q r s", "x y"]
    assert kept(keep="shortest", count=2) == ["x y", "x y z"]
    assert kept(keep="different", count=2) == ["x y z", "p q r s"]
    assert most_different([], 3) == [] and most_different(["a", "b"], 5) == [0, 1]


def test_rows_for_rl() -> None:
    rows = frame(
        *(pool(str(n), ["a"] * len(values), values, "5") for n, values in enumerate(VALUES_OF)), topic=["t"] * 4
    )
    made, dropped = RlRows(verifier="math", arguments={"decimals": 3}, score="right").apply(rows, NOWHERE)
    assert dropped == [] and made["pass_rate"].to_list() == [0.5, 1.0, 0.0, None]
    assert {"answers", "scores", "reference"}.isdisjoint(made.columns) and made["topic"][0] == "t"
    own = ("prompt", "answer", "verifier", "verifier_arguments", "data_source")
    assert made.select(own).row(0) == ("0?", "5", "math", '{"decimals":3}', "file")
    prompts = pl.DataFrame({"id": ["a", "b"], "prompt": ["A", "B"], "verifier": ["verify:exact", "nothing"]})
    made, dropped = RlRows(data_source="mine").apply(prompts, NOWHERE)
    assert made.row(0) == ("a", "A", "", "exact", "{}", "mine", None)
    assert [(row.id, row.reason) for row in dropped] == [("b", "bad_verifier")]
    with pytest.raises(ValidationError, match="no verifier is called"):
        RlRows(verifier="nothing")
    with pytest.raises(InputError, match="name a `verifier`"):
        RlRows().apply(prompts.drop("verifier"), NOWHERE)
