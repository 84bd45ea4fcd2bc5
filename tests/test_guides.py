"""The guides of docs/guides are true: their commands run from first to last, and errors are printed as they say."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import ROOT
from tests.conftest import ChatServer
from tests.guide_blocks import COMMAND, GUIDES, MODEL, blocks_of, run, run_guide

NOT_RUN = {
    "query-rewriter": ["the model's questions have to pass the checks, which a test's server cannot promise"],
    "schedules": ["it starts a server and a worker that stay; tests/flows/test_serving.py does"],
    "thinking-and-batches": [
        "a provider's batch takes up to a day, and a key",
        "it needs a GPU and a model's weights",
    ],
    "vllm": ["it needs a GPU and a model's weights"] * 2,
}
"""Blocks that no test runs, by guide, and why."""
TROUBLE = next(page for page in GUIDES if page.stem == "troubleshooting")
ERROR = re.compile(r"<!-- (?P<how>provoked|printed) by\s(?P<by>.*?)\s?-->\n```text\n(?P<text>.*?)```", re.S)
FEWEST_LETTERS = 15  # of a text in the source, for it to tell one error from another


@pytest.mark.parametrize("guide", [page for page in GUIDES if page != TROUBLE], ids=lambda page: page.stem)
def test_the_commands_of_a_guide_run(guide: Path, server: ChatServer, tmp_path: Path) -> None:
    assert len(blocks_of(guide)) > 2
    run_guide(guide, tmp_path, server.spec)


def test_what_is_not_run_is_known() -> None:
    reasons = {page.stem: [block.reason for block in blocks_of(page) if block.reason] for page in GUIDES}
    assert {page: listed for page, listed in reasons.items() if listed} == NOT_RUN


def test_errors_are_printed_as_the_guide_says(server: ChatServer, tmp_path: Path) -> None:
    provoked = [error for error in ERROR.finditer(TROUBLE.read_text()) if error["how"] == "provoked"]
    assert len(provoked) > 15
    for error in provoked:
        for command in filter(str.strip, COMMAND.split(error["by"])):
            _, printed = run(
                command.replace("MODEL@", "local-model@").replace("http://127.0.0.1:8000/v1", server.url), tmp_path
            )
        printed = one_line(printed.replace(server.url, MODEL.partition("@")[2]))
        assert re.search(pattern_of(error["text"]), printed), f"{error['text']}\n{printed}"


def test_other_errors_are_in_the_source() -> None:
    for error in ERROR.finditer(TROUBLE.read_text()):
        if error["how"] == "printed":
            text = one_line(error["text"]).removeprefix("error: ")
            source = (ROOT / error["by"]).read_text()
            assert any(re.search(pattern, text) for pattern in patterns_in(source)), f"{error['by']}: {text}"


def one_line(text: str) -> str:
    return " ".join(text.split())


def pattern_of(text: str) -> str:
    """A text of the guide, in which `...` stands for anything."""
    return re.escape(one_line(text)).replace(re.escape("..."), ".*")


def patterns_in(source: str) -> Iterator[str]:
    """The texts of a Python file that are long enough to tell one error from another; what is filled in is anything."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = [node.value]
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "" for part in node.values]
        else:
            continue
        if sum(map(len, parts)) >= FEWEST_LETTERS:
            yield "^" + "".join(re.escape(part) if part else ".*" for part in parts) + "$"
