"""Scorers: judges driven by hand, R3 in both forms, weights, functions, endpoints, reward models; Self-RIP's steps."""

import http.server
import json
import math
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synthmill.flows.commands.list_settings import settings_of
from synthmill.flows.commands.options_files import score
from synthmill.flows.methods.preferences.settings import PreferencesSettings
from synthmill.schemas.calls import Completion
from synthmill.schemas.errors import Drop, EngineError, EngineRefused, InputError
from synthmill.schemas.pools import PolicyAnswer, Question, Score, ScoredPool, Shots
from synthmill.schemas.rows import arrow_schema
from synthmill.storage.artifacts import Store
from synthmill.tasks import posting, prompts
from synthmill.tasks import scorers as scorers_room
from synthmill.tasks.cuts.agreement import Agreement, rank_correlation
from synthmill.tasks.generators.answers import PoolAnswers
from synthmill.tasks.generators.self_rip import FreshPrompts, NewPrompts, ShotSets, parse_prompt
from synthmill.tasks.scorers.direct import HELPFUL, DirectScores
from synthmill.tasks.scorers.expected import ExpectedScores, ExpectedSettings
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.labels import chances_of, one_token
from synthmill.tasks.scorers.matches import verdict_of
from synthmill.tasks.scorers.pairwise import PairwiseScores
from synthmill.tasks.scorers.python_function import PythonScores
from synthmill.tasks.scorers.r3 import R3Scores, likeness, r3
from synthmill.tasks.scorers.reward_models import RewardModelScores, RewardModelSettings, weights_of
from synthmill.tasks.scorers.scoring import ScorerSettings, ScoringContext
from synthmill.tasks.scorers.scoring_endpoint import HttpScores
from synthmill.tasks.scorers.tournament import TournamentScores
from synthmill.tasks.scorers.weighted import HELPSTEER2, WeightedScores, WeightedSettings
from synthmill.tasks.texts.rouge import UnlikeTexts, find_too_alike, rouge_words
from synthmill.tasks.texts.tokens import token_batches
from tests.tiny import tiny_reward_model

CONTEXT = ScoringContext("minilm")
POOLS = pl.DataFrame(arrow_schema(ScoredPool).empty_table()).schema


def answer(n: int, text: str) -> PolicyAnswer:
    return PolicyAnswer(answer_index=n, text=text, finish_reason="stop", completion_tokens=1)


def pool(*texts: str, row_id: str = "a", **fields: Any) -> ScoredPool:
    given_ = {"prompt": "What carries light?", **fields}
    return ScoredPool(id=row_id, answers=tuple(answer(n, text) for n, text in enumerate(texts)), **given_)


def frame(*rows: ScoredPool) -> pl.DataFrame:
    return pl.DataFrame([row.model_dump() for row in rows], schema=POOLS)


def values(row: ScoredPool) -> list[float | None]:
    return list(row.scores[-1].values)


def drive(stage: Any, row: Any, reply: Any) -> tuple[Any, list[int]]:
    """(what a recipe makes when every request is answered by `reply`, how many it asked in each step)."""
    steps = stage.steps(row)
    asked, counts = next(steps), []
    while True:
        counts.append(len(asked))
        try:
            asked = steps.send([reply(request) for request in asked])
        except StopIteration as end:
            return end.value, counts


def said(text: str = "", logprobs: Any = None, **fields: Any) -> Completion:
    return Completion(text=text, logprobs=logprobs, **fields)


def shown(request: Any) -> str:
    return str(request.messages[-1].content)


def test_a_pool_of_two_policies() -> None:
    stage = PoolAnswers(policies=("small", "large"), count=3, min_answers=2)
    row = Question(id="q", prompt="Why?", system="Be brief.", reference="Because.")
    made, counts = drive(
        stage, row, lambda r: said("" if r.role == "large" and r.sample == 1 else f"{r.role} {r.sample}")
    )
    assert counts == [6]
    assert [(one.answer_index, one.policy, one.text) for one in made.answers] == [
        (0, "small", "small 0"),
        (1, "small", "small 1"),
        (2, "small", "small 2"),
        (3, "large", "large 0"),
        (5, "large", "large 2"),
    ]
    assert made.reference == "Because." and made.scores == () and made.parent_id == "q"
    with pytest.raises(Drop, match="too_few_answers"):
        drive(stage, row, lambda r: said(error="context_overflow: too long", finish_reason="error"))


