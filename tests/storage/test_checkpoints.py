"""Names and checkpoints: another one behind the same name is another model, and what is stored today is continued."""

from pathlib import Path

import pytest

from bench.serving import chat_server
from synthmill.schemas.errors import InputError, StoreError
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.checkpoints import settled_checkpoint
from synthmill.tasks.engines.engine import engine_name, resolve
from tests.command import synthmill
from tests.conftest import ChatServer, Echo, instructions, prompts, write_jsonl
from tests.tasks.test_driver import Chain, drive


def name_at(url: str, store: Store, **more: str) -> str:
    return engine_name(resolve(EngineSettings.model_validate({"spec": f"openai:local-model@{url}", **more}), store))


def test_two_checkpoints_behind_one_name_are_two_models(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(3))
    for root, asked in (("ORG/first", 3), ("ORG/second", 3), ("ORG/first", 0)):
        with chat_server("--latency-ms", "2", "--root", root) as url:
            server = ChatServer(url)
            sample = ("sample", "in.jsonl", "--engine", server.spec, "--out", "out.jsonl")
            synthmill(*sample, cwd=tmp_path)
            assert server.stats()["total"] == asked


def test_a_revision_is_part_of_a_servers_name_and_asked_for_no_other(store: Store) -> None:
    with chat_server("--root", "/models/step-100") as url:
        assert name_at(url, store, revision="step-200") == "openai:local-model@step-200"
        name = name_at(url, store)
        assert name.startswith("openai:local-model@step-100-") and "/" not in name
    assert name_at(url, store) == name  # the server is gone: what it said last


def test_a_server_that_says_nothing_of_its_weights_is_called_by_its_model(store: Store, server: ChatServer) -> None:
    assert name_at(server.url, store) == "openai:local-model"
    assert not (store.root / "engines.json").exists()


def test_answers_stored_under_the_name_alone_are_those_of_the_checkpoint_that_is_there_now(store: Store) -> None:
    drive(Chain(turns=1), Echo(name="openai:local-model"), store.calls, instructions(2))
    with chat_server("--root", "ORG/first") as url:
        assert name_at(url, store) == "openai:local-model"
    with chat_server("--root", "ORG/second") as url:
        assert name_at(url, store) == "openai:local-model@ORG/second"
    with chat_server("--root", "ORG/first") as url:
        assert name_at(url, store) == "openai:local-model"


def test_a_damaged_memory_of_checkpoints_is_named(store: Store) -> None:
    assert settled_checkpoint(store, "openai:m", "there", "ORG/a") == "ORG/a"
    assert settled_checkpoint(store, "openai:m", "there", None) == "ORG/a"
    (store.root / "engines.json").write_text("{")
    with pytest.raises(StoreError, match=r"engines.json is damaged"):
        settled_checkpoint(store, "openai:m", "there", "ORG/b")


@pytest.mark.vllm
def test_a_hub_id_is_resolved_to_the_commit_that_the_cache_has(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    settings = EngineSettings.model_validate("vllm:ORG/NAME")
    assert engine_name(resolve(settings, store)) == "vllm:ORG/NAME@main"
    refs = tmp_path / "models--ORG--NAME" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("0123abcd")
    assert engine_name(resolve(settings, store)) == "vllm:ORG/NAME@0123abcd"
    fixed = EngineSettings.model_validate({"spec": "vllm:ORG/NAME", "revision": "v1"})
    assert engine_name(resolve(fixed, store)) == "vllm:ORG/NAME@v1"


def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match=r"^there is no folder /models/none, and it is no Hub id; expected"):
        resolve(EngineSettings.model_validate("vllm:/models/none"), store)
