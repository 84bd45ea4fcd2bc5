"""Settings: one model for YAML, command line and flow parameters, and errors that say what to do."""

from pathlib import Path
from typing import Any

import pytest

from synthmill.schemas.calls import Frozen
from synthmill.schemas.dialogue_settings import DialogueSettings
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings import EngineSettings, RunSettings
from synthmill.schemas.settings_files import read_settings
from synthmill.schemas.synthesize_settings import SynthesizeSettings


@pytest.mark.parametrize(
    ("spec", "kind", "model", "url"),
    [
        ("openai:gpt-4o-mini", "openai", "gpt-4o-mini", None),
        ("openai:org/m:7b@http://127.0.0.1:8000/v1/", "openai", "org/m:7b", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1", "openai", "", "http://127.0.0.1:8000/v1"),
        ("Qwen/Qwen2.5-7B-Instruct", "vllm", "Qwen/Qwen2.5-7B-Instruct", None),
        ("/models/a.gguf", "llamacpp", "/models/a.gguf", None),
        ("llamacpp:smollm2", "llamacpp", "smollm2", None),
        ("replay:calls.recording", "replay", "calls.recording", None),
    ],
)
def test_engines_are_named_in_one_string(spec: str, kind: str, model: str, url: str | None) -> None:
    engine = EngineSettings.model_validate(spec)
    assert (engine.kind, engine.model, engine.base_url) == (kind, model, url)


def test_a_file_and_overrides_make_settings(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("source: prompts.jsonl\nengines: {teacher: llamacpp:smollm2}\nanswers: {count: 8}\n")
    overrides = {"engines.teacher.concurrency": "4", "source.limit": "5", "answers.temperature": "0.5"}
    settings = read_settings(SynthesizeSettings, file, overrides)
    assert settings.engines["teacher"].concurrency == 4
    assert (settings.source.path, settings.source.limit) == ("prompts.jsonl", 5)
    assert (settings.answers.count, settings.answers.temperature) == (8, 0.5)
    assert settings.engine("student") == settings.engines["teacher"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"sauce": "a.jsonl"}, "sauce: no such setting"),
        ({"answers.count": "many"}, "answers.count: .*integer.*'many'"),
        ({"answers.count": "2", "answers.min_answers": "3"}, "min_answers is 3, but only 2"),
        ({"engines.teacher": "gpt"}, "no engine is called 'gpt'; expected openai:MODEL"),
        ({"engines.teacher": "openai:m@http://me:secret@host/v1"}, "the address carries a secret"),
        ({"engines.teacher": "openai:m@http://host/v1?access_token=secret@"}, "the address carries a secret"),
        (
            {"engines.teacher": "vllm:a/b", "engines.teacher.options": {"hf_token": "secret@"}},
            "hf_token holds a secret",
        ),
        ({"engines.teacher": "openai:m@127.0.0.1:8000/v1"}, "an address without http://"),
        ({"engines.teacher": "openai:m@ftp://x/v1"}, "an address without http://"),
        ({"engines.teacher": "openai:m@http://127.0.0.1:port/v1"}, "is no address of a server"),
        ({"engines.teacher": "openai:m", "engines.teacher.timeout_s": float("inf")}, "timeout_s: .*finite"),
        ({"answers.temperature": float("nan")}, "answers.temperature"),
        ({"seed": 1 << 70}, "seed: "),
        ({"engines.techer": "llamacpp:smollm2"}, "engines.techer"),
    ],
)
def test_wrong_settings_say_what_was_found_and_expected(overrides: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        read_settings(SynthesizeSettings, None, {"source": "a.jsonl", **overrides})
    assert "secret@" not in error.value.message


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"options": {"extra_headers": {"Authorization": "Bearer abc"}}}, "extra_headers.Authorization holds a secret"),
        ({"options": {"backends": [{"api_key": "abc"}]}}, "backends.0.api_key holds a secret"),
        ({"options": {"api_key": ["sk-abc"]}}, "api_key holds a secret"),
        ({"options": {"token": {"value": "sk-abc"}}}, "token holds a secret"),
        ({"options": {"apiKey": "abc"}}, "apiKey holds a secret"),
        ({"options": {"extra_headers": {"Cookie": "abc"}}}, "extra_headers.Cookie holds a secret"),
        ({"spec": "replay:calls.jsonl", "options": {"a": 1}}, "options mean nothing to replay"),
        ({"spec": f"vllm:{Path(__file__).parent}", "revision": "x"}, "revision means nothing to the folder"),
        ({"options": {"proxy": "http://user:word@host:1/"}}, "proxy holds a secret"),
        ({"spec": "llamacpp:smollm2", "timeout_s": 5}, "timeout_s means nothing to llamacpp; it belongs to openai"),
        ({"spec": "llamacpp:smollm2", "revision": "x"}, "revision means nothing to llamacpp"),
        ({"replicas": 2}, "replicas means nothing to openai"),
        ({"spec": "vllm:a/b", "retries": 2}, "retries means nothing to vllm"),
        ({"concurrency": True}, "concurrency: expected a number (found true)"),
    ],
)
def test_settings_of_an_engine_that_hold_secrets_or_mean_nothing(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        read_settings(EngineSettings, None, {"spec": "openai:m@http://127.0.0.1:9/v1", **given})
    assert says in error.value.message


def test_what_only_looks_like_a_secret_is_an_option() -> None:
    options = {
        "response_format": {"schema": {"properties": {"token": {"type": "string"}, "password": {"description": "x"}}}},
        "template": "// a @ b",
    }
    options |= {"max_num_batched_tokens": 512, "include_stop_token": True}
    assert EngineSettings.model_validate({"spec": "openai:m", "options": options}).options == options


def test_true_is_no_number() -> None:
    with pytest.raises(InputError, match=r"budget\.requests: .*found True"):
        read_settings(RunSettings, None, {"budget": {"requests": True}})


def test_a_config_that_is_no_mapping_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        read_settings(SynthesizeSettings, tmp_path / "no.yaml", {})
    for content, says in (("- a\n", "expected a mapping"), ("a: [", "not valid YAML")):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(InputError, match=says):
            read_settings(SynthesizeSettings, tmp_path / "bad.yaml", {})


@pytest.mark.parametrize(
    ("model", "given"), [(SynthesizeSettings, {"source": "x"}), (DialogueSettings, {"applications": "x"})]
)
def test_one_setting_of_a_stage_leaves_the_others_at_their_defaults(model: type[Frozen], given: dict[str, str]) -> None:
    """A nested default is its class's own: {outputs: {max_tokens: 96}} must not lose the paper's temperature."""
    for name, value in model.model_validate(given):
        if isinstance(value, Frozen) and name != "source":
            assert value == type(value)(), name


@pytest.mark.parametrize("written", ["off", "{mode: off}", "'off'"])
def test_thinking_that_is_off_is_so_in_yaml(written: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"source: prompts.jsonl\nengines: {{teacher: {{spec: 'openai:m', thinking: {written}}}}}\n")
    assert read_settings(SynthesizeSettings, path, {}).engines["teacher"].thinking.mode == "off"
