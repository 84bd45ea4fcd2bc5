"""Thinking on its way: more room at the next try, kept beside answers, in no verdict, sent back only on demand."""

import math
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from synthmill.schemas.calls import Completion, Message, Request, Sampling
from synthmill.schemas.endings import CUT_WHILE_THINKING
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import PolicyAnswer, ScoredPool
from synthmill.schemas.rows import Answer, Instruction, Pair, Pool, TableRow, arrow_schema, read_rows, to_arrow
from synthmill.schemas.settings import EngineSettings, SourceSettings
from synthmill.storage.artifacts import Store, read_artifact
from synthmill.storage.plain_files.pools import PoolFile
from synthmill.tasks.asking.ask import Ask
from synthmill.tasks.cuts.max_min_pairs import MaxMinPairs
from synthmill.tasks.cuts.pool_pairs import PoolPairs
from synthmill.tasks.cuts.rules.max_min import MaxMin
from synthmill.tasks.generators.answers import Answers
from synthmill.tasks.generators.dialogues.role_swap import RoleSwap
from synthmill.tasks.generators.multifaceted.system_messages import parse_response
from synthmill.tasks.generators.pool_source import ingest_pools
from synthmill.tasks.recipe import ask_until, read_json, retry_request
from synthmill.tasks.running import worker as workers
from synthmill.tasks.running.carrying import carry
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.stages import ingest, run_stage
from synthmill.tasks.scorers.expected import ExpectedScores, ExpectedSettings, expected_digit
from synthmill.tasks.scorers.labels import chances_of
from synthmill.tasks.scorers.pairwise import PairwiseSettings
from synthmill.tasks.scorers.scoring import ScoringContext
from tests.conftest import Echo, prompts, write_jsonl
from tests.tasks.stages import in_process
from tests.tasks.test_genpi import application, opening, play, scripted

CUT = Completion(text="", reasoning="hm", finish_reason=CUT_WHILE_THINKING)
REQUEST = Request(role="teacher", messages=(Message(role="user", content="Why?"),), sampling=Sampling(max_tokens=1500))


def answer(n: int, text: str, reasoning: str | None = None) -> Answer:
    return Answer(answer_index=n, text=text, finish_reason="stop", completion_tokens=3, reasoning=reasoning)


def test_an_answer_that_ended_in_its_thinking_is_asked_again_with_more_room() -> None:
    asked: list[Request] = []
    steps = ask_until(REQUEST, 5, lambda completion: read_json(completion, "bad_json"))
    replies = [CUT, CUT, Completion(text="no JSON"), Completion(text='{"a": 1}')]
    request = next(steps)
    with pytest.raises(StopIteration) as done:
        for reply in replies:
            asked += request
            request = steps.send([reply])
    assert done.value.value == {"a": 1}
    assert [each.sampling.max_tokens for each in asked] == [1500, 3000, 6000, 1500]
    assert [each.sample for each in asked] == [0, 1, 2, 3]
    assert asked[0].question_json() == REQUEST.question_json() and asked[1].messages == REQUEST.messages
    assert "it was no JSON object" in asked[3].messages[-1].content
    small = REQUEST.model_copy(update={"sampling": Sampling(max_tokens=4)})
    assert retry_request(small, 1, None, CUT).sampling.max_tokens == 1024
    assert retry_request(small, 99, None, CUT).sampling.max_tokens == 32_768
    large = REQUEST.model_copy(update={"sampling": Sampling(max_tokens=50_000)})
    assert retry_request(large, 1, None, CUT).sampling.max_tokens == 50_000


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (CUT, "cut_while_thinking"),
        (Completion(text="", refusal="No."), "refused_in_words"),
        (Completion(text="", tool_calls=[{}], finish_reason="tool_calls"), "tool_call"),
        (Completion(text="", finish_reason="content_filter"), "filtered"),
        (Completion(text=""), "bad_json"),
    ],
)
def test_what_remains_says_why_there_was_no_answer(completion: Completion, reason: str) -> None:
    steps = ask_until(REQUEST, 2, lambda reply: read_json(reply, "bad_json"))
    next(steps)
    steps.send([completion])
    with pytest.raises(Drop) as dropped:
        steps.send([completion])
    assert dropped.value.reason == reason
    steps_of = Answers(count=2, min_answers=1).steps(Instruction(id="a", prompt="Why?"))
    next(steps_of)
    with pytest.raises(Drop) as dropped:
        steps_of.send([completion, completion])
    assert dropped.value.reason == ("too_few_answers" if reason == "bad_json" else reason)
    with pytest.raises(Drop) as dropped:
        parse_response(0, completion)
    assert dropped.value.reason == ("empty_response" if reason == "bad_json" else reason)


