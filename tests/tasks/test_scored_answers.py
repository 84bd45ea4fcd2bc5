"""Log probabilities of given answers: what a server is asked, where an answer begins, and who cannot say."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from bench.chat_server import prompt_logprobs
from synthmill.schemas.calls import SCORING, Message, Request
from synthmill.schemas.errors import EngineRefused
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.dialect import Dialect
from synthmill.tasks.engines.engine import make_engine
from synthmill.tasks.engines.scored_answers import FIELDS, border, check_scores, other_answer, prompt_tokens_in
from synthmill.tasks.running.flights import content_ids
from tests.conftest import ChatServer
from tests.odd_server import odd_server, refused, said
from tests.tasks.test_engines import ask, one

QUESTION = (Message(role="user", content="What carries light?"),)


def scored(answer: str, role: str = "strong") -> Request:
    return Request(role=role, messages=QUESTION, sampling=SCORING, scored=answer)


def test_only_a_scored_answer_is_in_the_key() -> None:
    plain, other = scored(""), scored("a river")
    assert b"scored" not in plain.question_json() and b'"scored":"a river"' in other.question_json()
    assert content_ids(other) != content_ids(other.model_copy(update={"scored": "a rivulet"}))


def test_a_chat_ends_with_the_answer_and_is_left_open() -> None:
    settings = EngineSettings.model_validate({"spec": "openai:m@http://127.0.0.1:9/v1", "stream": True})
    body = Dialect(settings).write(scored("a river"), 7, 1).body
    assert body["messages"][-1] == {"role": "assistant", "content": "a river"}
    assert FIELDS.items() <= body.items() and body["max_tokens"] == 1 and "stream" not in body


def test_the_tokens_of_the_answer_alone_are_scored(server: ChatServer) -> None:
    answers = ["The river.", "seven birds, seven", "A mill; an A"]
    results = ask(server.spec, *map(scored, answers))
    for answer, [completion] in zip(answers, results, strict=True):
        assert "".join(token for token, _, _ in completion.logprobs) == answer
        chat = [{"role": "user", "content": QUESTION[0].content}, {"role": "assistant", "content": answer}]
        expected = prompt_tokens_in(prompt_logprobs({"model": "local-model", "messages": chat}) or [])
        last = [token.logprob for token in expected[-len(completion.logprobs) :]]
        assert [logprob for _, logprob, _ in completion.logprobs] == last
        assert (completion.text, completion.error) == ("", None)
    # two others tell where answers begin: that of the answers that begin with A, and that of the rest
    assert server.stats()["total"] == 5 and sum(result[0].prompt_tokens for result in results) == 5 * 20
    assert len(ask(server.spec, scored("a"), count=3)[0]) == 3


def test_an_answer_begins_where_another_would_differ() -> None:
    think = ["<assistant>", "<think>", "\n\n", "</think>", "\n\n"]
    assert border([*think, "4", "2"], [*think, "A"]) == len(think)
    assert border(["<assistant>", "\n4", "2"], ["<assistant>", "\n", "A"]) == 1  # a token across the border counts
    assert border(["a", "b"], ["a", "b", "c"]) == 2
    assert [other_answer(text)[0] == text.strip()[0] for text in (" A", "B", "a", "-")] == [False] * 4


def test_a_server_that_never_gives_them_is_refused(server: ChatServer) -> None:
    server.set(scores="none")
    [error] = ask(server.spec, scored("a river"))
    assert isinstance(error, EngineRefused) and "\n" not in error.message
    assert "gives no log probabilities" in error.message and "set engines.strong to vllm:MODEL" in error.message


def test_nulls_stay_nulls(server: ChatServer) -> None:
    server.set(scores="null")
    assert [logprob for _, logprob, _ in one(server.spec, scored("a river")).logprobs] == [None] * 3


@pytest.mark.parametrize("message", ["Unrecognized request argument supplied: prompt_logprobs", "row"])
def test_a_refusal_of_the_field_is_about_the_server_any_other_about_the_row(message: str) -> None:
    def answer(body: dict[str, Any]) -> web.Response:
        return refused(message)

    with odd_server(answer) as server:
        [result] = ask(server.spec, scored("a river"))
    if message == "row":
        assert result[0].error == "refused: 400: row"
    else:
        assert isinstance(result, EngineRefused) and message in result.message


def test_what_failed_once_is_asked_again_and_a_later_gap_is_the_rows() -> None:
    state = {"fails": True, "gives": True}

    def answer(body: dict[str, Any]) -> Any:
        if state["fails"] and body["messages"][-1]["content"] == "A":
            return refused("not now")
        return {**said("x"), "prompt_logprobs": prompt_logprobs(body) if state["gives"] else None}

    async def run(spec: str) -> list[Any]:
        engine = make_engine(EngineSettings.model_validate(spec))
        await engine.open()
        try:
            failed = await engine.complete(scored("a river"), 0, 1)
            state["fails"] = False
            whole = await engine.complete(scored("a river"), 0, 1)
            state["gives"] = False
            return [failed[0], whole[0], (await engine.complete(scored("a mill"), 0, 1))[0]]
        finally:
            await engine.close()

    with odd_server(answer) as server:
        failed, whole, gap = asyncio.run(run(server.spec))
    assert failed.error == "refused: 400: not now" and failed.logprobs is None
    assert [token for token, _, _ in whole.logprobs] == ["a", " ", "river"]
    assert gap.error is None and gap.logprobs == []


@pytest.mark.parametrize("spec", ["anthropic:m", "llamacpp:smollm2"])
def test_engines_that_cannot_are_refused_before_they_are_asked(spec: str) -> None:
    engine = make_engine(EngineSettings.model_validate(spec))
    check_scores(engine, scored(""))
    with pytest.raises(EngineRefused, match=r"given answers, and weak is asked for them; set engines.weak"):
        check_scores(engine, scored("a river", "weak"))
