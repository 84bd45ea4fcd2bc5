"""Models that think, in this process: a chat template opens the block, and the model goes on."""

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from synthmill.schemas.calls import Completion, Message, Request, Sampling
from synthmill.schemas.endings import CUT_WHILE_THINKING
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.thinking_settings import MARKS
from synthmill.tasks.engines.engine import engine_name, make_engine
from synthmill.tasks.engines.template_thinking import begun_thinking, whole_turn
from synthmill.tasks.texts.thinking import answer_alone
from tests.tiny import make_tiny_model

SHOTS = (
    ("What is 1 plus 1?", "One and one make two.", "2"),
    ("What is 2 plus 1?", "Two and one make three.", "3"),
    ("What is 3 plus 1?", "Three and one make four.", "4"),
)
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n{}\n</think>\n\n{}<|im_end|>\n"
OPENS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}"
)
TEACHES = "".join(TURN.format(*shot) for shot in SHOTS) + OPENS
"""Three thoughts to imitate, so that a model of 135 million parameters thinks."""
missing_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def asked(content: str = "What is 4 plus 1?", **fields: Any) -> Request:
    fields = {"sampling": Sampling(temperature=0, max_tokens=40), **fields}
    return Request(role="student", messages=(Message(role="user", content=content),), **fields)


def answers(settings: EngineSettings, *requests: Request) -> list[Completion]:
    """What recipes see of an engine's answers."""

    async def run() -> list[Completion]:
        engine = make_engine(settings)
        await engine.open()
        try:
            return [(await engine.complete(request, 1, 1))[0] for request in requests]
        finally:
            await engine.close()

    completions = zip(requests, asyncio.run(run()), strict=True)
    return [answer_alone(request, completion, settings.thinking) for request, completion in completions]


def llamacpp(thinking: Any) -> EngineSettings:
    options = {"chat_template": TEACHES, "instances": 1}
    return EngineSettings.model_validate({"spec": "llamacpp:smollm2", "options": options, "thinking": thinking})


def test_llama_cpp_thinks_apart() -> None:
    thought, cut, chosen = answers(
        llamacpp({"effort": "low"}),
        asked(sampling=Sampling(temperature=0, max_tokens=40, logprobs=2)),
        asked(sampling=Sampling(temperature=0, max_tokens=4)),
        asked(choice=("yes", "no")),
    )
    assert (thought.text, thought.reasoning) == ("5", "Four and one make five.")
    assert thought.logprobs and thought.logprobs[0][0] == "5"
    assert (cut.text, cut.finish_reason) == ("", CUT_WHILE_THINKING)
    assert cut.reasoning.startswith("Four and one")
    assert chosen.text in ("yes", "no") and not chosen.reasoning


def test_llama_cpp_has_room_for_thinking_and_leaves_it_out() -> None:
    [roomy] = answers(llamacpp({"tokens": 30}), asked(sampling=Sampling(temperature=0, max_tokens=4)))
    assert (roomy.text, roomy.reasoning) == ("5", "Four and one make five.")
    for thinking in ("off", "keep"):  # it does not think where a template asks, and nobody says so
        [plain] = answers(llamacpp(thinking), asked())
        assert (plain.text, plain.reasoning) == ("5", "")


def test_what_is_asked_of_thinking_is_in_the_name() -> None:
    names = {
        engine_name(llamacpp(thinking)) for thinking in ("keep", "off", {"effort": "low"}, {"effort": "high"}, "drop")
    }
    assert len(names) == 4  # what is done with it afterwards is not


def test_a_template_that_opens_a_block() -> None:
    begun = begun_thinking("<|im_start|>assistant\n<think>\n", MARKS)
    assert begun == "<think>\n"
    assert begun_thinking("<think>\n\n</think>\n\n", MARKS) == begun_thinking("assistant\n", MARKS) == ""
    assert whole_turn("hm</think>yes", begun, MARKS, False) == "<think>\nhm</think>yes"
    assert whole_turn("<think>\nhm", begun, MARKS, False) == "<think>\nhm"
    assert whole_turn('{"a": 1}', begun, MARKS, True) == '{"a": 1}'
    assert whole_turn("yes", "", MARKS, False) == "yes"


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny-thinker"), OPENS)


def vllm(folder: Path, thinking: Any = "keep", **options: Any) -> EngineSettings:
    options = {"max_model_len": 256, "max_num_seqs": 4, **options}
    return EngineSettings.model_validate({"spec": f"vllm:{folder}", "options": options, "thinking": thinking})


@pytest.mark.vllm
@missing_vllm
def test_vllm_thinks_apart(thinker: Path) -> None:
    short = Sampling(max_tokens=12, logprobs=2)
    cut, chosen = answers(vllm(thinker), asked(sampling=short), asked(choice=("yes", "no")))
    assert (cut.text, cut.finish_reason) == ("", CUT_WHILE_THINKING)
    assert cut.reasoning
    assert chosen.text in ("yes", "no")
    [plain] = answers(vllm(thinker, "off"), asked(sampling=short))
    assert plain.text and not plain.reasoning and plain.logprobs


@pytest.mark.vllm
@missing_vllm
def test_vllms_own_parser_thinks_within_a_budget_and_then_keeps_to_the_form(thinker: Path) -> None:
    settings = vllm(thinker, {"tokens": 8}, reasoning_parser="deepseek_r1")
    request = asked(choice=("yes", "no"), sampling=Sampling(max_tokens=8, logprobs=2))
    [chosen] = answers(settings, request)
    assert chosen.text in ("yes", "no") and chosen.reasoning
    assert chosen.logprobs and "".join(token for token, *_ in chosen.logprobs).strip().startswith(chosen.text)
    with pytest.raises(InputError, match="reasoning_parser 'nothing'"):
        answers(vllm(thinker, reasoning_parser="nothing"), request)
