"""Anthropic's Message Batches: created with their requests, looked at, their results fetched as lines."""

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from synthmill.schemas.errors import EngineRefused
from synthmill.schemas.settings import EngineSettings
from synthmill.schemas.texts import loads
from synthmill.storage.batches import BatchRecord
from synthmill.storage.files import write_bytes
from synthmill.tasks.engines.anthropic_server import VERSION
from synthmill.tasks.engines.batch_http import BatchHttp, blocks, message_in
from synthmill.tasks.engines.batch_servers import Outcome, Save, Standing, refusal, submit_once, submitted
from synthmill.tasks.engines.served import check_key

PATH = "/v1/messages/batches"
LISTED, PAGES, CLOCKS_DIFFER_S = 100, 50, 300
LATER = ("api_error", "overloaded_error", "rate_limit_error", "timeout_error")
"""Errors that are not the request's fault."""


class AnthropicBatches:
    """POST /v1/messages/batches, GET /v1/messages/batches/ID and its results.

    A batch here has no name of ours. One that was made while nobody heard of it is known by its time and size; should
    it not be ours, its results answer none of our requests, which are then asked again.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._http = BatchHttp(settings, {"anthropic-version": VERSION, "Content-Type": "application/json"})
        self.address = self._http.url

    async def open(self) -> None:
        check_key(self._settings)
        await self._http.open()

    async def close(self) -> None:
        await self._http.close()

    def line(self, custom_id: str, body: dict[str, Any]) -> bytes:
        return orjson.dumps({"custom_id": custom_id, "params": body}) + b"\n"

    def outcome(self, line: bytes) -> Outcome:
        entry = loads(line)
        custom_id, result = str(entry["custom_id"]), entry["result"]
        kind = result["type"]
        if kind == "succeeded":
            return Outcome(custom_id, orjson.dumps(result["message"]))
        if kind == "errored":
            error = result.get("error") or {}
            error = error.get("error") or error
            name, message = str(error.get("type") or "error"), message_in(error)
            if name in LATER:
                return Outcome(custom_id, error=f"engine_error: {name}: {message}", again=True)
            return Outcome(custom_id, error=refusal(name, message))
        return Outcome(custom_id, error=f"engine_error: {kind}: not answered in time", again=True)

    async def submit(self, record: BatchRecord, requests: Path, save: Save, known: Collection[str]) -> BatchRecord:
        record = save(record.model_copy(update={"state": "uploaded"}))  # from now on it may exist
        before, after = b'{"requests":[', b"]}"
        options = {"body": lambda: blocks(requests, before, b",", after)}
        return await submit_once(self._http, PATH, options, record, self, save, known)

    async def find(self, record: BatchRecord, known: Collection[str]) -> BatchRecord | None:
        after: dict[str, str] = {}
        candidates: list[dict[str, Any]] = []
        for _ in range(PAGES):
            page = await self._http.call("GET", PATH, params={"limit": str(LISTED), **after})
            batches = page.get("data") or []
            fresh = [batch for batch in batches if time_of(batch) > record.made_at - CLOCKS_DIFFER_S]
            candidates += [
                batch
                for batch in fresh
                if batch["id"] not in known and sum(batch["request_counts"].values()) == record.requests
            ]
            if not page.get("has_more") or len(fresh) < len(batches):
                break
            after = {"after_id": str(page["last_id"])}
        if len(candidates) > 1:
            names = ", ".join(str(batch["id"]) for batch in candidates)
            raise EngineRefused(
                f"{self.address} has several batches that may be {record.handle} of this store ({names}); cancel those "
                "that are not, or delete the record, then run the same command again"
            )
        return submitted(record, candidates[0]) if candidates else None

    async def look(self, record: BatchRecord) -> Standing:
        batch = await self._http.call("GET", f"{PATH}/{record.batch_id}")
        counts = batch.get("request_counts") or {}
        ended = batch.get("processing_status") == "ended"
        cancelled = ended and int(counts.get("canceled") or 0) > 0
        status = "cancelled" if cancelled else str(batch.get("processing_status"))
        url = str(batch.get("results_url") or "")
        own = url.startswith(f"{self.address}/")  # our key goes nowhere else
        address = url.removeprefix(self.address) if own else f"{PATH}/{record.batch_id}/results"
        total = sum(int(count or 0) for count in counts.values())
        files = (address,) if ended else ()
        return Standing(status, ended, int(counts.get("succeeded") or 0), "", files, total if ended else 0)

    async def fetch(self, standing: Standing, place: Path) -> None:
        write_bytes(place, b"")
        await self._http.download(standing.files[0], place, standing.lines)


def time_of(batch: dict[str, Any]) -> float:
    return datetime.fromisoformat(str(batch["created_at"])).timestamp()