def test_a_table_has_thinking_where_an_answer_has() -> None:
    plain = Pool(id="a", prompt="Why?", answers=(answer(0, "x"), answer(1, "y")))
    thought = Pool(id="b", prompt="Why?", answers=(answer(0, "x"), answer(1, "y", "hm")))
    assert "reasoning" not in plain.model_dump()["answers"][0]
    assert to_arrow(Pool, [plain]).schema == arrow_schema(Pool)
    table = to_arrow(Pool, [plain, thought])
    assert table.schema == arrow_schema(Pool, True)
    assert table["answers"].to_pylist()[1][1]["reasoning"] == "hm"
    rows, dropped = read_rows(Pool, table)
    assert rows == [plain, thought] and not dropped
    assert arrow_schema(Pair).names == arrow_schema(Pair, True).names[:-2]


def thinking_engine(settings: EngineSettings) -> Any:
    """Thinks about one of the prompts only."""

    def reply(request: Request, sample: int) -> Completion:
        thought = "<think>hm</think>" if "question 3:" in request.messages[-1].content else ""
        return Completion(text=f"{thought}answer {sample}")

    return Echo(reply, name=f"openai:{settings.model}")


def made(store: Store, folder: Path, stage: Any, thinking: str = "keep") -> pa.Table:
    source = ingest(store, SourceSettings(path=str(write_jsonl(folder / "in.jsonl", prompts(6)))), 2, "run")
    spec = {"spec": "openai:model@http://127.0.0.1:9/v1", "thinking": thinking}
    planned = Planned(stage, dict.fromkeys(stage.needs_roles(), EngineSettings.model_validate(spec)), source.key)
    with in_process(store) as pool:
        return read_artifact(store, run_stage(store, planned, source, pool, "run"))


def test_all_parts_of_an_artifact_have_the_same_columns(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "make_engine", thinking_engine)
    table = made(store, tmp_path, Answers(count=2))
    thoughts = [[each["reasoning"] for each in answers] for answers in table["answers"].to_pylist()]
    assert thoughts == [[None, None]] * 3 + [["hm", "hm"]] + [[None, None]] * 2
    dropped = made(store, tmp_path, Answers(count=2), "drop")
    assert dropped.drop_columns(["calls"]).schema == arrow_schema(Pool)
    column = made(store, tmp_path, Ask(prompt="{{ prompt }}", column="told"))
    assert column["told_reasoning"].to_pylist() == [None, None, None, "hm", None, None]
    assert column["told"].to_pylist() == ["answer 0"] * 6


def test_asked_columns_come_with_their_thinking_and_take_it_along() -> None:
    stage = Ask(prompts={"a": {"prompt": "{{ x }}"}, "b": {"prompt": "{{ a }}!"}}, samples=2, keep=("b",))
    steps = stage.steps(TableRow(id="r", values={"x": "hi"}))
    next(steps)
    [*second] = steps.send([Completion(text="one"), Completion(text="two", reasoning="not kept")])
    assert [each.messages[-1].content for each in second] == ["one!", "two!"]
    with pytest.raises(StopIteration) as done:
        steps.send([Completion(text="three"), Completion(text="four", reasoning="hm")])
    table = stage.to_table([done.value.value])
    assert table.column_names == ["id", "parent_id", "b", "b_reasoning"]
    assert table["b_reasoning"].to_pylist() == [[None, "hm"]]
    later = pa.table({"id": ["r"], "parent_id": [""], "c": ["new"]})
    assert carry(table, later, ["b"]).column_names == ["id", "parent_id", "c", "b", "b_reasoning"]
    assert carry(table, later, []).column_names == ["id", "parent_id", "c"]


def test_pairs_have_the_thinking_of_both_sides(tmp_path: Path) -> None:
    pool = Pool(id="a", prompt="Why?", answers=(answer(0, "best", "hm"), answer(2, "worst")))
    frame = pl.DataFrame(to_arrow(Pool, [pool])).with_columns(rewards=pl.Series([[1.0, 0.0]]))
    pairs, _ = MaxMinPairs().apply(frame, tmp_path)
    [pair] = pairs.to_dicts()
    assert (pair["chosen_reasoning"], pair["rejected_reasoning"]) == ("hm", None)
    [row], _ = read_rows(Pair, pairs.to_arrow(compat_level=pl.CompatLevel.oldest()))
    assert row.chosen_reasoning == "hm" and row.rejected_index == 2
    scores = [{"scorer": "r", "settings": "{}", "values": [1.0, 0.0]}]
    scored = ScoredPool(
        id="a",
        prompt="Why?",
        answers=tuple(PolicyAnswer(**each.__dict__) for each in pool.answers),
        scores=tuple(scores),  # type: ignore[arg-type]
    )
    pairs, _ = PoolPairs(cuts=(MaxMin(),), reward="r").apply(pl.DataFrame(to_arrow(ScoredPool, [scored])), tmp_path)
    assert pairs.select("chosen_reasoning", "rejected_reasoning").row(0) == ("hm", None)


