"""Which Prefect server a command has: one that is named somewhere, or its own, which starts while Prefect is imported."""

from pathlib import Path

import pytest

from synthmill.flows.serving.server import may_be_configured


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
