"""docs/python.md and the notebook do what they say, against the local chat server."""

import asyncio
import importlib.util
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tests.command import ROOT
from tests.conftest import ChatServer, prompts, write_jsonl

DOCUMENT = ROOT / "docs" / "python.md"
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
ADDRESS, EMBEDDED = "openai:m@http://localhost:8000/v1", "llamacpp:smollm2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "prompts.jsonl", [{**row, "topic": "birds"} for row in prompts(6)])
    return tmp_path


def test_every_block_of_the_page_runs(folder: Path, server: ChatServer) -> None:
    text = DOCUMENT.read_text()
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in re.finditer(r"```python\n(.*?)```", text, re.S):
        line = text[: block.start()].count("\n") + 1
        code = "\n" * line + block[1].replace(ADDRESS, server.spec)
        exec(compile(code, str(DOCUMENT), "exec"), names)
    assert names["record"].status == "finished" and names["ranks"]["rank"][0] == 1
    assert (folder / "out" / "README.md").is_file() and (folder / "split" / "README.md").is_file()


def notebook() -> dict[str, Any]:
    return dict(json.loads(NOTEBOOK.read_text()))


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in notebook()["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_was_run_from_top_to_bottom() -> None:
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and not [output for output in outputs if output["output_type"] == "error"]
    text = json.dumps(outputs)
    assert "calls sent" in text and "█" in NOTEBOOK.read_text() and "rows ->" not in text


def test_the_notebooks_cells_run_where_a_loop_runs(folder: Path, server: ChatServer) -> None:
    """As a kernel runs them, without IPython."""
    names: dict[str, Any] = {"__name__": "__main__"}

    async def run_cells() -> None:
        for number, cell in enumerate(code_cells(), 1):
            code = "".join(cell["source"]).replace(EMBEDDED, server.spec)
            with redirect_stdout(io.StringIO()):
                exec(compile(code, f"cell {number}", "exec"), names)
            await asyncio.sleep(0)

    asyncio.run(run_cells())
    assert (folder / "birds" / "README.md").is_file()


@pytest.mark.skipif(importlib.util.find_spec("nbclient") is None, reason="nbclient is not installed")
@pytest.mark.skipif(importlib.util.find_spec("ipykernel") is None, reason="ipykernel is not installed")
def test_the_notebook_runs_in_a_kernel(folder: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.reads(NOTEBOOK.read_text().replace(EMBEDDED, server.spec), as_version=4)
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    shown = [output for cell in book.cells for output in cell.get("outputs", ())]
    assert any("█" in output.get("data", {}).get("text/plain", "") for output in shown)
    assert not [output for output in shown if output.get("name") == "stderr" and "rows" in output["text"]]
