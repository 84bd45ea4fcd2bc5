"""Who takes batches: OpenAI's Batch API and its compatible twins, or somebody by hand."""

import asyncio
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

from synthmill.schemas.errors import BatchPending, EngineError
from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.texts import loads
from synthmill.storage.batches import BatchRecord
from synthmill.storage.files import write_atomically
from synthmill.tasks.engines.batch_http import PAST, BatchHttp, NoReply, message_in
from synthmill.tasks.engines.refusals import OVERFLOW
from synthmill.tasks.engines.waits import backoff

Save = Callable[[BatchRecord], BatchRecord]
ENDPOINT = "/v1/chat/completions"
MARK = "synthmill_batch"
"""The name in a batch's metadata under which its handle stands."""
LISTED, PAGES = 100, 50


class Standing(NamedTuple):
    """How a batch is. fault: why the server took none of it. files: where its results are."""

    status: str
    ended: bool
    answered: int = 0
    fault: str = ""
    files: tuple[str, ...] = ()
    lines: int = 0


class Outcome(NamedTuple):
    """What became of one request. reply: as to a single request. again: whether asking again may help."""

    custom_id: str
    reply: bytes | None = None
    error: str = ""
    again: bool = False


class BatchServer(Protocol):
    """Takes files of requests and gives files of results. address: empty where there is none."""

    address: str

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def line(self, custom_id: str, body: dict[str, Any]) -> bytes:
        """A request as a line of the file, which ends it."""

    def outcome(self, line: bytes) -> Outcome:
        """Read a line of results; raises ValueError, KeyError, TypeError or AttributeError where it is none."""

    async def submit(self, record: BatchRecord, requests: Path, save: Save, known: Collection[str]) -> BatchRecord:
        """Submit a batch. save: called with all that is known, before and after everything that has an effect. known:
        the ids of other batches.
        """

    async def find(self, record: BatchRecord, known: Collection[str]) -> BatchRecord | None:
        """The batch that was about to be submitted when the run died; None where the server has none. known: the ids
        of other batches.
        """

    async def look(self, record: BatchRecord) -> Standing: ...

    async def fetch(self, standing: Standing, place: Path) -> None:
        """Write the results to `place`, whole."""


class OpenAIBatches:
    """POST /files, POST /batches, GET /batches/ID, GET /files/ID/content."""

    def __init__(self, settings: EngineSettings) -> None:
        self._http = BatchHttp(settings)
        self.address = self._http.url

    async def open(self) -> None:
        await self._http.open()

    async def close(self) -> None:
        await self._http.close()

    def line(self, custom_id: str, body: dict[str, Any]) -> bytes:
        return openai_line(custom_id, body)

    def outcome(self, line: bytes) -> Outcome:
        return openai_outcome(line)

    async def submit(self, record: BatchRecord, requests: Path, save: Save, known: Collection[str]) -> BatchRecord:
        from aiohttp import FormData

        def form() -> FormData:
            fields = FormData()
            fields.add_field("purpose", "batch")
            name = f"{record.handle}.jsonl"
            fields.add_field("file", requests.open("rb"), filename=name, content_type="application/jsonl")
            return fields

        file = await self._http.call("POST", "/files", form)
        record = save(record.model_copy(update={"state": "uploaded", "file_id": str(file["id"])}))
        body = {
            "input_file_id": record.file_id,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {MARK: record.handle},
        }
        return await submit_once(self._http, "/batches", {"json": body}, record, self, save, known)

    async def find(self, record: BatchRecord, known: Collection[str]) -> BatchRecord | None:
        after: dict[str, str] = {}
        for _ in range(PAGES):
            page = await self._http.call("GET", "/batches", params={"limit": str(LISTED), **after})
            batches = page.get("data") or []
            for batch in batches:
                if batch.get("input_file_id") == record.file_id:
                    return submitted(record, batch)
            oldest = min((batch.get("created_at") or 0 for batch in batches), default=0)
            if not page.get("has_more") or 0 < oldest < record.made_at - 3600:
                break
            after = {"after": str(batches[-1]["id"])}
        return None

    async def look(self, record: BatchRecord) -> Standing:
        batch = await self._http.call("GET", f"/batches/{record.batch_id}")
        status = str(batch.get("status"))
        counts = batch.get("request_counts") or {}
        answered, failed = (int(counts.get(name) or 0) for name in ("completed", "failed"))
        files = tuple(str(batch[name]) for name in ("output_file_id", "error_file_id") if batch.get(name))
        fault = ""
        if status == "failed":
            faults = (batch.get("errors") or {}).get("data") or []
            fault = "; ".join(
                message_in(error) + (f" (line {error['line']})" if error.get("line") else "") for error in faults[:3]
            )
            fault = fault or "it does not say why"
        ended = status in ("failed", "completed", "expired", "cancelled")
        return Standing(status, ended, answered, fault, files, answered + failed if status == "completed" else 0)

    async def fetch(self, standing: Standing, place: Path) -> None:
        def at_once(path: Path) -> None:
            path.touch()

        write_atomically(place, at_once)
        for number, file in enumerate(standing.files):
            only = len(standing.files) == 1 and number == 0
            await self._http.download(f"/files/{file}/content", place, standing.lines if only else 0)


