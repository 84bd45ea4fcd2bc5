#!/usr/bin/env bash
# Ray Data LLM, HttpRequestProcessorConfig: an actor sends one request at a time, whatever the batch size; and an error
# 500 is not tried again, its body is the row's answer.
#
# The stage "first sends all requests" of a batch and then waits for them. What it collects are aiohttp's request
# managers, which do nothing until they are awaited, so the second request leaves when the first one's answer is there:
# the rate is actors / latency, and neither batch_size nor an open qps changes it. With max_retries the stage repeats
# 408, 429, 502, 503 and 504; a 500 with a JSON body passes as a response, and no row and no log says otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "ray[data]==2.60.0" aiohttp==3.14.5 pydantic==2.14.4
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import asyncio
import sys
import threading
import time

import ray
from aiohttp import web
from ray.data.llm import HttpRequestProcessorConfig, build_processor

print("ray", ray.__version__)
ROWS, LATENCY_S = 64, 0.05
in_flight = most = asked = 0


async def answer(request: web.Request) -> web.Response:
    global in_flight, most, asked
    body = await request.json()
    asked, in_flight = asked + 1, in_flight + 1
    most = max(most, in_flight)
    await asyncio.sleep(LATENCY_S)
    in_flight -= 1
    return web.json_response({"n": body["n"]}, status=500 if body["n"] == 0 else 200)


async def serve(ports: list[int], ready: threading.Event) -> None:
    application = web.Application()
    application.router.add_post("/", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    ports.append(site._server.sockets[0].getsockname()[1])
    ready.set()
    await asyncio.Event().wait()


ports, ready = [], threading.Event()
threading.Thread(target=lambda: asyncio.run(serve(ports, ready)), daemon=True).start()
ready.wait()
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
config = HttpRequestProcessorConfig(url=f"http://127.0.0.1:{ports[0]}/", batch_size=ROWS, concurrency=1, max_retries=3)
processor = build_processor(
    config,
    preprocess=lambda row: {"payload": {"n": row["n"]}},
    postprocess=lambda row: {"response": row["http_response"]["n"]},
)
began = time.monotonic()
responses = processor(ray.data.from_items([{"n": n} for n in range(ROWS)], override_num_blocks=1)).take_all()
print(f"{ROWS} rows in one batch: {most} in flight at most, {asked} requests, {time.monotonic() - began:.1f} s")
print("the row that got an error 500:", "an answer" if {"response": 0} in responses else "failed")
unchanged = most == 1 and asked == ROWS and len(responses) == ROWS and {"response": 0} in responses
sys.exit(0 if unchanged else "Ray Data's behaviour has changed: requests of a batch overlap, or a 500 is tried again")
PYTHON