def test_a_judge_from_0_to_10_is_averaged() -> None:
    stage = DirectScores(label="judge", evaluations=3, attempts=2)
    replies = {
        "good": ["[RESULT] 10", "fine [RESULT] 8/10", "[RESULT] 9"],
        "bad": ["[RESULT] 0", "no idea", "[RESULT] 11"],
    }

    def reply(request: Any) -> Completion:
        text = next(name for name in replies if f"Response:\n{name}\n" in shown(request))
        return said(replies[text][request.sample // 100])

    made, counts = drive(stage, pool("good", "bad", " "), reply)
    assert values(made) == [9.0, 0.0, 0.0]
    assert counts == [6, 2]  # what could not be read is asked once more
    assert made.scores[0].scorer == "judge"
    told = json.loads(made.scores[0].settings)
    assert told["scorer"] == "direct_scores" and told["evaluations"] == 3
    missing, _ = drive(stage, pool("good", "bad"), lambda r: said("?") if "\nbad\n" in shown(r) else said("[RESULT] 7"))
    assert values(missing) == [7.0, None]
    gone, _ = drive(stage, pool("good", "bad"), lambda r: said(error="engine_error: gone", finish_reason="error"))
    assert values(gone) == [None, None]  # the pool stays: another score may count


def test_a_rubric_from_1_to_5() -> None:
    stage = ScorerSettings.model_validate({"spec": "rubric", "evaluations": 2}).stage(CONTEXT)
    assert isinstance(stage, DirectScores) and stage.rubric == HELPFUL

    def reply(request: Any) -> Completion:
        assert HELPFUL.criteria in shown(request) and "A reference answer" in shown(request)
        return said(f"Feedback. [RESULT] {4 if request.sample else 5}")

    made, _ = drive(stage, pool("good", "", reference="Fibre."), reply)
    assert values(made) == [4.5, 1.0]


def test_the_expected_digit() -> None:
    stage = ExpectedSettings().stage(CONTEXT)
    assert isinstance(stage, ExpectedScores)
    assert stage.sampling.temperature == 0 and stage.sampling.logprobs == 20
    alternatives = {"8": math.log(0.5), " 9": math.log(0.2), "9": math.log(0.1), "x": math.log(0.2)}
    made, counts = drive(
        stage,
        pool("one", "two", "three", ""),
        lambda r: (
            said("8", [["8", math.log(0.5), alternatives]])
            if "\none\n" in shown(r)
            else said(" 7.")
            if "\ntwo\n" in shown(r)
            else said("seven")
        ),
    )
    assert counts == [3]
    assert values(made) == [pytest.approx((8 * 0.5 + 9 * 0.3) / 0.8), 7.0, None, 0.0]


def test_chances() -> None:
    assert chances_of(said("**A**"), "AB") == {"A": 1, "B": 0}
    assert chances_of(said("Because"), "AB") == {}
    assert chances_of(said("10"), "0123456789") == {}
    assert chances_of(said("A", error="x"), "AB") == {}
    assert chances_of(said("10", [["1", -0.1, {}], ["0", -0.1, {}]]), "0123456789") == {}
    assert chances_of(said("89", [["89", -0.1, {"x": -3.0}]]), "0123456789") == {}
    talking = [["Your", -0.1, {"7": math.log(0.03), " 5": math.log(0.01), "The": -2.0}], [" answer", -0.1, {}]]
    found = chances_of(said("Your answer", talking), "0123456789")
    assert (found["7"], found["5"]) == pytest.approx((0.75, 0.25))
    late = [["\n", -0.1, {}], [" B", math.log(0.75), {" B": math.log(0.75), "A": math.log(0.25)}]]
    assert chances_of(said(" B", late), "AB") == pytest.approx({"A": 0.25, "B": 0.75})
    assert one_token(0).max_tokens < 10


def first_is_longer(request: Any) -> bool:
    first, second = shown(request).split("Response A:\n")[1].split("\n\nResponse B:\n")
    return len(first) > len(second.split("\n\n")[0])


def test_pairs_in_both_orders() -> None:
    stage = PairwiseScores(label="pairwise")
    made, counts = drive(stage, pool("a", "aaa", "aa"), lambda r: said("A" if first_is_longer(r) else "B"))
    assert counts == [6]
    assert values(made) == [0.0, 1.0, 0.5]
    fooled, _ = drive(stage, pool("a", "aaa", "aa"), lambda r: said("A"))  # always the first: every match is a tie
    assert values(fooled) == [0.5, 0.5, 0.5]
    soft = [["A", math.log(0.9), {"A": math.log(0.9), "B": math.log(0.1)}]]
    leaning, _ = drive(
        stage, pool("a", "b"), lambda r: said("A", soft) if "Response A:\na\n" in shown(r) else said("B")
    )
    assert values(leaning) == pytest.approx([0.95, 0.05])
    equal, counts = drive(stage, pool("same", "same", "other"), lambda r: said("A" if first_is_longer(r) else "B"))
    assert counts == [4] and values(equal) == [0.25, 0.25, 1.0]
    half, _ = drive(stage, pool("a", "aa", "aaa"), lambda r: said("?") if "aaa" in shown(r) else said("A"))
    assert values(half) == [0.5, 0.5, None]
    ring = PairwiseScores(label="p", opponents=2)
    assert len(ring.matches(10)) == 20 and {n for match in ring.matches(10) for n in match} == set(range(10))
    assert len(set(map(frozenset, ring.matches(10)))) == 20
    assert len(ring.matches(5)) == 10 == len(PairwiseScores(label="p").matches(5))


def test_prometheus_in_relative_form() -> None:
    stage = PairwiseScores(label="pairwise", rubric=HELPFUL, attempts=2)

    def reply(request: Any) -> Completion:
        if request.sample == 0 and "Response A:\nlong" in shown(request):
            return said("I like both.")
        return said(f"So: [RESULT] {'A' if first_is_longer(request) else 'B'}")

    made, counts = drive(stage, pool("long one", "short"), reply)
    assert values(made) == [1.0, 0.0] and counts == [2, 1]
    assert verdict_of(said("x [RESULT] (B).")) == 0 and verdict_of(said("[RESULT] **A**")) == 1
    for text in ("A", "[RESULT] C", "[RESULT] A or B", "[RESULT]"):
        with pytest.raises(Drop, match="no_verdict"):
            verdict_of(said(text))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 11])
