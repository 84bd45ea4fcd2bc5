"""RetPO's oracle checks: picks, pairs, ranks, measures; and the recipe that asks for candidates."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmill.flows.methods.retpo.rows import pair_rows, pick_rows
from synthmill.schemas.calls import Completion, Message
from synthmill.schemas.errors import Drop
from synthmill.schemas.retpo import Candidate, Gold, Ranking, Turn, WithRankings
from synthmill.schemas.rows import to_arrow
from synthmill.tasks.cuts.max_min_pairs import MaxMinPairs
from synthmill.tasks.retrieval.bm25 import Hits
from synthmill.tasks.retrieval.candidates import Candidates, form_of, parse_queries
from synthmill.tasks.retrieval.comparisons import (
    ParetoPairs,
    QueryPairs,
    QueryPicks,
    QueryPools,
    admissible_pairs,
    agreement,
    pick_best,
    undominated_pairs,
)
from synthmill.tasks.retrieval.metrics import (
    ANY,
    MEASURES,
    as_json,
    disagreement,
    evaluation,
    measures,
    scored_queries,
    totals,
    turn_types,
)
from synthmill.tasks.retrieval.ranks import rank_all, ranks_of, rewards_of

RANKS = st.lists(st.integers(1, 101), min_size=1, max_size=12)
TURN = Turn(
    id="c_2",
    conversation="c",
    turn=2,
    history=(Message(role="user", content="Who wrote Dracula?"), Message(role="assistant", content="Bram Stoker.")),
    question="When was it published?",
    gold=(Gold(passage="p", place=0),),
    human_rewrite="When was Dracula published?",
    answer="In 1897.",
)


def ranked(*rankings: list[int], turn: int = 2, name: str = "c_2") -> WithRankings:
    """A turn with as many candidates as ranks, by one retriever per list."""
    candidates = tuple(Candidate(query=f"query {n}", methods=("rewrite",), number=n) for n in range(len(rankings[0])))
    given = tuple(
        Ranking(
            retriever=f"r{n}",
            ranks=tuple((rank,) for rank in ranks),
            rewards=tuple(0.0 if rank == 101 else 1 / rank for rank in ranks),
            above=tuple(() for _ in ranks),
        )
        for n, ranks in enumerate(rankings)
    )
    fields = {**TURN.__dict__, "id": name, "turn": turn}
    return WithRankings(**fields, candidates=candidates, rankings=given)


def frame(*rows: WithRankings) -> pl.DataFrame:
    return pl.DataFrame(to_arrow(WithRankings, rows))


@pytest.mark.parametrize(
    ("ranks", "picks"),
    [
        ([1, 3, 101, 31, 30], [0, 1, 4]),
        ([1, 3, 101, 31, 30, 2, 7, 9], [0, 5, 1, 6, 7]),
        ([101, 40, 77], [1]),
        ([101, 101], [0]),
        ([5] * 7, [0, 1, 2, 3, 4]),
        ([12], [0]),
    ],
)
def test_picks(ranks: list[int], picks: list[int]) -> None:
    assert pick_best([[rank] for rank in ranks], 5, 30) == picks


def test_ties_go_to_the_query_that_finds_the_other_gold_passages_too() -> None:
    assert pick_best([[1, 101], [2, 1], [1, 101], [3, 1]], 3, 30) == [1, 3, 0]


@pytest.mark.parametrize(
    ("ranks", "pairs"),
    [
        ([1, 3, 101, 31, 30], [(0, 1), (0, 4), (0, 3), (0, 2), (1, 4), (1, 3), (1, 2), (4, 3), (4, 2)]),
        ([101, 40, 77], []),
        ([101, 101], []),
        ([5] * 7, []),
        ([101, 1], [(1, 0)]),
        ([12], []),
    ],
)
def test_admissible_pairs(ranks: list[int], pairs: list[tuple[int, int]]) -> None:
    assert admissible_pairs(ranks, 30) == pairs


@given(RANKS, st.integers(1, 8), st.integers(1, 100))
def test_what_always_holds_of_picks_and_pairs(ranks: list[int], most: int, threshold: int) -> None:
    chosen = pick_best([[rank] for rank in ranks], 5, threshold)
    assert len(chosen) == 1 or all(ranks[place] <= threshold for place in chosen)
    stage = QueryPairs(per_turn=most, threshold=threshold)
    made, dropped = stage.apply(frame(ranked(ranks)), Path())
    assert made.height == min(most, len(admissible_pairs(ranks, threshold)))
    assert (made.height == 0) == (len(dropped) == 1)
    seen = {frozenset(pair) for pair in made.select("chosen", "rejected").iter_rows()}
    assert len(seen) == made.height
    assert (made["chosen_rank"] < made["rejected_rank"]).all()
    assert (made["chosen_rank"] <= threshold).all()
    assert made.equals(stage.apply(frame(ranked(ranks)), Path())[0])


def test_pairs_are_drawn_anew_with_another_seed_and_each_retriever_has_its_own() -> None:
    row = ranked(list(range(1, 11)), list(range(10, 0, -1)))
    made, _ = QueryPairs(seed=1).apply(frame(row), Path())
    other, _ = QueryPairs(seed=2).apply(frame(row), Path())
    assert made.group_by("retriever").len()["len"].to_list() == [8, 8]
    assert not made.select("chosen", "rejected").equals(other.select("chosen", "rejected"))
    assert set(made["agreement"]) == {-1.0}
    picks, _ = QueryPicks().apply(frame(row), Path())
    assert picks.filter(pl.col("retriever") == "r0")["query"].to_list() == [f"query {n}" for n in range(5)]
    assert picks.filter(pl.col("retriever") == "r1")["query"].to_list() == [f"query {n}" for n in range(9, 4, -1)]


def test_turns_that_make_no_rows_are_dropped_with_a_reason() -> None:
    first = ranked([1, 2], turn=1, name="first").model_copy(update={"history": ()})
    rows = [ranked([101, 101], name="lost"), first, ranked([3], turn=0, name="alone")]
    made, dropped = QueryPicks(keep_missed=False).apply(frame(*rows), Path())
    assert {row.id: row.reason for row in dropped} == {"lost": "never_retrieved", "first": "first_turn"}
    assert made["parent_id"].to_list() == ["alone"]
    kept, _ = QueryPicks(first_turns=True).apply(frame(*rows), Path())
    assert kept.select("parent_id", "query", "rank").rows() == [
        ("lost", "query 0", 101),
        ("first", "query 0", 1),
        ("first", "query 1", 2),
        ("alone", "query 0", 3),
    ]


def test_pareto_pairs_and_agreement() -> None:
    assert undominated_pairs([[1, 2, 3], [5, 4, 6]], 30) == [(0, 2), (1, 2)]
    assert undominated_pairs([[1, 2], [31, 40]], 30) == []  # one retriever ranks it too low
    assert undominated_pairs([[4, 4], [2, 2]], 30) == []  # nothing is better
    assert agreement((0, 1), [[1, 2], [7, 7], [9, 8]]) == 0
    assert agreement((0, 1), []) is None
    made, _ = ParetoPairs().apply(frame(ranked([1, 2, 3], [5, 4, 6])), Path())
    assert made["retriever"].unique().to_list() == ["r0+r1"]
    assert sorted(zip(made["chosen_ranks"].to_list(), made["rejected_ranks"].to_list(), strict=True)) == [
        ([1, 5], [3, 6]),
        ([2, 4], [3, 6]),
    ]


def test_the_cuts_over_pools_work_on_queries() -> None:
    pools, dropped = QueryPools().apply(frame(ranked([7, 2, 101])), Path())
    assert not dropped
    [pair] = MaxMinPairs().apply(pools, Path())[0].to_dicts()
    assert (pair["chosen"], pair["rejected"]) == ("query 1", "query 2")
    assert pair["prompt"].startswith("user: Who wrote Dracula?\nassistant: Bram")
    assert (pair["chosen_reward"], pair["rejected_reward"]) == (0.5, 0.0)


def test_ranks_are_counted_not_taken_from_reciprocals() -> None:
    assert [int(1 / (1 / rank)) for rank in (93, 99)] == [92, 98]  # why
    places = np.arange(100, dtype=np.int32)[None].repeat(100, 0)
    assert ranks_of(places, np.arange(100), np.arange(100)).tolist() == list(range(1, 101))
    assert ranks_of(places, np.zeros(3, int), np.array([100, -1, -2])).tolist() == [101, 101, 101]


def test_a_passage_outside_the_corpus_takes_its_rank_and_is_never_gold() -> None:
    hits = Hits(np.array([[-2, 7, -1]], np.int32), np.array([[3, 2, 0]], np.float32))
    [made] = rank_all(hits, [[7, -2]], [1])
    assert made["ranks"] == [[2, 4]]
    assert made["above"] == [[]]


@given(st.lists(st.floats(0.01, 50), min_size=2, max_size=30, unique=True))
def test_rewards_fall_with_the_rank_and_tell_equal_ranks_apart(given: list[float]) -> None:
    scores = np.array([sorted(given, reverse=True)], np.float32)
    ranks = np.arange(1, len(given) + 1)
    places = np.arange(len(given), dtype=np.int32)[None]

    def reward(best: list[int], scores: Any) -> Any:
        hits = Hits(places.repeat(len(best), 0)[:, : scores.shape[1]], scores)
        return rewards_of(np.array(best), hits, np.arange(len(best)), np.array(best))

    rewards = reward(ranks.tolist(), scores.repeat(len(given), 0))
    assert (np.diff(rewards) <= 1e-12).all()
    assert ((rewards >= 1 / (ranks + 1) - 1e-12) & (rewards <= 1 / ranks + 1e-12)).all()
    assert reward([len(given) + 1], scores).tolist() == [0]


def test_rewards_by_hand() -> None:
    places = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, -1, -1], [0, 1, -1]], np.int32)
    scores = np.array([[9, 8, 1], [9, 2, 1], [9, 8, 7], [5, 0, 0], [-1, -2, 0]], np.float32)
    margins = [7 / 8, 1 / 8, 0.5, 1, 1]  # of ranks 2, 2, 1, 1 (alone), 1 (of two, all below zero)
    best = np.array([2, 2, 1, 1, 1])
    found = rewards_of(best, Hits(places, scores), np.arange(5), best)
    assert found == pytest.approx([1 / (rank + 1 - m) for rank, m in zip(best, margins, strict=True)])
    # a second gold passage right below takes nothing away: the lead is over the first that is not gold
    both = rewards_of(np.array([1]), Hits(places[:1], scores[:1]), np.array([0, 0]), np.array([1, 2]))
    assert both == pytest.approx([1 / (2 - 1)])


def test_measures_of_three_queries_by_hand() -> None:
    found = measures([[1], [4], [101]], [[1], [1], [1]], 100)
    assert found["MRR"].mean() == pytest.approx(0.4167, abs=1e-4)
    assert found["R@10"].mean() == pytest.approx(0.667, abs=1e-3)
    assert found["nDCG@3"].mean() == pytest.approx(0.333, abs=1e-3)
    assert [measures([[k]], [[1]], 100)["MRR"][0] for k in (93, 101)] == [1 / 93, 0]


def test_measures_agree_with_trec_eval() -> None:
    import pytrec_eval

    draw = np.random.default_rng(0)
    run: dict[str, dict[str, float]] = {}
    qrels: dict[str, dict[str, int]] = {}
    ranks, grades = [], []
    for query in range(200):
        order = draw.permutation(300)[:100].tolist()
        gold = draw.permutation(300)[: draw.integers(1, 9)].tolist()
        relevance = [int(draw.integers(1, 4)) for _ in gold]
        run[f"q{query}"] = {f"d{place}": 200.0 - n for n, place in enumerate(order)}
        qrels[f"q{query}"] = {f"d{place}": grade for place, grade in zip(gold, relevance, strict=True)}
        ranks.append([order.index(place) + 1 if place in order else 101 for place in gold])
        grades.append(relevance)
    theirs = {
        "MRR": "recip_rank",
        "nDCG@3": "ndcg_cut_3",
        "nDCG@10": "ndcg_cut_10",
        "MAP": "map",
        **{f"R@{cut}": f"recall_{cut}" for cut in (5, 10, 20, 100)},
    }
    wanted = {"recip_rank", "map", "ndcg_cut.3,10", "recall.5,10,20,100"}
    judged = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)
    ours = measures(ranks, grades, 100)
    assert set(theirs) == set(MEASURES) - {"MRR@10"}
    for name, other in theirs.items():
        expected = [judged[f"q{query}"][other] for query in range(200)]
        assert ours[name] == pytest.approx(expected, abs=1e-9), name
    assert ours["MRR@10"].tolist() == [value if value >= 0.1 else 0 for value in ours["MRR"]]


def test_evaluation_by_form_type_and_depth() -> None:
    def turn(name: str, number: int, topic: str, ranks: list[int]) -> WithRankings:
        row = ranked(ranks, list(reversed(ranks)), name=name, turn=number)
        methods = [("rewrite",), ("rewrite", "plan"), ("question",)]
        candidates = tuple(Candidate(query=f"q{n}", methods=methods[n], number=n) for n in range(3))
        return row.model_copy(update={"candidates": candidates, "topic": topic})

    rows = [turn("a_1", 1, "x", [1, 2, 4]), turn("a_2", 2, "x", [4, 1, 2]), turn("a_3", 3, "y", [101, 101, 1])]
    queries = scored_queries(frame(*rows), 100)
    found = {(row["group"], row["retriever"], row["form"], row["choice"]): row for row in evaluation([totals(queries)])}
    assert found["", "r0", "question", "only"]["MRR"] == pytest.approx((1 / 4 + 1 / 2 + 1) / 3)
    assert found["", "r0", "rewrite", "first"]["MRR"] == pytest.approx((1 + 1 / 4 + 0) / 3)
    assert found["", "r0", "rewrite", "best"]["MRR"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["", "r0", ANY, "best"]["MRR"] == 1
    assert ("", "r0", "plan", "only") in found
    assert {row["group"] for row in found.values()} == {
        "", "first", "no switch", "topic switch", "turn 1", "turns 2-3",
    }  # fmt: skip
    assert found["topic switch", "r0", "question", "only"]["queries"] == 1
    [apart] = disagreement(queries)
    assert (apart["pairs"], apart["against"]) == (7, pytest.approx(5 / 7))
    told = as_json([row for row in evaluation([totals(queries)]) if row["retriever"] == "r0"])
    assert told["MRR"] == pytest.approx((1 + 1 / 4 + 0) / 3)  # the first of all queries
    assert told["forms"]["all, best"]["MRR"] == 1


def answers(*texts: Any) -> list[Completion]:
    return [text if isinstance(text, Completion) else Completion(text=text) for text in texts]


def finish(steps: Any, said: list[Completion]) -> Any:
    with pytest.raises(StopIteration) as done:
        steps.send(said)
    return done.value.value


def test_what_lies_below_the_depth_is_not_known() -> None:
    found = measures([[1], [4]], [[1], [1]], 5)
    assert found["R@5"].tolist() == [1, 1]
    assert np.isnan([found[name] for name in ("R@10", "R@100", "MRR@10", "nDCG@10")]).all()
    assert found["MRR"].tolist() == [1, 0.25]


def test_topics_switch_only_after_the_turn_before() -> None:
    turns = [ranked([1], name=f"c_{n}", turn=n).model_copy(update={"topic": topic}) for n, topic in
             ((1, "a"), (2, "a"), (4, "b"), (5, "b"), (6, "c"))]  # fmt: skip
    kinds = turn_types(scored_queries(frame(*turns), 100))["turn_type"].to_list()
    assert kinds == ["first", "no switch", "", "no switch", "topic switch"]


def test_candidates_are_asked_for_by_method_and_each_string_stands_once() -> None:
    steps = Candidates(fewest=2).steps(TURN)
    requests = next(steps)
    assert [TURN.human_rewrite in request.messages[-1].content for request in requests] == [False, False, True]
    assert all("Bram Stoker." in request.messages[-1].content for request in requests)
    said = answers(
        "Rewrite 1: When was Dracula published?\n\nRewrite 2: Year of Dracula's publication",
        "Plan 1: look for the year\nRewrite 1: When did Dracula appear?\nPlan 2: x\nRewrite 2: Dracula first edition",
        "Answer 1: Dracula was published in 1897.\nAnswer 2: It came out in London.",
    )
    row = finish(steps, said)
    assert (row.id, row.gold, row.answer) == (TURN.id, TURN.gold, TURN.answer)
    assert [(one.query, one.methods) for one in row.candidates] == [
        ("When was Dracula published?", ("rewrite", "human_rewrite")),
        ("Year of Dracula's publication", ("rewrite",)),
        ("When did Dracula appear?", ("plan",)),
        ("Dracula first edition", ("plan",)),
        ("When was Dracula published? Dracula was published in 1897.", ("expand",)),
        ("When was Dracula published? It came out in London.", ("expand",)),
        ("When was it published?", ("question",)),
        ("When was it published? Bram Stoker. Who wrote Dracula?", ("history",)),
    ]


def test_what_was_thought_before_queries_goes_to_trainers() -> None:
    steps = Candidates(methods=("rewrite", "plan"), fewest=2, pool=("question",)).steps(TURN)
    next(steps)
    first, second = answers("Rewrite 1: a\nRewrite 2: b", "Plan 1: x\nRewrite 1: b\nPlan 2: y\nRewrite 2: c")
    thought = first._replace(reasoning="Which year?")
    for said, thoughts in (([thought, second], {"a": "Which year?", "b": "Which year?"}), ([first, second], {})):
        if said[0] is first:
            steps = Candidates(methods=("rewrite", "plan"), fewest=2, pool=("question",)).steps(TURN)
            next(steps)
        row = finish(steps, said)
        assert {query.query: query.reasoning for query in row.candidates if query.reasoning} == thoughts
        rankings = ranked([4, 1, 9, 20]).rankings
        turns = frame(WithRankings(**row.__dict__, rankings=rankings))
        picks, pairs = (stage.apply(turns, Path())[0] for stage in (QueryPicks(), QueryPairs()))
        assert ("reasoning" in picks.columns, "chosen_reasoning" in pairs.columns) == (bool(thoughts),) * 2
        completions = pick_rows(picks, "")["completion"].to_list()
        assert [message.get("reasoning_content") for [message] in completions] == [
            thoughts.get(message["content"]) for [message] in completions
        ]
        trained = pair_rows(pairs, "")
        assert "chosen_reasoning" not in trained.columns
        chosen = {message["content"]: message.get("reasoning_content") for [message] in trained["chosen"].to_list()}
        assert chosen == {query: thoughts.get(query) for query in chosen}


def test_a_method_that_fails_is_asked_again_then_left_out_and_the_turn_goes_on() -> None:
    stage = Candidates(methods=("rewrite", "plan"), fewest=2, attempts=2, pool=())
    steps = stage.steps(TURN)
    next(steps)
    [again] = steps.send(answers("Rewrite 1: a\nRewrite 2: b", "I will not."))
    assert "there were 0 that could be read; write at least 2" in again.messages[-1].content
    assert again.sample == 1
    row = finish(steps, answers("Rewrite 1: only one"))
    assert [one.query for one in row.candidates] == ["a", "b", "only one"]  # one is better than none
    steps = stage.steps(TURN)
    next(steps)
    steps.send(answers("no", Completion(text="", error="engine_timeout: slow")))
    with pytest.raises(Drop, match="no_queries"):
        steps.send(answers("no", "no"))


def test_first_turns_are_not_rewritten_and_queries_of_their_own_are() -> None:
    first = TURN.model_copy(update={"turn": 1, "history": ()})
    with pytest.raises(StopIteration) as done:
        next(Candidates().steps(first))
    assert [one.query for one in done.value.value.candidates] == [TURN.question, TURN.human_rewrite]
    assert len(next(Candidates(first_turns=True).steps(first))) == 3
    assert len(next(Candidates().steps(first.model_copy(update={"turn": 0})))) == 3


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Rewrite 1: a\nRewrite 2: b\n", ["a", "b"]),
        ("Sure!\nRewrite 1: a\nLet me know!\nRewrite 2: ", ["a"]),
        ("1. Rewrite 1: a\n2. Rewrite 2: b", ["a", "b"]),
        ("Rewrite 1: cast of Plan 9: from outer space", ["cast of Plan 9: from outer space"]),
        ('Rewrite 1: who wrote "Dracula"', ['who wrote "Dracula"']),
        ("Rewrite 1:\n  a", ["a"]),
        ('**Rewrite 1:** a\n- rewrite 2: **b**\n> Rewrite 3 : "c"', ["a", "b", "c"]),
        ("Rewrite 1: a Rewrite 2: b", ["a", "b"]),  # the paper's marker needs no line break
        ("1. a\n2. b", []),
        ("", []),
        ("Rewrite 1: a\nRewrite 2: a", ["a"]),
        ("Plan 1: p\nRewrite 1: a\nPlan 2: q", ["a"]),
    ],
)
def test_rewrites_are_read_behind_their_marker(text: str, found: list[str]) -> None:
    assert parse_queries(Completion(text=text), "rewrite", "") == found


def test_a_cut_answer_loses_its_last_piece_and_expansions_need_a_question() -> None:
    cut = Completion(text="Rewrite 1: a\nRewrite 2: b and th", finish_reason="length")
    assert parse_queries(cut, "rewrite", "") == ["a"]
    assert parse_queries(cut._replace(finish_reason="content_filter"), "rewrite", "") == ["a"]
    assert parse_queries(Completion(text="Answer 1: x"), "expand", "") == []
    assert parse_queries(Completion(text="Rewrite 1: q?\nAnswer 1: x\nAnswer 2: y"), "expand", "") == ["q? x", "q? y"]
    assert parse_queries(Completion(text="Rewrite 1: q?\nAnswer 1: x"), "expand", "human?") == ["human? x"]


def test_forms_without_a_model() -> None:
    assert form_of(TURN, "user_turns") == "When was it published? Who wrote Dracula?"
    assert form_of(TURN.model_copy(update={"human_rewrite": None}), "human_rewrite") == ""
