"""Ray starts beside the Prefect server that a command has of its own, where a stage needs workers."""

from pathlib import Path
from typing import Any

from synthmill.flows.commands.run import needs_ray
from synthmill.flows.methods.pipeline import PipelineSettings, plan
from tests.conftest import ChatServer


def test_ray_starts_early_only_where_workers_ask(tmp_path: Path, server: ChatServer) -> None:
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