def test_a_tournament(count: int) -> None:
    """n - 1 matches, each in both orders, in ceil(log2 n) rounds; the best of a total order always wins."""
    texts = ["a" * (1 + 7 * n % count) for n in range(count)] if count > 1 else ["a"]
    texts = [f"{'a' * (n + 1)}" for n in range(count)]
    stage = TournamentScores(label="tournament")
    for row_id in ("a", "b", "c"):
        row = pool(*texts, row_id=row_id)
        if count == 1:
            assert values(stage.with_score(row, [0.0], Judgements())) == [0.0]
            continue
        made, counts = drive(stage, row, lambda r: said("A" if first_is_longer(r) else "B"))
        rounds = values(made)
        assert sum(counts) == 2 * (count - 1) and len(counts) == math.ceil(math.log2(count))
        assert rounds[-1] == max(filter(None, rounds)) == len(counts) and rounds.count(max(filter(None, rounds))) == 1
    if count > 1:
        tied, _ = drive(stage, pool(*texts), lambda r: said("A"))
        assert values(tied)[0] == max(value or 0 for value in values(tied))  # a tie goes to the lower place
        unread, _ = drive(stage, pool(*texts), lambda r: said("?"))
        assert set(values(unread)) == {None}


def test_r3_open_and_constrained(store: Store) -> None:
    assert likeness(0, 3.5) == 0 and likeness(3.5, 3.5) == pytest.approx(5.12)
    texts = ["Light is carried by fibre made of glass.", "I do not know, I do not know, I do not know, I do not know."]
    open_, bound = r3(
        ["What carries light?", "Glass fibre carries light."], [texts, texts], [False, True], "minilm", store.root
    )
    assert open_[0] > open_[1] and bound[0] > bound[1]
    longer = r3(["Glass fibre carries light."], [[texts[0], texts[0] + " " + texts[0]]], [True], "minilm", store.root)[
        0
    ]
    assert longer[1] < longer[0] * 1.05  # the constrained form pays nothing for length
    stage = R3Scores(label="r3", form="constrained")
    rows = frame(pool(*texts, reference="Glass fibre."), pool(*texts, row_id="b"))
    kept, dropped = stage.apply(rows, store.root)
    assert kept["id"].to_list() == ["a", "b"] and not dropped
    assert kept["scores"][1][0]["values"] == [None, None]
    assert kept["scores"][0][0]["scorer"] == "r3"


