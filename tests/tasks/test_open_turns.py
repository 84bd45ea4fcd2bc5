"""A turn that the model writes on: its prompt ends where the chat template has opened it, on every engine that can."""

import importlib.util
from pathlib import Path

import pytest

from synthmill.schemas.calls import Message, Request, Sampling
from synthmill.schemas.errors import EngineRefused, InputError
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.dialect import TextDialect
from synthmill.tasks.engines.engine import engine_name, make_engine
from synthmill.tasks.engines.open_turns import MARK, check_able, opened, opened_by, with_mark
from synthmill.tasks.engines.vllm_engine import VLLMEngine
from synthmill.tasks.running.flights import content_ids
from tests.conftest import ChatServer, Echo
from tests.tasks.test_engines import ask

CHATML = "<|im_start|>user\n"
WITH_SYSTEM = "<|im_start|>system\n{system}<|im_end|>\n" + CHATML
SYSTEM = Message(role="system", content="You do sums.")


def open_turn(*before: Message, text: str = "", **fields: object) -> Request:
    messages = (*before, Message(role="user", content=text))
    sampling = Sampling(max_tokens=12)
    return Request(role="teacher", messages=messages, open_turn=True, sampling=sampling).model_copy(update=fields)


def test_only_an_open_turn_is_in_the_key() -> None:
    turn = open_turn(text="Why")
    over = turn.model_copy(update={"open_turn": False})
    assert b"open_turn" not in over.question_json() and b'"open_turn":true' in turn.question_json()
    assert content_ids(turn) != content_ids(over)


def test_a_prompt_ends_where_the_turn_begins() -> None:
    messages = open_turn(SYSTEM, text="Why").messages
    assert with_mark(messages)[-1] == {"role": "user", "content": MARK}
    assert opened(f"<s>{MARK}</s>", messages) == "<s>Why"
    with pytest.raises(EngineRefused, match="no chat template"):
        opened("", messages)
    assert opened_by(WITH_SYSTEM, messages) == "<|im_start|>system\nYou do sums.<|im_end|>\n<|im_start|>user\nWhy"
    for user_turn, fault in (("", "has no user_turn"), (CHATML, r"has no \{system\}")):
        with pytest.raises(EngineRefused, match=fault):
            opened_by(user_turn, messages)


def test_a_server_is_asked_for_a_raw_completion(server: ChatServer) -> None:
    settings = EngineSettings.model_validate({"spec": server.spec, "user_turn": CHATML, "stream": True})
    body = TextDialect(settings).write(open_turn(text="Why"), 7, 2).body
    assert body["prompt"] == CHATML + "Why" and (body["n"], body["seed"]) == (2, 7)
    assert not body.keys() & {"messages", "stream", "stream_options"}
    plain = EngineSettings.model_validate(server.spec)
    assert engine_name(settings) != engine_name(plain)
    chat = open_turn(text="Why").model_copy(update={"open_turn": False})
    [[first, second], [in_chat]] = ask(settings, open_turn(text="Why"), count=2) + ask(settings, chat)
    assert first.text != second.text and first.prompt_tokens == 20 and in_chat.text not in (first.text, second.text)
    [refusal] = ask(plain, open_turn())
    assert isinstance(refusal, EngineRefused) and "has no user_turn" in refusal.message
    with pytest.raises(ValueError, match="user_turn means nothing to vllm"):
        EngineSettings.model_validate({"spec": "vllm:o/n", "user_turn": CHATML})
    with pytest.raises(EngineRefused, match="echo continues no open turns"):
        check_able(Echo(), open_turn())


def test_llama_cpp_opens_a_turn_by_the_models_template() -> None:
    settings = EngineSettings.model_validate({"spec": "llamacpp:smollm2", "options": {"instances": 1}})
    try:
        make_engine(settings)
    except InputError as error:
        pytest.skip(error.message)
    cold = Sampling(temperature=0, max_tokens=8)
    counting = open_turn(text="Please count: one, two, three,", sampling=cold)
    [counts], [other] = ask(settings, counting, open_turn(sampling=cold))
    assert "four" in counts.text and counts.finish_reason == "length"
    assert counts.prompt_tokens - other.prompt_tokens > 5 and other.text != counts.text


class Tokenizer:
    """ChatML; its tokens are letters."""

    def apply_chat_template(self, messages: list[dict[str, str]], **how: object) -> str:
        assert how == {"add_generation_prompt": True, "tokenize": False}
        turns = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages]
        return "".join(turns) + "<|im_start|>assistant\n"

    def encode(self, text: str, add_special_tokens: bool) -> list[str]:
        assert not add_special_tokens  # the template has written them
        return list(text)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_opens_a_turn_by_the_models_template(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    engine = VLLMEngine(EngineSettings.model_validate(f"vllm:{tmp_path}"))
    engine._tokenizer = Tokenizer()
    tokens = engine._tokens(open_turn(SYSTEM, text="Why"))
    assert "".join(map(str, tokens)) == "<|im_start|>system\nYou do sums.<|im_end|>\n<|im_start|>user\nWhy"
