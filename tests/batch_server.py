"""A local server with files and batches, OpenAI's and Anthropic's, for tests: it answers late, out of order, partly,
with errors, and dies where it is told to. What it has is in a folder, so that it can be started again.

    python tests/batch_server.py FOLDER PORT

POST /set takes JSON: late_s (until a batch is done), refuse, break, expire, forget (every n-th request of a batch is
refused with 400, fails with 500, is left to expire, has no line at all), status (the batch's own, at its end), die (in
what it exits: files, batches, content; before it replies, and once), no_list (404 for the list of batches), single_s
(until a single call is answered).
GET /stats: batches, requests in them, the custom ids that stand in two batches, and single calls.
"""

import asyncio
import os
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from bench.chat_server import completion

WORDS = 12
DEFAULTS = {
    "late_s": 0.0,
    "refuse": 0,
    "break": 0,
    "expire": 0,
    "forget": 0,
    "status": "",
    "die": "",
    "no_list": 0,
    "single_s": 0.0,
}


def message(body: dict[str, Any], number: int) -> dict[str, Any]:
    """The answer to a request for a message: the same words as to a chat, or the input of the tool that is forced.
    number: of the equal requests before it; nothing else tells samples apart.
    """
    turns = [*body.get("system", ()), *(block for turn in body["messages"] for block in turn["content"])]
    messages = [{"role": "user", "content": block["text"]} for block in turns]
    chat: dict[str, Any] = {"messages": messages, "seed": number}
    if "tool_choice" in body:
        chat["response_format"] = {"type": "json_schema", "json_schema": {"schema": body["tools"][0]["input_schema"]}}
    text = completion(chat, WORDS)["choices"][0]["message"]["content"]
    block: dict[str, Any] = {"type": "text", "text": text}
    if "tool_choice" in body:
        block = {"type": "tool_use", "id": "toolu_1", "name": body["tool_choice"]["name"], "input": orjson.loads(text)}
    usage = {"input_tokens": 9, "output_tokens": 5}
    return {"type": "message", "content": [block], "stop_reason": "end_turn", "usage": usage}