def test_weights_over_scores(store: Store) -> None:
    names = list(HELPSTEER2)
    scores = tuple(Score(scorer=name, settings="{}", values=(float(n), 1.0, None)) for n, name in enumerate(names))
    stage = WeightedScores(label="helpsteer2", weights=HELPSTEER2)
    kept, _ = stage.apply(frame(pool("x", "y", "z", scores=scores)), store.root)
    found = kept["scores"][0][-1]["values"]
    assert found == [pytest.approx(0 + 0.8 + 2 * 0.45 + 3 * 0.55 - 4 * 0.4), pytest.approx(2.05), None]
    assert ScorerSettings.model_validate("helpsteer2") == WeightedSettings(name="helpsteer2", weights=HELPSTEER2)
    with pytest.raises(InputError, match="needs the scores"):
        stage.apply(frame(pool("x")), store.root)


def test_a_function_of_the_users(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def length(prompt, answers, reference):\n    return [len(a) if a else float('nan') for a in answers]\n"
    )
    stage = PythonScores.of(f"{file}:length", "length")
    kept, _ = stage.apply(frame(pool("abc", "")), store.root)
    assert kept["scores"][0][0]["values"] == [3.0, None]
    before = stage.content
    file.write_text("def length(prompt, answers, reference):\n    return [1 / 0]\n")
    assert PythonScores.of(f"{file}:length", "length").content != before
    file.write_text("def words(prompt, answers, reference):\n    return ['good' for _ in answers]\n")
    with pytest.raises(InputError, match="expected a number per answer"):
        PythonScores.of(f"{file}:words", "x").apply(frame(pool("a", "b")), store.root)
    file.write_text("def other(prompt, answers, reference):\n    return [1]\n")
    for function, fault in ((f"{file}:missing", "cannot load"), (f"{tmp_path / 'no.py'}:f", "cannot load")):
        with pytest.raises(InputError, match=fault):
            PythonScores.of(function, "x")
    with pytest.raises(InputError, match="1 scores for 2 answers"):
        PythonScores.of(f"{file}:other", "x").apply(frame(pool("a", "b")), store.root)


