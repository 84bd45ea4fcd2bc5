#!/usr/bin/env bash
# Prefect: a task with tags asks the first server of its process, whichever server is configured now.
#
# Before a task with tags runs, Prefect asks its server for slots under the limits of these tags. It does so through a
# service that is made once for each set of tags in a process, and opens its client then. A later flow in the same
# process, under another PREFECT_API_URL, is recorded at that address; for its slots it still asks the first one. Where
# the first server has ended (a test's own, say), every such task fails with "Unable to acquire concurrency slots", as
# though the server in use were down. It shows only when five seconds have passed: until then, that the tags have no
# limits is remembered, and nobody is asked. A task without tags is well, though the events of its run go to the first
# server, too, and are lost.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "prefect==3.7.7" "fastapi==0.136.3" "sqlalchemy<2.1"
export PREFECT_HOME="$folder/prefect" PREFECT_LOGGING_LEVEL=CRITICAL PREFECT_LOGGING_INTERNAL_LEVEL=CRITICAL
export PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_CLIENT_MAX_RETRIES=0
timeout 240 "$folder/venv/bin/python" - <<'PYTHON'
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from socket import socket
from urllib.request import urlopen

import prefect
from prefect import flow, task
from prefect.settings import PREFECT_API_URL, temporary_settings


@task
def step():
    return 1


@task(tags=["paid"])
def tagged_step():
    return 1


@flow
def steps(tagged):
    return (tagged_step if tagged else step)()


@contextmanager
def server():
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port, "--no-ui"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/api"
        for _ in range(300):
            try:
                urlopen(f"{url}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        with temporary_settings({PREFECT_API_URL: url}):
            yield
    finally:
        process.terminate()
        process.wait(30)


def outcome(tagged):
    try:
        return steps(tagged)
    except Exception as error:
        return str(error)


print("prefect", prefect.__version__)
with server():
    first = outcome(True)
time.sleep(6)
with server():
    plain, tagged = outcome(False), outcome(True)
print("the first server:                 a task with tags:", first)
print("another, the first one has ended: a task without tags:", plain, "; one with tags:", tagged)
unchanged = (first, plain) == (1, 1) and "Unable to acquire concurrency slots" in str(tagged)
if not unchanged:
    print("Prefect's behaviour has changed: the slots are asked of the server in use")
sys.stdout.flush()
os._exit(not unchanged)  # at an ordinary exit, Prefect waits a minute for the server that has ended
PYTHON