class Server:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        state = folder / "state.json"
        self.state: dict[str, Any] = orjson.loads(state.read_bytes()) if state.exists() else {}
        self.state.setdefault("set", dict(DEFAULTS))
        self.state.setdefault("batches", [])
        self.state.setdefault("single", 0)
        self.equal: Counter[bytes] = Counter()  # single calls for a message so far

    def save(self) -> None:
        temporary = self.folder / "state.tmp"
        temporary.write_bytes(orjson.dumps(self.state))
        temporary.rename(self.folder / "state.json")

    def die(self, where: str) -> None:
        if self.state["set"]["die"] == where:
            self.state["set"]["die"] = ""
            self.save()
            os._exit(9)

    async def set(self, request: web.Request) -> web.Response:
        self.state["set"].update(await request.json())
        self.save()
        return web.json_response({})

    async def stats(self, request: web.Request) -> web.Response:
        ids: Counter[str] = Counter()
        for batch in self.state["batches"]:
            ids.update(line["custom_id"] for line in self.lines(batch))
        again = sum(count - 1 for count in ids.values())
        numbers = {"batches": len(self.state["batches"]), "requests": ids.total(), "again": again}
        return web.json_response(numbers | {"single": self.state["single"], "pid": os.getpid()})

    def lines(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        file = self.folder / batch["input_file_id"]
        return [orjson.loads(line) for line in file.read_bytes().splitlines()]

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "local-model", "object": "model"}]})

    async def chat(self, request: web.Request) -> web.Response:
        self.state["single"] += 1
        await asyncio.sleep(self.state["set"]["single_s"])
        return web.json_response(completion(await request.json(), WORDS))

    async def upload(self, request: web.Request) -> web.Response:
        fields = await request.post()
        assert fields["purpose"] == "batch"
        name = f"file-{len(list(self.folder.iterdir()))}-{time.time_ns()}"
        (self.folder / name).write_bytes(fields["file"].file.read())  # type: ignore[union-attr]
        self.die("files")
        return web.json_response({"id": name, "object": "file", "purpose": "batch"})

    async def create(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert body["completion_window"] == "24h" and body["endpoint"] == "/v1/chat/completions"
        number = len(self.state["batches"])
        batch = {"id": f"batch_{number}", "created_at": int(time.time()), "made": time.time(), **body}
        lines = self.lines(batch)
        assert len({line["custom_id"] for line in lines}) == len(lines)
        batch["total"] = len(lines)
        self.state["batches"].append(batch)
        self.save()
        self.die("batches")
        return web.json_response(self.shown(batch))

    def shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        told = self.state["set"]
        if "outcome" not in batch and time.time() - batch["made"] >= told["late_s"]:
            self.finish(batch)
        done = batch.get("outcome", {"status": "in_progress", "request_counts": {"total": batch["total"]}})
        return {name: batch[name] for name in ("id", "created_at", "input_file_id")} | {"object": "batch"} | done

    def finish(self, batch: dict[str, Any]) -> None:
        told = self.state["set"]
        good, bad = [], []

        def every(name: str, number: int) -> bool:
            return bool(told[name]) and number % told[name] == 0

        for number, line in enumerate(self.lines(batch), 1):
            entry = {"id": f"r{number}", "custom_id": line["custom_id"], "error": None}
            if every("forget", number):
                continue
            if every("refuse", number):
                error = {"error": {"message": "refused as told"}}
                bad.append({**entry, "response": {"status_code": 400, "request_id": "q", "body": error}})
            elif every("break", number):
                error = {"error": {"message": "broken as told"}}
                bad.append({**entry, "response": {"status_code": 500, "request_id": "q", "body": error}})
            elif every("expire", number):
                error = {"code": "batch_expired", "message": "not reached in time"}
                bad.append({**entry, "response": None, "error": error})
            else:
                body = completion(line["body"], WORDS)
                good.append({**entry, "response": {"status_code": 200, "request_id": "q", "body": body}})
        status = told["status"] or ("expired" if told["expire"] else "completed")
        if status == "failed":
            errors = {"data": [{"code": "invalid", "message": "no such model", "line": 1}]}
            batch["outcome"] = {"status": "failed", "errors": errors}
        else:
            good.sort(key=lambda entry: entry["custom_id"][::-1])  # out of order
            counts = {"total": batch["total"], "completed": len(good), "failed": len(bad)}
            batch["outcome"] = {"status": status, "request_counts": counts}
            for name, entries in (("output_file_id", good), ("error_file_id", bad)):
                if entries:
                    file = f"{batch['id']}-{name}"
                    (self.folder / file).write_bytes(b"".join(orjson.dumps(entry) + b"\n" for entry in entries))
                    batch["outcome"][name] = file
        told.update({"refuse": 0, "break": 0, "expire": 0, "forget": 0, "status": ""})  # once
        self.save()

    async def look(self, request: web.Request) -> web.Response:
        return web.json_response(self.shown(self.state["batches"][int(request.match_info["id"].split("_")[1])]))

    async def list(self, request: web.Request) -> web.Response:
        if self.state["set"]["no_list"]:
            return web.json_response({"error": {"message": "no list"}}, status=404)
        batches = [self.shown(batch) for batch in reversed(self.state["batches"])]
        after = request.query.get("after")
        start = next((n + 1 for n, batch in enumerate(batches) if batch["id"] == after), 0)
        page = batches[start : start + 2]  # small pages
        return web.json_response({"object": "list", "data": page, "has_more": start + 2 < len(batches)})

    async def content(self, request: web.Request) -> web.StreamResponse:
        data = (self.folder / request.match_info["id"]).read_bytes()
        response = web.StreamResponse()
        response.content_length = len(data)
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        await asyncio.sleep(0.01)
        self.die("content")
        await response.write(data[len(data) // 2 :])
        return response

    async def create_messages(self, request: web.Request) -> web.Response:
        assert request.headers["anthropic-version"] and request.headers["x-api-key"]
        requests = (await request.json())["requests"]
        number = len(self.state["batches"])
        file = f"file-{number}-{time.time_ns()}"
        lines = [{"custom_id": entry["custom_id"], "body": entry["params"]} for entry in requests]
        (self.folder / file).write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        batch = {"id": f"msgbatch_{number}", "made": time.time(), "total": len(lines), "input_file_id": file}
        self.state["batches"].append(batch)
        self.save()
        self.die("batches")
        return web.json_response(self.message_batch(batch))

    def message_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        told = self.state["set"]
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        ended = "results" in batch or time.time() - batch["made"] >= told["late_s"]
        if ended and "results" not in batch:
            equal: Counter[bytes] = Counter()
            batch["results"] = []
            for number, line in enumerate(self.lines(batch), 1):
                body = orjson.dumps(line["body"])
                batch["results"].append(self.message_result(number, line, equal[body]))
                equal[body] += 1
            told.update({"refuse": 0, "break": 0, "expire": 0})
            self.save()
        for entry in batch.get("results", ()):
            counts[entry["result"]["type"]] += 1
        if not ended:
            counts["processing"] = batch["total"]
        made = datetime.fromtimestamp(batch["made"], UTC).isoformat()
        status = "ended" if ended else "in_progress"
        return {"id": batch["id"], "created_at": made, "processing_status": status, "request_counts": counts}

    def message_result(self, number: int, line: dict[str, Any], equal: int) -> dict[str, Any]:
        told = self.state["set"]
        if told["refuse"] and number % told["refuse"] == 0:
            error = {"type": "error", "error": {"type": "invalid_request_error", "message": "refused as told"}}
            return {"custom_id": line["custom_id"], "result": {"type": "errored", "error": error}}
        if told["break"] and number % told["break"] == 0:
            error = {"type": "error", "error": {"type": "overloaded_error", "message": "broken as told"}}
            return {"custom_id": line["custom_id"], "result": {"type": "errored", "error": error}}
        if told["expire"] and number % told["expire"] == 0:
            return {"custom_id": line["custom_id"], "result": {"type": "expired"}}
        return {
            "custom_id": line["custom_id"],
            "result": {"type": "succeeded", "message": message(line["body"], equal)},
        }

    async def one_message(self, request: web.Request) -> web.Response:
        self.state["single"] += 1
        body = await request.read()
        self.equal[body] += 1
        return web.json_response(message(orjson.loads(body), self.equal[body] - 1))

    async def look_messages(self, request: web.Request) -> web.Response:
        number = int(request.match_info["id"].split("_")[1])
        return web.json_response(self.message_batch(self.state["batches"][number]))

    async def list_messages(self, request: web.Request) -> web.Response:
        batches = [self.message_batch(batch) for batch in reversed(self.state["batches"])]
        return web.json_response({"data": batches, "has_more": False, "last_id": None})

    async def message_results(self, request: web.Request) -> web.Response:
        batch = self.state["batches"][int(request.match_info["id"].split("_")[1])]
        lines = [orjson.dumps(entry) + b"\n" for entry in reversed(batch["results"])]
        self.die("content")
        return web.Response(body=b"".join(lines))

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        app.add_routes(
            [
                web.post("/set", self.set),
                web.get("/stats", self.stats),
                web.get("/v1/models", self.models),
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/files", self.upload),
                web.post("/v1/batches", self.create),
                web.get("/v1/batches", self.list),
                web.get("/v1/batches/{id}", self.look),
                web.get("/v1/files/{id}/content", self.content),
                web.post("/v1/messages", self.one_message),
                web.post("/v1/messages/batches", self.create_messages),
                web.get("/v1/messages/batches", self.list_messages),
                web.get("/v1/messages/batches/{id}", self.look_messages),
                web.get("/v1/messages/batches/{id}/results", self.message_results),
            ]
        )
        return app


if __name__ == "__main__":
    web.run_app(Server(Path(sys.argv[1])).app(), host="127.0.0.1", port=int(sys.argv[2]), print=None)