class Handler(http.server.BaseHTTPRequestHandler):
    fails, form, asked = 0, "", 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Handler.asked += 1
        if Handler.fails:
            Handler.fails -= 1
            self.send_error(503)
            return
        scores = [[len(text) for text in one["answers"]] for one in body["pools"]]
        told = Handler.form.encode() or json.dumps({"scores": scores}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(posting, "FIRST_WAIT_S", 0.01)
    Handler.fails, Handler.form, Handler.asked = 0, "", 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/score"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_endpoint(endpoint: str, store: Store) -> None:
    stage = HttpScores(label="mine", url=endpoint)
    rows = frame(*(pool("abc", "a", row_id=f"p{n}") for n in range(20)))
    Handler.fails = 1
    kept, dropped = stage.apply(rows, store.root)
    assert Handler.asked == 3 and not dropped
    assert kept["scores"][0][0]["values"] == [3.0, 1.0]
    assert stage.identity({}) != HttpScores(label="mine", url=f"{endpoint}/other").identity({})
    for form in ("[]", '{"scores": [[1]]}', '{"scores": [["x", 1]]}', "no"):
        Handler.form = form
        with pytest.raises(EngineRefused, match=r"another form|other numbers"):
            stage.apply(frame(pool("abc", "a")), store.root)
    Handler.fails = 99
    with pytest.raises(EngineError, match="cannot be scored"):
        stage.apply(frame(pool("abc", "a")), store.root)


def scored_by(stage: RewardModelScores, row: ScoredPool, store: Store) -> list[float]:
    kept, _ = stage.apply(frame(row), store.root)
    found: list[float] = kept["scores"][0][-1]["values"]
    return found


def test_a_reward_model(tmp_path: Path, store: Store) -> None:
    folder = tiny_reward_model(tmp_path / "one", 1)
    texts = ["the river", "light " * 30, "seven birds draw circles"]
    stage = RewardModelSettings(model=str(folder), max_length=256).stage(CONTEXT)
    together = scored_by(stage, pool(*texts), store)
    alone = [scored_by(stage, pool(text), store)[0] for text in texts]
    assert together == pytest.approx(alone, abs=1e-4) and len(set(together)) == 3  # padding changes nothing
    assert str(folder) not in json.dumps(stage.model_dump()) and stage.identity_of_model.startswith("one@")
    several = tiny_reward_model(tmp_path / "five", 5)
    one = RewardModelSettings(model=str(several), weights={"LABEL_0": 1.0}, max_length=256)
    two = one.model_copy(update={"weights": {"LABEL_0": 2.0, "LABEL_3": 0.0}})
    single, double = (scored_by(given_.stage(CONTEXT), pool(*texts), store) for given_ in (one, two))
    assert double == pytest.approx([2 * value for value in single], abs=1e-5)
    bare = RewardModelSettings(model=str(several), max_length=256).stage(CONTEXT)
    with pytest.raises(InputError, match=r"has 5 outputs .* expected weights"):
        scored_by(bare, pool(*texts), store)
    with pytest.raises(InputError, match="there is no reward model"):
        RewardModelSettings(model="/nowhere").stage(CONTEXT)


def test_weights_of_outputs() -> None:
    assert weights_of(["score"], None, "x") == [1.0]
    with pytest.raises(InputError, match="has no output b"):
        weights_of(["a"], {"b": 1}, "x")


def test_batches_hold_texts_of_similar_length_within_a_budget_of_tokens() -> None:
    lengths = [5, 600, 2, 600, 1]
    assert list(token_batches(lengths, "cpu")) == [[1], [3], [0, 2, 4]]
    assert list(token_batches(lengths, "cpu", alike=True)) == [[1], [3], [0], [2], [4]]
    assert list(token_batches(lengths, "cuda")) == [[1, 3, 0, 2, 4]]
    assert list(token_batches([1] * 3, "cpu", alike=True)) == [[0, 1, 2]] and not [*token_batches([], "cpu")]


def test_scorer_settings() -> None:
    assert ScorerSettings.model_validate("rm:owner/model") == RewardModelSettings(model="owner/model")
    assert ScorerSettings.model_validate("http://127.0.0.1:9/x").kind == "http"
    assert ScorerSettings.model_validate({"spec": "judge", "evaluations": 3, "name": "j"}).label == "j"
    assert ScorerSettings.model_validate("python:mine.py:f").label == "f"
    for given_, fault in (
        ("nothing", "no scorer is called"),
        ({"spec": "r3", "evaluations": 3}, "evaluations means nothing to r3"),
        ({"kind": "reward-model"}, "needs model"),
        ("python:mine.py", "names no function"),
        ("http://user:secret@host/x", "carries a secret"),
        ({"spec": "pairwise", "attempts": 2}, "no effect without a rubric"),
        ({"spec": "rubric", "rubric": {"criteria": "x"}}, "bad_rubric|must have the text"),
    ):
        with pytest.raises(ValidationError, match=fault):
            ScorerSettings.model_validate(given_)


def test_records_of_before_kinds_had_fields_of_their_own_are_read() -> None:
    record = {
        "kind": "judge",
        "name": "",
        "form": "auto",
        "role": "judge",
        "evaluations": 3,
        "attempts": 3,
        "max_tokens": 512,
        "temperature": 1.0,
        "rubric": None,
        "opponents": 0,
        "model": "",
        "revision": None,
        "backend": "transformers",
        "trust_remote_code": False,
        "max_length": 4096,
        "weights": None,
        "function": "",
        "url": "",
        "api_key_env": "",
    }
    settings = ScorerSettings.model_validate(record)
    assert settings == ScorerSettings.model_validate({"spec": "judge", "evaluations": 3})
    assert settings.model_dump(exclude_defaults=True) == {"kind": "judge", "evaluations": 3}
    with pytest.raises(ValidationError, match="form means nothing to judge; it belongs to r3"):
        ScorerSettings.model_validate({**record, "form": "constrained"})


NEW_JUDGE = '''
"""A judge of courtesy."""

from typing import ClassVar, Literal

from synthmill.schemas.calls import Sampling
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Judge, JudgeSettings
from synthmill.tasks.scorers.verdicts import parse_score


class CourtesyScores(Judge):
    name: ClassVar = "courtesy_scores"
    version: ClassVar = "1"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"courtesy": ("answer", "strict")}

    strict: bool = False

    def steps(self, row):
        requests = [self.request(row, answer=answer.text, strict=self.strict) for answer in row.answers]
        judgements = Judgements()
        verdicts = yield from judgements.ask(requests, self.attempts, lambda completion: parse_score(completion.text))
        values = [verdict[1] if verdict else None for verdict in verdicts]
        return self.with_score(row, values, judgements)


class CourtesySettings(JudgeSettings):
    kind: Literal["courtesy"] = "courtesy"
    strict: bool = False

    def stage(self, context):
        sampling = Sampling(seed=context.seed)
        return CourtesyScores(**self.shared_fields(context), strict=self.strict, sampling=sampling)
'''


def test_a_new_judge_is_one_file_and_one_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "courtesy.py").write_text(NEW_JUDGE)
    (tmp_path / "courtesy.jinja").write_text(
        "{% block user %}How polite{% if strict %}, strictly{% endif %}: {{ answer }}{% endblock %}"
    )
    monkeypatch.setattr(scorers_room, "__path__", [*scorers_room.__path__, str(tmp_path)])
    monkeypatch.setattr(prompts, "FOLDER", tmp_path)
    scorers: Any = ["r3", "courtesy", {"spec": "courtesy", "name": "manners", "strict": True}]
    settings = PreferencesSettings.model_validate({"source": "x.jsonl", "scorers": scorers, "reward": "manners"})
    assert [scorer.label for scorer in settings.scorers] == ["r3", "courtesy", "manners"]
    assert settings.judges == ("judge", "judge")
    assert PreferencesSettings.model_validate_json(settings.model_dump_json()) == settings
    stage = settings.scorers[2].stage(CONTEXT)
    texts: list[str] = []

    def reply(request: Any) -> Completion:
        texts.append(shown(request))
        return said("Polite. [RESULT] 4")

    made, _ = drive(stage, pool("Thank you."), reply)
    assert texts == ["How polite, strictly: Thank you."] and values(made) == [4.0]
    assert stage.identity({"judge": "engine"})["prompts"] == {"courtesy": prompts.load("courtesy").hash}
    assert "courtesy" in CliRunner().invoke(score, ["--help"]).output
    meanings = {name: meaning for name, _, meaning in settings_of(PreferencesSettings)}
    assert "courtesy" in meanings["scorers.kind"] and meanings["scorers.strict"] == "courtesy: "
    with pytest.raises(ValidationError, match="strict means nothing to r3; it belongs to courtesy"):
        ScorerSettings.model_validate({"spec": "r3", "strict": True})


