"""A run goes on when its engine learns how the server wants to be asked: it is planned anew, and shows that plan."""

from pathlib import Path
from typing import Any

import pytest

import synthmill
from tests.command import synthmill as command
from tests.conftest import prompts, write_jsonl
from tests.odd_server import odd_server, refused, said

PIPELINE = """
source: in.jsonl
engines: {{teacher: {spec}}}
steps:
  title: {{stage: ask, prompt: "Title of {{{{ prompt }}}}", answer: {{title: string}}}}
publish: {{rows: {{from: title}}}}
"""


def only_objects(body: dict[str, Any]) -> Any:
    form = body.get("response_format", {}).get("type")
    refuses = form == "json_schema"
    return refused(f"response_format {form} is not supported by this model") if refuses else said('{"title": "birds"}')


@pytest.mark.parametrize("way", ["python", "command"])
def test_a_run_learns_a_form_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    write_jsonl(tmp_path / "in.jsonl", prompts(3))
    monkeypatch.chdir(tmp_path)
    with odd_server(only_objects) as server:
        Path("pipe.yaml").write_text(PIPELINE.format(spec=server.spec))
        if way == "python":
            assert synthmill.run("pipe.yaml", progress=False).status == "finished"
        else:
            out, err = command("run", "pipe.yaml", "--workers", 0, "--no-prefect", cwd=tmp_path)
            assert "structure=json_object from now on" in err
            assert "birds" in out and "made by run" in out
        asked = len(server.bodies)
        assert synthmill.run("pipe.yaml", progress=False).status == "finished"
        assert len(server.bodies) == asked
