"""What tests share: a local chat server, stores in temporary folders, three-line engines, and quiet surroundings."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.update(
    {"PREFECT_LOGGING_LEVEL": "CRITICAL", "PREFECT_LOGGING_TO_API_ENABLED": "false", "HF_HUB_OFFLINE": "1"}
)
for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "PREFECT_API_URL"):
    os.environ.pop(name, None)

import httpx
import orjson
import pytest
from hypothesis import settings as hypothesis_settings

from bench.serving import chat_server
from synthmill.flows.terminal.quiet import CHATTER_OFF, TELEMETRY_OFF
from synthmill.schemas.calls import Completion, Request
from synthmill.schemas.rows import Instruction
from synthmill.storage.artifacts import Store
from tests import command

for name, value in {**TELEMETRY_OFF, **CHATTER_OFF, "RAY_AUTH_MODE": "token"}.items():
    os.environ.setdefault(name, value)

hypothesis_settings.register_profile("synthmill", deadline=None)  # shared machines are slow at times
hypothesis_settings.load_profile("synthmill")

SHARED = Path(__file__).parent.parent.parent / "shared"


class ChatServer:
    """The local server: its address, its counts, and how it behaves."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root = url.removesuffix("/v1")

    @property
    def spec(self) -> str:
        return f"openai:local-model@{self.url}"

    def stats(self) -> dict[str, int]:
        return dict(httpx.get(f"{self.root}/stats").json())

    def set(self, **values: Any) -> None:
        httpx.post(f"{self.root}/set", params=values)


@pytest.fixture(scope="session")
def session_server() -> Iterator[ChatServer]:
    with chat_server("--latency-ms", "2", "--words", "12", "--context", "20000") as url:
        yield ChatServer(url)


@pytest.fixture
def server(session_server: ChatServer) -> Iterator[ChatServer]:
    """The chat server with its counts at zero and its default behaviour, which it has again for what comes after."""
    reset(session_server)
    yield session_server
    reset(session_server)


def reset(server: ChatServer) -> None:
    server.set(forget=1, latency_ms=2, sigma=0, fail_every=0, fail_status=500, fail_on="", retry_after="")
    server.set(fail_how="status", fail_from=0, usage="plain", thinks="", scores="plain", same="body", busy_at=0)


@pytest.fixture(autouse=True)
def under_prefect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows of tests with the mark `prefect` run under it."""
    monkeypatch.setattr(command, "UNDER_PREFECT", request.node.get_closest_marker("prefect") is not None)


@pytest.fixture
def own_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows start a Prefect server of their own, as they do for users who have none."""
    monkeypatch.setattr(command, "SHARED_PREFECT", False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    empty = Store(tmp_path / "store")
    empty.prepare()
    return empty


class Echo:
    """An engine of three lines: answers `answer(request, sample)` and counts requests. asked: (text, sample, count)."""

    samples_per_call = 1

    def __init__(self, answer: Callable[[Request, int], Any] | None = None, limit: int = 8, name: str = "echo") -> None:
        self.answer = answer or (lambda request, sample: f"{request.messages[-1].content} #{sample}")
        self.limit, self.name = limit, name
        self.asked: list[tuple[str, int, int]] = []
        self.in_flight = self.most_in_flight = 0

    async def open(self) -> None: ...

    def stop(self) -> None: ...

    def answered_before(self, request: Request) -> None: ...

    async def close(self) -> None: ...

    async def complete(self, request: Request, seed: int, count: int) -> Sequence[Completion]:
        import asyncio

        self.asked.append((request.messages[-1].content, request.sample, count))
        self.in_flight += count
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.001)
        self.in_flight -= count
        answers = [self.answer(request, request.sample + n) for n in range(count)]
        return [
            answer if isinstance(answer, Completion) else Completion(text=answer, completion_tokens=3)
            for answer in answers
        ]


def instructions(count: int, start: int = 0) -> list[Instruction]:
    return [Instruction(id=f"row-{n}", prompt=f"question {n}") for n in range(start, start + count)]


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def prompts(count: int) -> list[dict[str, str]]:
    return [{"id": f"row-{n}", "prompt": f"question {n}: why do birds draw circles?"} for n in range(count)]


Matrix = Callable[..., None]


@pytest.fixture
def matrix(record_property: Callable[[str, Any], None]) -> Matrix:
    """Add a line to the table of faults that is printed at the end."""

    def add(fault: str, then: str, rows: str, asked_again: int | str, in_flight: int) -> None:
        record_property("fault", [fault, then, rows, f"{asked_again} of {in_flight}"])

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    calls = [report for report in reports if report.when == "call"]
    lines = [value for report in calls for name, value in report.user_properties if name == "fault"]
    if lines:
        head = ["fault", "then", "rows in = out + dropped", "asked again, of in flight"]
        widths = [max(len(line[n]) for line in [head, *lines]) for n in range(len(head))]
        terminalreporter.section("faults")
        for line in [head, ["-" * width for width in widths], *sorted(lines)]:
            cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
            terminalreporter.write_line("| " + " | ".join(cells) + " |")
