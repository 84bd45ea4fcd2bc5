"""CDR: log-probability ratios of a strong and a weak model, under the criterion of the domain that a model names."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bench.chat_server import prompt_logprobs
from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.schemas.calls import SCORING, Completion, Request
from synthmill.schemas.errors import Drop, EngineRefused, InputError
from synthmill.schemas.rows import arrow_schema
from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.settings_files import read_settings
from synthmill.storage.calls import CallStore
from synthmill.tasks.engines.engine import make_engine
from synthmill.tasks.engines.scored_answers import log_probability, prompt_tokens_in
from synthmill.tasks.prompts import load
from synthmill.tasks.running.driver import Driver
from synthmill.tasks.scorers.cdr import CdrPool, CdrScores, domain_of
from synthmill.tasks.scorers.cdr_domains import DOMAINS
from synthmill.tasks.scorers.scoring import ScorerSettings
from tests.conftest import ChatServer, write_jsonl
from tests.tasks.judging_by_hand import CONTEXT, drive, pool, through_engine, values_of

LOCK = {
    "stages": {
        "cdr_scores@1": "15af9a5b913046a8",
    },
    "prompts": {
        "cdr/answer": "7e9b6452aced",
        "cdr/route": "2a4172cecda5",
    },
}
CHANCES = {  # per token, of each model
    "good": {"strong": [0.5, 0.5], "weak": [0.25, 0.5]},
    "long": {"strong": [0.5] * 8, "weak": [0.25] * 8},
    "bad": {"strong": [0.125], "weak": [0.5]},
}


def scores(chances: list[float | None]) -> Completion:
    return Completion(text="", logprobs=[["x", chance and math.log(chance), {}] for chance in chances])


def engines(request: Request, domain: str = "safety") -> Completion:
    if request.scored:
        return scores(CHANCES[request.scored][request.role])  # type: ignore[arg-type]
    return Completion(text=domain)


def stage(**fields: Any) -> CdrScores:
    made = ScorerSettings.model_validate({"spec": "cdr", **fields}).stage(CONTEXT)
    assert isinstance(made, CdrScores)
    return made


def logs(*halvings: int) -> Any:
    return pytest.approx([-math.log(2) * n for n in halvings])


def test_the_score_is_the_strong_models_log_probability_minus_the_weak_ones() -> None:
    row, asked = drive(stage(), pool("good", "long", "bad"), engines)
    values = values_of(row)
    assert list(values) == ["cdr_strong", "cdr_weak", "cdr"]
    assert values["cdr_strong"] == logs(2, 8, 3) and values["cdr_weak"] == logs(3, 16, 1)
    assert values["cdr"] == logs(-1, -8, 2)
    per_token = values_of(drive(stage(per_token=True), pool("good", "long", "bad"), engines)[0])["cdr"]
    assert per_token == pytest.approx([math.log(2) / 2, math.log(2), -2 * math.log(2)])
    assert [(request.role, request.scored) for request in asked[1:3]] == [("strong", "good"), ("weak", "good")]
    assert {request.sampling for request in asked[1:]} == {SCORING} and len(asked) == 7
    assert (row.cdr_domain, row.cdr_missing, row.judgements, row.unread) == ("safety", ("", "", ""), 4, 0)


def test_both_models_are_told_the_domains_criterion_and_exemplars() -> None:
    _, [route, strong, weak] = drive(stage(), pool("good", system="Be brief."), engines)
    assert route.choice == ("safety", "reasoning", "chat") and "What carries light?" in route.messages[-1].content
    assert strong.messages == weak.messages
    system, user = strong.messages
    assert user.content == "What carries light?" and system.content.startswith("Be brief.\n")
    domain = DOMAINS["safety"]
    assert domain.criterion in system.content
    for exemplar in domain.exemplars:
        assert f"A good response to it: {exemplar.chosen}\nA bad response to it: {exemplar.rejected}" in system.content
    _, asked = drive(stage(domain="none"), pool("good"), engines)
    assert [len(request.messages) for request in asked] == [1, 1]


def test_domains_of_your_own_and_one_for_all_without_a_router() -> None:
    own = {"poems": {"criterion": "It rhymes.", "exemplars": [{"prompt": "Day", "chosen": "May"}]}}
    settings = ScorerSettings.model_validate({"spec": "cdr", "domains": own, "domain": "poems", "weak": "base"})
    assert settings.roles == ("strong", "base") and stage().needs_roles() == ("judge", "strong", "weak")
    [strong, weak] = drive(settings.stage(CONTEXT), pool("good"), lambda _: scores([0.5]))[1]
    assert strong.messages[0].content == (
        "What makes a response good: It rhymes.\n\nAn instruction: Day\nA good response to it: May"
    )
    assert (strong.role, weak.role) == ("strong", "base")
    for fields, words in (({"domain": "prose"}, "no domain is called 'prose'"), ({"domains": {}}, "which is empty")):
        with pytest.raises((InputError, ValueError), match=words):
            ScorerSettings.model_validate({"spec": "cdr", **fields})


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (Completion(text="", logprobs=None), "no_logprobs"),
        (Completion(text="", logprobs=[]), "no_logprobs"),
        (scores([0.5, None]), "null_logprob: token 2 of 2"),
        (Completion(text="", logprobs=[["x", -math.inf, {}]]), "bad_logprob"),
        (Completion(text="", logprobs=[["x", math.nan, {}]]), "bad_logprob"),
        (Completion(text="", logprobs=[["x", -9999.0, {}]]), "bad_logprob"),
        (Completion(text="", logprobs=[["x", 11.25, {}]]), "bad_logprob"),  # a logit, of --logprobs-mode raw_logits
        (Completion(text="", logprobs=[["x", "-1", {}]]), "bad_logprob"),
        (Completion(text="", error="context_overflow: too long"), "context_overflow"),
    ],
)
def test_what_is_no_log_probability_is_a_missing_score_with_its_reason(completion: Completion, reason: str) -> None:
    with pytest.raises(Drop, match=reason):
        log_probability(completion)
    reply: Callable[[Request], Completion] = lambda request: (  # noqa: E731
        completion if request.scored == "bad" and request.role == "weak" else engines(request)
    )
    row, _ = drive(stage(), pool("good", "bad", " "), reply)
    assert values_of(row)["cdr"] == (pytest.approx(math.log(2)), None, None)
    assert row.cdr_missing[0] == "" and row.cdr_missing[1].startswith(reason) and row.cdr_missing[2] == "empty_answer"
    assert (row.judgements, row.unread) == (3, 1) and row.first_unread.startswith(reason)


def test_one_model_in_both_roles_gives_no_score() -> None:
    row, _ = drive(stage(domain="chat"), pool("good", "bad"), lambda _: scores([0.5, 0.25]))
    assert values_of(row) == dict.fromkeys(("cdr_strong", "cdr_weak", "cdr"), (None, None))
    assert (row.judgements, row.unread) == (2, 2) and row.first_unread.startswith("same_model: strong and weak")


def test_a_domain_that_cannot_be_read_leaves_no_score() -> None:
    assert domain_of(through_engine("<think>chat</think> **Reasoning**."), tuple(DOMAINS)) == "reasoning"
    for text in ("", "safety or chat", "none", "<think>chat"):
        with pytest.raises(Drop, match="no_domain"):
            domain_of(through_engine(text), tuple(DOMAINS))
    row, asked = drive(stage(attempts=2), pool("good", ""), lambda request: engines(request, "cooking"))
    assert (len(asked), row.cdr_domain, row.cdr_missing) == (2, "", ("no_domain", "empty_answer"))
    assert values_of(row)["cdr"] == (None, None) and (row.judgements, row.unread) == (1, 1)
    with pytest.raises(StopIteration) as done:
        next(stage().steps(pool("", " ")))
    assert (done.value.value.cdr_domain, done.value.value.cdr_missing) == ("", ("empty_answer",) * 2)


def test_the_page_has_scores_by_domain_and_reasons() -> None:
    rows = [drive(stage(), pool("good", "", id=name), engines)[0] for name in "ab"]
    rows.append(drive(stage(domain="none"), pool("bad", id="c"), lambda _: scores([None]))[0])
    schema = pl.DataFrame(arrow_schema(CdrPool).empty_table()).schema
    frames = [pl.DataFrame([row.model_dump()], schema=schema) for row in rows]
    by_domain, why = CdrScores().figures(frames)
    assert by_domain.rows == (("none", "1", "0", ""), ("safety", "2", "2", "0.69"))
    assert why.rows == (("empty_answer", "2"), ("null_logprob", "1"))


def test_two_models_of_a_server_are_asked_once(server: ChatServer, tmp_path: Path) -> None:
    specs = {
        "judge": server.spec,
        "strong": f"openai:strong@{server.url}",
        "weak": f"openai:weak@{server.url}",
        "gguf": "llamacpp:smollm2",
    }

    async def run(recipe: CdrScores) -> Any:
        engines = {role: make_engine(EngineSettings.model_validate(specs[role])) for role in recipe.needs_roles()}
        for engine in engines.values():
            if "llamacpp" not in engine.name:
                await engine.open()
        calls = CallStore(tmp_path)
        try:
            result = await Driver(recipe, engines, calls).run([pool("A river.", "no birds", "")])
            return result.rows[0]
        finally:
            calls.close()
            for engine in engines.values():
                await engine.close()

    row = asyncio.run(run(stage()))
    assert row.cdr_domain in DOMAINS and row.cdr_missing == ("", "", "empty_answer")
    system = load("cdr/answer").render(row=row, domain=DOMAINS[row.cdr_domain])
    chat = [{"role": message.role, "content": message.content} for message in system]
    for place, (answer, tokens) in enumerate((("A river.", 4), ("no birds", 3))):
        for part in ("strong", "weak"):
            whole = prompt_logprobs({"model": part, "messages": [*chat, {"role": "assistant", "content": answer}]})
            expected = sum(token.logprob or 0 for token in prompt_tokens_in(whole or [])[-tokens:])
            assert values_of(row)[f"cdr_{part}"][place] == pytest.approx(expected)
    asked = server.stats()["total"]
    assert asked == 1 + 2 * 4  # an answer that begins with A has another beside it than the rest have
    assert asyncio.run(run(stage())) == row and server.stats()["total"] == asked
    with pytest.raises(EngineRefused, match=r"^llamacpp:.* gives no log probabilities of given answers, and gguf is"):
        asyncio.run(run(stage(weak="gguf")))


def test_in_a_pipeline_its_roles_are_the_strong_the_weak_and_the_one_that_routes(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Why?"}])
    url = "@http://127.0.0.1:9/v1"
    engines = {role: f"openai:{role}{url}" for role in ("teacher", "judge", "strong", "weak")}
    steps = {
        "pools": {"stage": "answer_pool", "count": 2},
        "ratio": {"stage": "cdr_scores", "per_token": True},
        "pairs": {"stage": "pool_pairs", "reward": "ratio", "cuts": ["max-min"]},
    }
    settings = {"source": "in.jsonl", "engines": engines, "steps": steps}
    assert [step.step for step in plan(read_settings(PipelineSettings, None, settings)).stages] == list(steps)
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Why?", "cdr_domain": "x"}])
    with pytest.raises(InputError, match=r"steps.ratio: stage cdr_scores: the rows have a column 'cdr_domain' already"):
        plan(read_settings(PipelineSettings, None, settings))