def test_how_scorers_agree() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 21]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 2, 3]) == pytest.approx(1)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([1, None, 3], [1, 5, None]) is None
    agreement = Agreement()
    for other in ([1, 2, 3], [3, 2, 1], [1, 1, 1]):
        agreement.add([{"scorer": "a", "values": [1, 2, 3]}, {"scorer": "b", "values": other}])
    [row] = agreement.summary()
    assert row["spearman"] == pytest.approx(0) and (row["pools"], row["without_order"]) == (2, 1)


# Self-RIP


def test_shots_are_dealt_evenly(store: Store) -> None:
    seeds = pl.DataFrame({"id": [f"s{n}" for n in range(10)], "prompt": [f"prompt {n}" for n in range(10)]})
    made, dropped = ShotSets(count=25, shots=8).apply(seeds, store.root)
    assert made.height == 25 and not dropped and made["id"].n_unique() == 25
    assert all(len(examples) == 8 == len(set(examples)) for examples in made["examples"].to_list())
    assert sorted(made["parent_id"].value_counts()["count"].to_list()) == [2] * 5 + [3] * 5
    more, _ = ShotSets(count=30, shots=8).apply(seeds, store.root)
    assert more.head(25).equals(made)  # more prompts later: those of before stay
    few, dropped = ShotSets(count=4, shots=20).apply(seeds, store.root)
    assert few["examples"].list.len().to_list() == [10] * 4 and {row.reason for row in dropped} == {"not_drawn"}


