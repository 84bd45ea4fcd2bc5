"""Engines: the local chat server, the embedded model, recordings; what they send, retry, refuse and say."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from bench.serving import chat_server
from synthmill.schemas.calls import Completion, Message, Request, Sampling, ask_hash, call_key
from synthmill.schemas.errors import EngineError, InputError
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.calls import CallStore, record_to
from synthmill.tasks.engines import chat_server as chat_engine
from synthmill.tasks.engines import token_estimates, waits
from synthmill.tasks.engines.dialect import Written
from synthmill.tasks.engines.engine import engine_name, make_engine, resolve
from synthmill.tasks.engines.refusals import ErrorAnswer
from synthmill.tasks.engines.replies import completions_in
from synthmill.tasks.engines.vllm_engine import remedy
from tests.conftest import ChatServer


def asked(content: str = "hello", **fields: Any) -> Request:
    return Request(role="student", messages=(Message(role="user", content=content),), **fields)


def ask(spec: Any, *requests: Request, count: int = 1, seed: int = 7) -> list[Any]:
    """The completions of each request, or the error it raised."""

    async def run() -> list[Any]:
        engine = make_engine(EngineSettings.model_validate(spec))
        await engine.open()
        try:
            return await asyncio.gather(*(engine.complete(r, seed, count) for r in requests), return_exceptions=True)
        finally:
            await engine.close()

    return asyncio.run(run())


def one(spec: Any, request: Request) -> Completion:
    [result] = ask(spec, request)
    assert isinstance(result, Sequence), result
    return result[0]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "BACKOFF_S", 0.001)


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a", "b"]}


def test_a_server_answers_with_text_tokens_and_latency(server: ChatServer) -> None:
    said = one(server.spec, asked())
    assert said.text
    assert (said.finish_reason, said.prompt_tokens, said.completion_tokens) == ("stop", 20, 12)
    assert said.latency_s > 0
    assert said == one(server.spec, asked())._replace(latency_s=said.latency_s)  # the seed is sent


def test_n_answers_come_from_one_call_and_their_tokens_add_up(server: ChatServer) -> None:
    [answers] = ask(server.spec, asked(), count=5)
    assert len({answer.text for answer in answers}) == 5
    assert sum(answer.completion_tokens for answer in answers) == 60
    assert server.stats()["total"] == 1


def test_structured_answers_choices_and_logprobs(server: ChatServer) -> None:
    assert set(orjson.loads(one(server.spec, asked(schema_=SCHEMA)).text)) == {"a", "b"}
    assert one(server.spec, asked(choice=("yes", "no"))).text in ("yes", "no")
    said = one(server.spec, asked(sampling=Sampling(logprobs=3)))
    assert said.logprobs == [["1", -0.5, {"1": -0.5, "2": -1.0, "3": -1.5}]]


def test_a_server_is_known_by_its_model_never_by_its_address(
    server: ChatServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine_name(EngineSettings.model_validate(server.spec)) == "openai:local-model"
    assert resolve(EngineSettings.model_validate(server.url), store).model == "local-model"
    with_options = EngineSettings.model_validate({"spec": server.spec, "options": {"top_k": 5}})
    assert engine_name(with_options).startswith("openai:local-model+")
    monkeypatch.setenv("JUDGE_URL", server.url)
    assert one({"spec": "openai:local-model", "base_url_env": "JUDGE_URL"}, asked()).text


def test_passing_failures_are_retried(server: ChatServer, impatient: None) -> None:
    for status in (500, 503, 429, 408):
        server.set(forget=1, fail_every=2, fail_status=status)
        results = ask(server.spec, *(asked(f"question {n}") for n in range(10)))
        assert all(result[0].text for result in results), results


def test_a_server_that_says_wait_is_waited_for_and_asked_less(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def noted(self: Any, seconds: float, reason: str) -> bool:
        pauses.append(seconds)
        return False

    server.set(fail_every=3, fail_status=429, retry_after="0.25")

    async def run() -> tuple[int, int]:
        engine = make_engine(EngineSettings.model_validate({"spec": server.spec, "concurrency": 16}))
        await engine.open()
        monkeypatch.setattr(chat_engine.ChatServer, "_stopped_within", noted)
        await asyncio.gather(*(engine.complete(asked(f"question {n}"), 1, 1) for n in range(12)))
        slowed = engine.limit
        server.set(fail_every=0)
        for n in range(200):
            await engine.complete(asked(f"more {n}"), 1, 1)
        await engine.close()
        return slowed, engine.limit

    slowed, recovered = asyncio.run(run())
    assert pauses
    assert min(pauses) >= 0.25  # never earlier than told, and not all at the same moment
    assert slowed <= 8 + 1
    assert recovered == 16


def test_a_request_too_long_for_the_model_fails_alone(server: ChatServer) -> None:
    [long, short] = ask(server.spec, asked("x" * 30_000), asked())
    assert long[0].error.startswith("context_overflow: 400: This model's maximum context length")
    assert short[0].error is None


def test_a_request_that_keeps_failing_beside_others_fails_alone(server: ChatServer, impatient: None) -> None:
    server.set(fail_on="poison")
    requests = [asked(f"question {n}") for n in range(40)]
    poisoned, *others = ask({"spec": server.spec, "retries": 2}, asked("poison"), *requests)
    assert poisoned[0].error.startswith("engine_error: 500: failing as told (3 attempts")
    assert not any(other[0].error for other in others)


@pytest.mark.parametrize(
    ("options", "model", "says"),
    [
        (("--key", "right"), "m", "wants a valid key .*environment variable OPENAI_API_KEY was refused"),
        ((), "unknown", "knows no model 'unknown'"),
    ],
)
def test_wrong_keys_and_models_stop_at_once(
    options: tuple[str, ...], model: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret")
    with chat_server(*options) as url:
        [error] = ask(f"openai:{model}@{url}", asked())
    assert isinstance(error, EngineError)
    assert re.search(says, error.message)
    assert "sk-planted-secret" not in error.message


def read(answer: Any, count: int = 1) -> Any:
    return completions_in(asked(), Written({}), orjson.dumps(answer), count, 0.1)


@pytest.mark.parametrize(
    ("message", "usage", "text", "tokens"),
    [
        ({"content": None}, None, "", 0),
        ({"content": [{"type": "text", "text": "a"}, {"text": "b"}]}, {"completion_tokens": None}, "ab", 1),
        ({"content": "x"}, {"completion_tokens": -3}, "x", 1),  # what was not reported is counted here
        ({"content": "x"}, {"completion_tokens": 1 << 63}, "x", 1),
        ({"content": "x"}, {"completion_tokens": 7}, "x", 7),
    ],
)
def test_odd_but_real_answers_are_read(message: Any, usage: Any, text: str, tokens: int) -> None:
    [said] = read({"choices": [{"message": message, "finish_reason": 1}], "usage": usage})
    assert (said.text, said.completion_tokens, said.finish_reason) == (text, tokens, "stop")


def test_tokens_that_are_not_reported_are_counted_here_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "The river carries seven birds over the old mill."
    choices = [{"message": {"content": text, "reasoning_content": text}}, {"message": {"content": text}}]
    for usage in (None, {}, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}):
        first, second = read({"choices": choices, "usage": usage}, 2)
        assert first.estimated and second.estimated and first.usage in (None, {}, usage)
        assert (first.completion_tokens, second.completion_tokens) == (20, 10)
        assert first.prompt_tokens > 4 and second.prompt_tokens == 0
    [reported] = read({"choices": choices[1:], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    assert not reported.estimated and (reported.prompt_tokens, reported.completion_tokens) == (3, 2)
    monkeypatch.setattr(token_estimates, "embedded_tokenizer", lambda: None)
    [without] = read({"choices": choices[1:]})
    assert without.completion_tokens == 12  # of 48 characters


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([], AttributeError),
        ({"choices": [{"message": {"content": 3}}]}, ValueError),
        ({"error": "x"}, ErrorAnswer),
        ({"choices": None}, ErrorAnswer),
        ({"choices": []}, ErrorAnswer),
    ],
)
def test_what_is_no_chat_completion_is_said_to_be_none(answer: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        read(answer)


def test_half_of_an_emoji_is_the_replacement_character() -> None:
    data = b'{"choices": [{"message": {"content": "cut \\ud83d, whole \\ud83d\\ude00"}, "finish_reason": "length"}]}'
    [answer] = completions_in(asked(), Written({}), data, 1, 0.1)
    assert answer.text == "cut \ufffd, whole \U0001f600"


def test_one_bad_answer_does_not_stop_its_neighbours(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = chat_engine.ChatServer.read

    def sometimes(self: Any, request: Request, written: Written, data: bytes, *more: Any) -> Any:
        return real(self, request, written, b"<html>" if "bad" in request.messages[0].content else data, *more)

    monkeypatch.setattr(chat_engine.ChatServer, "read", sometimes)
    with chat_server("--latency-ms", "2") as url:
        bad, *others = ask({"spec": f"openai:m@{url}", "retries": 2}, asked("bad"), *(asked(f"{n}") for n in range(30)))
    assert bad[0].error.startswith("engine_error: the answer is no chat completion")
    assert not any(other[0].error for other in others)


def test_a_stop_ends_the_wait_between_attempts(server: ChatServer) -> None:
    server.set(fail_every=1, fail_status=429, retry_after="500")

    async def run() -> Any:
        engine = make_engine(EngineSettings.model_validate(server.spec))
        await engine.open()
        task = asyncio.create_task(engine.complete(asked(), 1, 1))
        await asyncio.sleep(0.2)
        engine.stop()
        said = await asyncio.wait_for(task, 5)
        await engine.close()
        return said[0]

    assert asyncio.run(run()).error == "engine_error: the run was stopped"


def test_a_server_that_is_gone_is_one_readable_error(store: Store, impatient: None) -> None:
    spec = {"spec": "openai:m@http://127.0.0.1:9/v1", "retries": 2}
    [error] = ask(spec, asked())
    assert isinstance(error, EngineError)
    assert "does not answer" in error.message
    assert "run the same command again to continue" in error.message
    with pytest.raises(EngineError, match="start the server"):
        resolve(EngineSettings.model_validate("http://127.0.0.1:9/v1"), store)


def test_the_embedded_model_answers_for_its_seed_and_keeps_to_forms() -> None:
    sampling = Sampling(max_tokens=12)
    requests = [asked("Name a colour.", sampling=sampling)] * 4 + [asked("Name a bird.", sampling=sampling)]
    first, again = ask("llamacpp:smollm2", *requests), ask("llamacpp:smollm2", *requests[::-1])
    texts = [result[0].text for result in first]
    assert len(set(texts[:4])) == 1
    assert [result[0].text for result in again[::-1]] == texts
    assert first[0][0].finish_reason in ("length", "stop")
    assert first[0][0].completion_tokens <= 12
    other = ask("llamacpp:smollm2", requests[0], seed=8)
    assert other[0][0].text != texts[0]
    schema = {"type": "object", "properties": {"colour": {"type": "string", "maxLength": 12}}, "required": ["colour"]}
    formed, picked, long = ask(
        "llamacpp:smollm2",
        asked("A colour as JSON.", schema_=schema, sampling=Sampling(max_tokens=60)),
        asked("Is snow white?", choice=("yes", "no", 'say "perhaps"')),
        asked("word " * 6000),
    )
    assert len(orjson.loads(formed[0].text)["colour"]) <= 12
    assert picked[0].text in ("yes", "no", 'say "perhaps"')
    assert long[0].error.startswith("context_overflow")


def test_weights_that_are_not_there_or_not_weights(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"nonsense")
    for model, says in ((tmp_path / "bad.gguf", "is not a GGUF file"), (tmp_path / "no.gguf", "there is no file")):
        with pytest.raises(InputError, match=says):
            make_engine(EngineSettings.model_validate(str(model)))


@pytest.mark.vllm
def test_a_folder_without_weights(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    with pytest.raises(InputError, match=r"there is no folder|holds no model"):
        make_engine(EngineSettings(kind="vllm", model=str(tmp_path)))


def test_a_recording_replays_anywhere_under_its_own_engines_name(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "calls")
    for n in range(3):
        request = asked(f"question {n}")
        hashed = ask_hash(request.question_json())
        completion = Completion(text=f"answer {n}", completion_tokens=4)
        store.add(
            call_key("openai:m", hashed, 0),
            hashed,
            request.question_json(),
            completion,
            engine="openai:m",
            role="r",
            sample=0,
        )
    store.close()
    record_to(tmp_path / "calls", tmp_path / "recording")
    for place in (tmp_path / "calls", tmp_path / "recording"):
        spec = f"replay:{place}"
        assert engine_name(EngineSettings.model_validate(spec)) == "openai:m"
        assert [result[0].text for result in ask(spec, *(asked(f"question {n}") for n in range(3)))] == [
            f"answer {n}" for n in range(3)
        ]
    [error] = ask(f"replay:{tmp_path / 'recording'}", asked("never asked"))
    assert "has no answer by openai:m to this request" in error.message
    with pytest.raises(InputError, match="there is no recording"):
        make_engine(EngineSettings.model_validate("replay:/nowhere"))


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("Failed to infer device type, please set", "there is no GPU here: install the CPU build"),
        ("You are trying to access a gated repo. Make sure to have access", "accept the model's terms on its page"),
        ("World size (2) is larger than the number of available GPUs (1)", "lower its option tensor_parallel_size"),
        ("Free memory on device cuda:0 (3.1/79 GiB) on startup is less", "lower its option gpu_memory_utilization"),
        ("x/y is not a local folder and is not a valid model identifier", "name a folder, or a Hub id OWNER/NAME"),
        ("Engine core initialization failed. See root cause above.", "the lines above say why"),
    ],
)
def test_a_model_that_vllm_cannot_load_has_a_remedy(reason: str, advice: str) -> None:
    assert remedy(reason).startswith(advice)