async def submit_once(
    http: BatchHttp,
    path: str,
    options: dict[str, Any],
    record: BatchRecord,
    server: BatchServer,
    save: Save,
    known: Collection[str],
) -> BatchRecord:
    """Create a batch. Where no reply comes, the server's list says whether the batch was made, before it is tried
    again.
    """
    problem = ""
    for attempt in range(1, http.settings.retries + 2):
        try:
            return save(submitted(record, await http.call("POST", path, once=True, **options)))
        except NoReply as error:
            problem = str(error)
        await asyncio.sleep(backoff(attempt))
        if batch := await server.find(record, known):
            return save(batch)
    raise EngineError(f"{server.address}{path} takes no batch ({problem}); run the same command again to continue")


def submitted(record: BatchRecord, batch: dict[str, Any]) -> BatchRecord:
    """The record of a batch that the server has."""
    return record.model_copy(update={"state": "submitted", "batch_id": str(batch["id"])})


def openai_line(custom_id: str, body: dict[str, Any]) -> bytes:
    return orjson.dumps({"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}) + b"\n"


def openai_outcome(line: bytes) -> Outcome:
    """A line of an output or error file, of OpenAI's API or of `vllm run-batch`."""
    result = loads(line)
    custom_id = str(result["custom_id"])
    response = result.get("response") or {}
    status, reply, error = response.get("status_code"), response.get("body"), result.get("error")
    if reply and not error and status in (None, 200):
        return Outcome(custom_id, orjson.dumps(reply))
    message = message_in(error or reply or "no answer came")
    if not isinstance(status, int) or status == 200 or status in PAST or status >= 500:
        return Outcome(custom_id, error=f"engine_error: {status or 'not answered'}: {message}", again=True)
    return Outcome(custom_id, error=refusal(status, message))


def refusal(status: int | str, message: str) -> str:
    """Why a request was refused, as a drop says it."""
    overflow = any(sign in message.lower() for sign in OVERFLOW)
    return f"{'context_overflow' if overflow else 'refused'}: {status}: {message}"


class ByHand:
    """Nobody takes the requests: they are written to a file, for `vllm run-batch` or a server without the API."""

    address = ""

    def __init__(self, settings: EngineSettings) -> None:
        assert settings.batch and settings.batch.file
        self.file = settings.batch.file
        self._written: list[tuple[Path, int]] = []

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def line(self, custom_id: str, body: dict[str, Any]) -> bytes:
        return openai_line(custom_id, body)

    def outcome(self, line: bytes) -> Outcome:
        return openai_outcome(line)

    async def submit(self, record: BatchRecord, requests: Path, save: Save, known: Collection[str]) -> BatchRecord:
        number = len(self._written) + 1
        place = self.file if number == 1 else self.file.with_stem(f"{self.file.stem}-{number}")

        def copy(temporary: Path) -> None:
            shutil.copyfile(requests, temporary)

        write_atomically(place.expanduser().resolve(), copy)
        self._written.append((place, record.requests))
        return save(record)

    async def find(self, record: BatchRecord, known: Collection[str]) -> BatchRecord | None:
        return None

    async def look(self, record: BatchRecord) -> Standing:
        raise self.pending(record.engine)

    async def fetch(self, standing: Standing, place: Path) -> None:
        raise NotImplementedError

    def pending(self, engine: str) -> BatchPending:
        """The end of a run that has written what it would ask."""
        files = ", ".join(f"{place} ({count:,} requests)" for place, count in self._written)
        return BatchPending(
            f"{engine}: {files}; have them answered, for instance with `vllm run-batch`, give the results to "
            "`synthmill batch read`, and run the same command again"
        )
