"""A chat server in a thread that answers as a test's function says, and remembers what it was asked."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

Answer = Callable[[dict[str, Any]], Any]
MODEL = "odd"


class OddServer:
    """bodies, headers, queries: of the chat requests, in their order. models: what it lists."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.models = [MODEL]
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.queries: list[dict[str, str]] = []
        self.url = ""

    @property
    def spec(self) -> str:
        return f"openai:{MODEL}@{self.url}"

    def asked(self) -> list[dict[str, Any]]:
        """The bodies that were no probes."""
        return [body for body in self.bodies if body["messages"][-1]["content"][:5] != "Hello"]

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.queries.append(dict(request.query))
        answer = self.answer(body)
        answer = await answer if asyncio.iscoroutine(answer) else answer
        return answer if isinstance(answer, web.Response) else web.json_response(answer)

    async def list_models(self, request: web.Request) -> web.Response:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return web.json_response({"data": [{"id": name} for name in self.models]})


@contextmanager
def odd_server(answer: Answer, folder: str = "/v1") -> Iterator[OddServer]:
    """`with odd_server(lambda body: said("hi")) as server:`; the server is gone afterwards."""
    server = OddServer(answer)
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.add_routes(
            [web.post(f"{folder}/chat/completions", server.chat), web.get(f"{folder}/models", server.list_models)]
        )
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}{folder}"
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def said(text: str | None = "well", finish: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}


def refused(message: str, status: int = 400, headers: dict[str, str] | None = None, **error: Any) -> web.Response:
    """An error in OpenAI's form."""
    return web.json_response({"error": {"message": message, **error}}, status=status, headers=headers)


def events(*chunks: str, status: int = 200) -> web.Response:
    """Server-sent events, one per chunk."""
    text = "".join(f"data: {chunk}\n\n" for chunk in chunks)
    return web.Response(body=text.encode(), status=status, content_type="text/event-stream")
