"""Which Prefect server a command has: one that is named somewhere, or its own, which starts while Prefect is imported,
and Ray where a stage needs it.
"""

from pathlib import Path
from typing import Any

import pytest

from synthmill.flows.commands.run import needs_ray
from synthmill.flows.methods.pipeline import PipelineSettings, plan
from synthmill.flows.serving.server import may_be_configured
from tests.conftest import ChatServer


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("home/profiles.toml", '[profiles.cloud]\nPREFECT_API_URL = "http://x/api"\n', True),
        ("home/profiles.toml", '[profiles.ephemeral]\nPREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"\n', False),
        ("prefect.toml", '[api]\nurl = "http://x/api"\n', True),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "http://x/api"\n', True),
        ("pyproject.toml", '[project]\ndependencies = ["prefect"]\n', False),
        (".env", "PREFECT_API_URL=http://x/api\n", True),
    ],
)
def test_a_file_that_may_name_a_server_is_seen(
    file: str, text: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    assert not may_be_configured()
    (tmp_path / "home").mkdir()
    (tmp_path / file).write_text(text)
    assert may_be_configured() is named
    (tmp_path / file).unlink()
    monkeypatch.setenv("PREFECT_API_URL", "http://x/api")
    assert may_be_configured()


def test_ray_starts_beside_it_only_where_workers_ask(tmp_path: Path, server: ChatServer) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "Why do mills turn?"}\n')
    settings = {
        "source": str(tmp_path / "in.jsonl"),
        "store": str(tmp_path / "store"),
        "engines": {"teacher": f"openai:m@{server.url}"},
        "steps": {"answer": {"stage": "ask", "prompt": "{{ prompt }}"}},
    }

    def needed(**changes: Any) -> bool:
        return needs_ray(plan(PipelineSettings.model_validate(settings | changes)))

    assert needed()
    assert not needed(workers=0)
    assert not needed(ray_address="10.0.0.1:6379")
    assert not needed(batch=True)
    assert not needed(steps={"one": {"stage": "filter", "where": "length(prompt) > 1"}})
