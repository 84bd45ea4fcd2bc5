"""A page is opened where that is wanted, and asked about on a desktop's terminal only."""

import webbrowser
from pathlib import Path

import pytest

from synthmill.flows.terminal.opening import open_page


def test_a_page_is_opened_where_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or len(opened) == 1)
    monkeypatch.setenv("DISPLAY", ":0")
    page = tmp_path / "report.html"
    open_page(page, None)  # nobody sits at a terminal here
    open_page(page, False)
    assert not opened
    open_page(page, True)
    assert opened == [page.as_uri()] and not capsys.readouterr().err
    open_page(page, True)
    assert f"no browser can be started here; open {page}" in capsys.readouterr().err
