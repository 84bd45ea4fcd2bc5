"""What `make peers` measures with: its counts and times are the server's, and every process of a command is seen."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from peers.contestants import CONTESTANTS, QUIET
from peers.harness import Figures
from peers.pages import BLOCK, PAGE, TABLES, asking, filled, killed
from peers.pictures import Group, bars
from peers.scenarios import JOBS
from tests.conftest import ChatServer

ROOT = Path(__file__).parent.parent
ASKS = """
import json, os, sys, time, urllib.request
def ask(n):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": str(n)}]}).encode()
    urllib.request.urlopen(urllib.request.Request(sys.argv[1] + "/chat/completions", body)).read()
for n in range(3):
    ask(n)
if len(sys.argv) > 2 and not os.fork():
    os.setsid()
    time.sleep(60)
ask(0)
time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 0)
"""


MEASURE = """
import json, sys
from pathlib import Path
from peers import harness
harness.AFTER_KILL_S = 0.1
harness.become_reaper()
url, kill_at, *command = sys.argv[1:]
figures = harness.measure(command, {}, Path(), harness.Server(url, 0), 10, int(kill_at))
print(json.dumps(figures._asdict()))
"""


def measured(server: ChatServer, folder: Path, *arguments: str, kill_at: int = 0) -> Figures:
    """Measure ASKS in a process of its own, because its children are all that is counted and ended."""
    command = [sys.executable, "-c", MEASURE, server.url, str(kill_at), sys.executable, "-c", ASKS, server.url]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([*command, *arguments], cwd=folder, env=variables, check=True, capture_output=True)
    return Figures(**json.loads(run.stdout))


def test_a_command_is_measured_by_the_servers_counts(tmp_path: Path, server: ChatServer) -> None:
    server.set(same="messages")
    figures = measured(server, tmp_path)
    stats = server.stats()
    assert (stats["total"], stats["unique"], stats["repeated"]) == (4, 3, 1)
    assert 0 < figures.first_s < figures.first_s + figures.asking_s < figures.wall_s
    assert figures.cpu_s > 0 and (figures.exit_code, figures.remaining) == (0, 0)


def test_what_a_killed_command_leaves_behind_is_counted_and_ended(tmp_path: Path, server: ChatServer) -> None:
    figures = measured(server, tmp_path, "30", kill_at=4)
    assert (figures.exit_code, figures.remaining, figures.timed_out) == (-9, 1, False)


def test_a_busy_server_refuses_all_for_a_while_and_ends_what_is_not_kept_alive(server: ChatServer) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}
    server.set(busy_at=2, busy_s=0.1)
    with httpx.Client(base_url=f"{server.url}/") as client:
        statuses = [client.post("chat/completions", json=body).status_code for _ in range(3)]
        answer = client.post("chat/completions", json=body)
        assert (statuses, answer.headers["retry-after"]) == ([200, 429, 429], "1")
        time.sleep(0.1)
        with socket.create_connection(("127.0.0.1", client.base_url.port)) as raw:
            raw.settimeout(5)
            raw.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"local-model" in raw.makefile("rb").read()  # which ends when the server closes
        assert client.post("chat/completions", json={**body, "messages": []}).status_code == 400
        assert client.post("chat/completions", json=body).status_code == 200


def test_the_tables_tell_what_did_not_end() -> None:
    figures = {"asking_s": 2.0, "wall_s": 3.0, "first_s": 0.5, "cpu_s": 1.0, "memory_mib": 50.0, "requests": 110}
    bare = {**figures, "contestant": "bare", "round": 0, "rows": 100, "exit_code": 0, "timed_out": False}
    hangs = {**bare, "contestant": "oumi", "rows": 50, "exit_code": -9, "timed_out": True}
    rows = list(asking([bare, hangs]))[2:]
    assert "| 50 | 1.00 |" in rows[0] and "| 25 | 0.50 |" in rows[1] and "50 (did not end)" in rows[1]
    end = {"before": 1000, "in_flight": 64, "remaining": 1, "twice": 64}
    assert "| 1,000 | 64 | 1 | 110 | 64 | 100 | 3.0 |" in list(killed([{**bare, **end}]))[2]


def test_a_picture_has_a_bar_for_each_number() -> None:
    picture = bars("rows", ("64", "256"), (Group("ours", (2.0, 4.0)), Group("theirs", (1.0, None))))
    assert picture.count("<rect") == 1 + 2 + 3 and ">4</text>" in picture


def test_every_peer_has_a_runner_and_its_pins() -> None:
    for contestant in CONTESTANTS:
        if not contestant.is_ours:
            jobs = {job for job in {"run", *JOBS.values()} if contestant.does(job)}
            assert jobs and not any("synthmill" in contestant.runner(job).read_text() for job in jobs)
        if not contestant.is_ours and contestant.name != "bare":
            pins = (ROOT / "peers" / "requirements" / f"{contestant.name}.txt").read_text()
            package = contestant.package.replace("-", "[-_]")
            assert re.search(rf"^{package}==", pins, re.M | re.I)
    assert QUIET["DO_NOT_TRACK"] == "1"


def test_the_page_shows_the_results_as_they_are() -> None:
    page = PAGE.read_text()
    assert {Path(block[2]).stem for block in BLOCK.finditer(page)} == {*TABLES, "versions"}
    assert filled(page) == page
