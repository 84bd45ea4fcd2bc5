"""What is sent to a server, what its refusals mean, and what an engine learns of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthmill.flows.commands.engine_choice import chosen_engine
from synthmill.flows.commands.sample import SampleSettings, sample_file
from synthmill.schemas.calls import Request, Sampling
from synthmill.schemas.errors import EngineError, EngineLearned, EngineRefused, InputError
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.learned import learn, learned_of
from synthmill.tasks.engines.dialect import Dialect
from synthmill.tasks.engines.engine import engine_name, resolve
from synthmill.tasks.engines.refusals import read_refusal
from synthmill.tasks.engines.served import endpoint, note_unlisted
from tests.conftest import prompts, write_jsonl
from tests.json_server import json_server
from tests.odd_server import OddServer, odd_server, refused, said
from tests.tasks.test_engines import SCHEMA, ask, asked, one

UNSET = Sampling(temperature=None, top_p=None, max_tokens=None)


def engine(server: OddServer, **settings: Any) -> dict[str, Any]:
    return {"spec": server.spec, **settings}


def body_of(settings: dict[str, Any], request: Request, count: int = 1) -> dict[str, Any]:
    spec = {"spec": "openai:m@http://127.0.0.1:9/v1", **settings}
    return Dialect(EngineSettings.model_validate(spec)).write(request, 7, count).body


def test_what_is_unset_is_not_sent_and_options_win() -> None:
    assert body_of({}, asked(sampling=UNSET)).keys() == {"model", "messages", "seed"}
    options = {"seed": None, "temperature": 0.2, "stop": ["x"], "model": "other"}
    body = body_of({"options": options}, asked(sampling=Sampling(stop=("y",))))
    assert body == {
        "model": "other",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.2,
        "top_p": 0.9,
        "max_tokens": 1024,
        "stop": ["x"],
    }
    for name in ("max_tokens", "max_completion_tokens"):
        assert body_of({"options": {name: None}}, asked()).keys() & {"max_tokens", "max_completion_tokens"} == set()
    assert "max_tokens" not in body_of({"options": {"max_completion_tokens": 9}}, asked())
    assert body_of({"options": {"n": None}}, asked(), 3).get("n") is None


def test_questions_of_earlier_versions_have_their_keys() -> None:
    assert b'"max_tokens":1024,"seed":0,"stop":[],"temperature":1.0,"top_p":0.9}' in asked().question_json()
    assert b'"temperature":null' in asked(sampling=UNSET).question_json()


def test_thinking_is_asked_for_or_turned_off() -> None:
    assert "reasoning_effort" not in body_of({}, asked()) and "chat_template_kwargs" not in body_of({}, asked())
    assert body_of({"thinking": "off"}, asked())["chat_template_kwargs"] == {"enable_thinking": False}
    assert body_of({"thinking": "off", "base_url": "https://api.openai.com/v1"}, asked())["reasoning_effort"] == "none"
    own = {"thinking": "off", "options": {"chat_template_kwargs": {"thinking": False}}}
    assert body_of(own, asked())["chat_template_kwargs"] == {"thinking": False}
    body = body_of({"thinking": {"effort": "low", "tokens": 2000}}, asked())
    assert (body["reasoning_effort"], body["max_tokens"]) == ("low", 3024)
    names = {
        engine_name(EngineSettings.model_validate({"spec": "openai:m@http://127.0.0.1:9/v1", **settings}))
        for settings in ({}, {"thinking": "drop"}, {"thinking": "off"}, {"thinking": {"effort": "low"}})
    }
    assert len(names) == 3 and "openai:m" in names


def test_thinking_is_turned_off_in_the_way_that_a_server_takes() -> None:
    def answer(body: dict[str, Any]) -> Any:
        if "chat_template_kwargs" in body:
            return refused("Unrecognized request argument supplied: chat_template_kwargs")
        if body.get("reasoning_effort") == "none":
            return refused("Unsupported value", param="reasoning_effort")
        return said()

    with odd_server(answer) as server:
        assert one(engine(server, thinking="off"), asked("question")).text == "well"
        assert server.asked()[-1]["reasoning_effort"] == "minimal"


FIELDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "top_p": lambda body: {"top_p", "temperature"} <= body.keys() and refused("temperature or top_p, not both"),
    "temperature": lambda body: body.get("temperature", 1) != 1 and refused("x", param="temperature"),
    "top_p and temperature": lambda body: (
        {"top_p", "temperature"} & body.keys() and refused("no top_p and no temperature here")
    ),
}


@pytest.mark.parametrize("named", FIELDS)
def test_a_field_that_a_server_refuses_stops_the_run_with_the_setting(named: str) -> None:
    refusal = FIELDS[named]
    with odd_server(lambda body: refusal(body) or said()) as server:
        request = asked("question", sampling=Sampling(temperature=0.7))
        errors = ask(server.spec, *[request] * 5)
        assert {type(error) for error in errors} == {EngineRefused}
        fields = named.split(" and ")
        nulls = ", ".join(f"{name}: null" for name in fields)
        assert f"refuses {named} (400: " in errors[0].message
        assert f"engines.ROLE.options={{{nulls}}}" in errors[0].message and "--auto-drop" in errors[0].message
        options = dict.fromkeys(fields)
        assert one(engine(server, options=options), request).text == "well"
        [lesson] = ask(engine(server, auto_drop=True), request)
        assert isinstance(lesson, EngineLearned)


def test_a_validators_refusal_names_its_field() -> None:
    detail = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "not permitted", "input": 7}]
    refusal = read_refusal(422, json.dumps({"detail": detail}).encode())
    assert (refusal.message, refusal.places) == ("seed: not permitted", {"seed"})


def test_a_refusal_that_happens_to_name_a_field_is_the_rows() -> None:
    def answer(body: dict[str, Any]) -> Any:
        return refused("no text about a bus stop or a seed") if "stop" in body["messages"][-1]["content"] else said()

    with odd_server(answer) as server:
        bad, *good = ask(server.spec, asked("a bus stop"), *(asked(f"{n}") for n in range(6)))
    assert bad[0].error == "refused: 400: no text about a bus stop or a seed"
    assert not any(one[0].error for one in good)


def test_the_length_is_named_as_the_server_wants_it() -> None:
    def answer(body: dict[str, Any]) -> Any:
        if "max_tokens" in body:
            return refused(
                "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", param="max_tokens"
            )
        return said()

    with odd_server(answer) as server:
        results = ask(server.spec, *(asked(f"{n}") for n in range(4)))
        assert all(result[0].text == "well" for result in results)
        assert all(body["max_completion_tokens"] == 1024 for body in server.asked()[-4:])

    def too_long(body: dict[str, Any]) -> Any:
        message = "'max_tokens' is too large: 1024. This model's maximum context length is 1000 tokens"
        return refused(message) if len(body["messages"][-1]["content"]) > 10 else said()

    with odd_server(too_long) as server:
        long, short = ask(server.spec, asked("a long question"), asked("short"))
    assert long[0].error.startswith("context_overflow: 400") and short[0].error is None


def test_a_length_that_is_too_large_is_no_unknown_field() -> None:
    def answer(body: dict[str, Any]) -> Any:
        most = "max_tokens is too large: this model completes at most 500 tokens"
        return refused(most, param="max_tokens") if body.get("max_tokens", 0) > 500 else said()

    with odd_server(answer) as server:
        [stopped] = ask(server.spec, asked("question"))
        assert "refuses max_tokens (400: max_tokens is too large" in stopped.message
        assert not any("max_completion_tokens" in body for body in server.bodies)


def test_log_probabilities_are_refused_as_one() -> None:
    def answer(body: dict[str, Any]) -> Any:
        if "logprobs" in body:
            return refused("no logprobs here")
        return refused("top_logprobs needs logprobs") if "top_logprobs" in body else said()

    with odd_server(answer) as server:
        [stopped] = ask(server.spec, asked("question", sampling=Sampling(logprobs=5)))
    assert "refuses logprobs and top_logprobs" in stopped.message and "auto_drop" not in stopped.message


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, {"code": "insufficient_quota"}), (429, {"type": "insufficient_quota"}), (402, {}), (429, {})],
)
def test_a_spent_quota_stops_at_once(status: int, error: dict[str, str]) -> None:
    message = "You exceeded your current quota, please check your plan and billing details."
    with odd_server(lambda body: refused(message, status, **error)) as server:
        [stopped] = ask(server.spec, asked())
        assert isinstance(stopped, EngineRefused)
        assert f"wants to be paid ({status}: {message})" in stopped.message
        assert len(server.bodies) == 1


def sample(server: OddServer, folder: Path, **more: Any) -> list[str]:
    source = write_jsonl(folder / "in.jsonl", prompts(5))
    names = dict.fromkeys(("prompt_column", "id_column", "system_column"), "")
    settings = SampleSettings(
        **{name: name.partition("_")[0] for name in names},
        source=str(source),
        engine=server.spec,
        count=1,
        concurrency=4,
        store=str(folder / "store"),
        out=folder / "out.jsonl",
        temperature=0.8,
        top_p=0.95,
        max_tokens=64,
        seed=0,
        limit=None,
        workers=0,
        ray_address=None,
        retry_lost=False,
        **more,
    )
    sample_file(settings)
    return [json.loads(line)["answer"] for line in (folder / "out.jsonl").read_text().splitlines()]


def test_what_was_left_out_is_said_once_and_known_from_then_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with odd_server(lambda body: refused("no top_p", param="top_p") if "top_p" in body else said()) as server:
        with pytest.raises(EngineRefused):
            sample(server, tmp_path)
        assert sample(server, tmp_path, auto_drop=True) == ["well"] * 5
        assert capsys.readouterr().err.count("refuses top_p") == 1
        store = Store(tmp_path / "store")
        settings = EngineSettings.model_validate({"spec": server.spec, "auto_drop": True})
        named = EngineSettings.model_validate({"spec": server.spec, "options": {"top_p": None}})
        assert engine_name(resolve(settings, store)) == engine_name(named) != engine_name(settings)
        assert resolve(settings.model_copy(update={"auto_drop": False}), store).options == {}
        server.bodies.clear()
        assert sample(server, tmp_path, engine_option={"top_p": None}) == ["well"] * 5
        assert server.bodies == []  # the same answers: nothing is asked again
        assert "refuses" not in capsys.readouterr().err


def test_lessons_of_one_engine_add_up(store: Store) -> None:
    learn(store, "m", "http://h/v1", {"options": {"top_p": None}})
    learn(store, "m", "http://h/v1", {"options": {"seed": None}})
    learn(store, "m", "http://h/v1", {"structure": "auto:tool"})
    assert learned_of(store, "m", "http://h/v1") == {"options": {"top_p": None, "seed": None}, "structure": "auto:tool"}
    assert learned_of(store, "m", "http://other/v1") == {}


def test_headers_come_from_the_environment_and_are_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_KEY", "planted-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.delenv("NO_SUCH", raising=False)
    settings = {"headers": {"api-key": "AZURE_KEY"}, "query": {"api-version": "2024-10-21"}}
    with odd_server(lambda body: said(), "/openai/deployments/odd") as server:
        assert one(engine(server, **settings), asked()).text == "well"
        assert server.queries == [{"api-version": "2024-10-21"}]
        assert server.headers[0]["api-key"] == "planted-secret" and "authorization" not in server.headers[0]
        note_unlisted(EngineSettings.model_validate(engine(server, **settings)))
        assert server.headers[-1]["api-key"] == "planted-secret"
        server.answer = lambda body: refused("the key planted-secret is wrong", 401)
        [error] = ask(engine(server, **settings), asked())
        assert "the key *** is wrong" in error.message and "AZURE_KEY was refused" in error.message
        with pytest.raises(InputError, match="api-key is in the environment variable NO_SUCH, which is not set"):
            ask(engine(server, headers={"api-key": "NO_SUCH"}), asked())
    plain = EngineSettings.model_validate("openai:odd@http://127.0.0.1:9/v1")
    assert engine_name(plain) == engine_name(plain.model_copy(update=settings))


def test_a_server_that_is_starting_is_told_before_it_is_asked() -> None:
    loading = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}  # llama.cpp's server
    with json_server(lambda *_: (503, loading, {})) as url, pytest.raises(EngineError) as error:
        note_unlisted(EngineSettings.model_validate(f"openai:m@{url}/v1"))
    assert "/v1/models is not ready (503: Loading model); once its model is loaded, run" in error.value.message


def test_the_address_of_a_web_page_is_told_before_it_is_asked() -> None:
    with (
        json_server(lambda *_: (200, b"<!doctype html>", {"Content-Type": "text/html"})) as url,
        pytest.raises(EngineError) as error,
    ):
        note_unlisted(EngineSettings.model_validate(f"openai:m@{url}/v1"))
    assert "/v1/models is a web page, no server of models; correct the address: openai:MODEL@" in error.value.message


def test_a_secret_is_no_name_of_a_variable() -> None:
    for value in ("sk-planted-secret", "a b", ""):
        with pytest.raises(InputError) as error:
            chosen_engine("openai:m@http://127.0.0.1:9/v1", 1, {"headers.api-key": value}, False)
        assert "must name the environment variable" in error.value.message and "planted" not in error.value.message
    with pytest.raises(InputError, match="secret"):
        chosen_engine("openai:m@http://127.0.0.1:9/v1", 1, {"query.api-key": "planted"}, False)


def test_addresses_of_azures_style() -> None:
    def address(**settings: Any) -> str:
        return endpoint(EngineSettings.model_validate({"spec": "openai:m", **settings}), "/chat/completions")

    deployment = "https://x.openai.azure.com/openai/deployments/gpt"
    full = f"{deployment}/chat/completions?api-version=2024-10-21"
    assert address(base_url=full) == full
    assert address(base_url=deployment, query={"api-version": "2024-10-21"}) == full
    assert address(base_url="https://x.openai.azure.com/openai/v1/") == (
        "https://x.openai.azure.com/openai/v1/chat/completions"
    )


def test_an_unlisted_model_is_asked_and_said_with_its_neighbours(tmp_path: Path, capsys: Any) -> None:
    with odd_server(lambda body: said()) as server:
        server.models = ["odd-large", "odd-mini", "something-else"]
        assert sample(server, tmp_path) == ["well"] * 5
    assert "does not list 'odd'; it lists odd-mini, odd-large and 1 more; asking anyway" in capsys.readouterr().err


def test_options_of_the_command_line_are_settings_or_fields() -> None:
    chosen = {"top_p": None, "structure": "tool", "thinking.mode": "off", "stream": True}
    settings = chosen_engine("openai:m@http://127.0.0.1:9/v1", 8, chosen, True)
    assert (settings.options, settings.structure, settings.thinking.mode) == ({"top_p": None}, "tool", "off")
    assert settings.stream and settings.auto_drop and settings.concurrency == 8
    for spelled, field in (("drop", "mode"), ("high", "effort"), ("2048", "tokens")):
        thinking = chosen_engine("anthropic:m", 8, {"thinking.marks": []}, False, spelled).thinking
        assert str(getattr(thinking, field)) == spelled and thinking.marks == ()
    assert EngineSettings.model_validate({"spec": "openai:m", "thinking": 2048}).thinking.tokens == 2048


def test_a_refusal_while_others_are_judged_has_one_verdict() -> None:
    """Many requests are refused at once: one of them finds out why, with few short requests."""
    with odd_server(lambda body: refused("no seed here") if "seed" in body else said()) as server:
        results = ask(server.spec, *(asked(f"{n}", schema_=SCHEMA) for n in range(30)))
        assert {type(result) for result in results} == {EngineRefused}
        assert len(server.bodies) <= 30 + 3