def test_a_new_prompt_is_read_between_its_marks() -> None:
    assert parse_prompt(said("9. <begin> Do this. </end> 10. <begin> And that. </end>")) == "Do this."
    assert parse_prompt(said("9. Do this. </end>")) == "Do this."
    assert parse_prompt(said("<begin> 2.5 kg of flour </end>")) == "2.5 kg of flour"
    assert parse_prompt(said("<begin>1. One\n2. Two</end>")) == "1. One\n2. Two"
    for text in ("Do this.", "<begin> </end>", "<begin> ... </end>", "<begin> cut off"):
        with pytest.raises(Drop, match="no_prompt"):
            parse_prompt(said(text))
    stage = NewPrompts(attempts=2)
    row = Shots(id="x", parent_id="s", examples=tuple(f"task {n}" for n in range(8)))
    made, counts = drive(
        stage, row, lambda r: said("<begin> New task </end>") if "could not be used" in shown(r) else said("?")
    )
    assert made.prompt == "New task" and counts == [1, 1]
    assert "8. <begin> task 7 </end>" in shown(next(stage.steps(row))[0])
    assert "9. <begin> ... </end>" in shown(next(stage.steps(row))[0])


def alike(new: list[str], there: list[str], threshold: float = 0.7) -> list[int]:
    return [int(place) for place in find_too_alike(new, there, threshold)[0]]


def test_rouge_l_at_the_threshold() -> None:
    ten = "a b c d e f g h i j"
    assert alike([ten], [ten]) == [0]
    assert alike(["a b c d e f g x y z"], [ten]) == [0]  # 0.70 exactly is too like
    assert alike(["a b c d e f w x y z"], [ten]) == [-1]
    assert alike(["j i h g f e d c b a"], [ten]) == [-1]  # order counts
    assert alike(["one two three", "one two three", "four"], ["x"]) == [-1, 1, -1]
    assert alike(["日本語の文章です", "日本語の文章でした"], ["全く別のもの"]) == [-1, 1]
    assert alike(["", "!"], ["", "word"]) == [-1, -1]
    assert rouge_words("It's 2 o'clock") == ["it", "s", "2", "o", "clock"]


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=90), min_size=1, max_size=8),
    st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=90), max_size=8),
    st.sampled_from([0.4, 0.7, 0.9, 1.0]),
)
def test_rouge_l_finds_what_comparing_all_finds(new: Any, there: Any, threshold: float) -> None:
    from rapidfuzz.distance import LCSseq

    kept, expected = list(enumerate(there)), []
    for n, text in enumerate(new):
        scores = ((place, 2 * LCSseq.similarity(text, other), len(text) + len(other)) for place, other in kept)
        found = next((place for place, twice, both in scores if both and twice >= threshold * both - 1e-9), -1)
        expected.append(found)
        if found < 0:
            kept.append((len(there) + n, text))
    assert alike([" ".join(text) for text in new], [" ".join(text) for text in there], threshold) == expected


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=9), min_size=1, max_size=12),
    st.lists(st.integers(0, 12), max_size=4),
)
def test_rouge_l_in_rounds_finds_what_one_pass_finds(texts: Any, edges: list[int]) -> None:
    new = [" ".join(text) for text in texts]
    kept, places = UnlikeTexts(0.7), sorted({0, len(new), *(min(edge, len(new)) for edge in edges)})
    rounds = [kept.screen(new[first:last])[0] for first, last in pairwise(places)]
    assert [int(place) for matches in rounds for place in matches] == alike(new, [])


def test_rules_for_new_prompts() -> None:
    stage = FreshPrompts(seeds=("instructions", "k"), keywords=("image", "go to"))
    for prompt, fault in {
        "Explain why rivers bend.": "",
        "Too short": "length",
        "word " * 151: "length",
        "Describe this image to me": "keyword",
        "Please go to the shop now": "keyword",
        "Imagery in poems, explained": "",
        "Write a program that counts": "program",
        "- first do this thing": "start",
        "日本語で説明してください お願い します": "start",
        '"To be" means what exactly?': "",
    }.items():
        assert stage.fault(prompt) == fault, prompt