@pytest.mark.parametrize("wide", [True, False])
def test_files_of_pools_bring_thinking(store: Store, tmp_path: Path, wide: bool) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "a", "answers": ["x", "y"], "rewards": [1, 0], "reasoning": ["hm", None]}]
    rows += [{"prompt": "b", "answers": ["x", "y"], "rewards": [1, 0], "reasoning": "of the row"}]
    if not wide:
        rows = [
            {"prompt": row["prompt"], "answer": row["answers"][n], "reward": 1 - n, "reasoning": thought}
            for row, thoughts in zip(rows, (["hm", None], [None, None]), strict=True)
            for n, thought in enumerate(thoughts)
        ]
    path = write_jsonl(tmp_path / "pools.jsonl", rows)
    pools = read_artifact(store, ingest_pools(store, PoolFile(str(path)), 1, "run"))
    thoughts = [[each["reasoning"] for each in answers] for answers in pools["answers"].to_pylist()]
    assert thoughts == [["hm", None], [None, None]]


def logprobs(*tokens: tuple[str, float]) -> list[Any]:
    (first, chance), *others = tokens
    return [[first, math.log(chance), {token: math.log(chance) for token, chance in others}]]


def test_a_verdict_needs_content_its_own_logprobs_and_a_share_of_the_mass() -> None:
    sure = Completion(text="7", logprobs=logprobs(("7", 0.6), ("8", 0.2), ("x", 0.2)))
    assert expected_digit(sure) == pytest.approx((7 * 0.6 + 8 * 0.2) / 0.8)
    hardly = Completion(text="The answer", logprobs=logprobs(("The", 0.9), ("7", 0.03), ("8", 0.01)))
    assert expected_digit(hardly) is None and expected_digit(hardly, 0.04) == pytest.approx((7 * 3 + 8) / 4)
    thought = Completion(text="7", logprobs=logprobs(("Okay", 0.5), ("3", 0.4)))
    assert expected_digit(thought) is None
    assert chances_of(Completion(text="", logprobs=logprobs(("A", 0.9))), "AB") == {}
    as_json = [['{"choice":', -0.1, {}], [' "', -0.1, {}], ["A", math.log(0.9), {"B": math.log(0.1)}], ['"}', 0, {}]]
    assert chances_of(Completion(text="A", logprobs=as_json), "AB", 0.05) == pytest.approx({"A": 0.9, "B": 0.1})


def test_the_share_of_the_mass_is_in_no_key_by_default() -> None:
    context = ScoringContext("minilm")
    for kind in (ExpectedSettings, PairwiseSettings):
        usual, other = kind().stage(context), kind(least_mass=0.2).stage(context)
        assert "least_mass" not in usual.model_dump() and other.model_dump()["least_mass"] == 0.2
        assert usual.identity({"judge": "m"}) != other.identity({"judge": "m"})
    stage = ExpectedSettings().stage(context)
    assert isinstance(stage, ExpectedScores)
    pool = ScoredPool(
        id="a", prompt="Why?", answers=(PolicyAnswer(answer_index=0, text="x", finish_reason="", completion_tokens=0),)
    )
    steps = stage.steps(pool)
    next(steps)
    with pytest.raises(StopIteration) as done:
        steps.send([CUT])
    assert done.value.value.scores[0].values == (None,)
    assert done.value.value.first_unread.startswith("cut_while_thinking")


def test_a_dialogue_sends_no_thinking_back_unless_asked_to() -> None:
    def replies() -> Any:
        acts = [Completion(text=f"act {n}", reasoning=f"thought {n}") for n in range(3)]
        return scripted(teacher=[CUT, *acts], environment=["one", "two", "three"])

    for sends in (False, True):
        asked: list[Request] = []
        talk = play(RoleSwap(max_turns=2, sends_thinking=sends), opening(application()), replies(), asked)
        assert [turn.reasoning for turn in talk.turns] == ["thought 0", None, "thought 1"]
        agent = [request for request in asked if request.role == "teacher"]
        sent = "<think>\nthought 0\n</think>\n\nact 0" if sends else "act 0"
        assert agent[2].messages[-2].content == sent
        assert [request.sampling.max_tokens for request in agent[:2]] == [2048, 4096]  # the first ended in its thinking
        environment = [request for request in asked if request.role == "environment"]
        assert all("thought" not in message.content for request in environment for message in request.messages)
    assert "sends_thinking" not in RoleSwap().model_dump()
    with pytest.raises(Drop, match="cut_while_thinking"):
        play(RoleSwap(max_turns=2), opening(application()), scripted(teacher=[CUT], environment=["one"]))
