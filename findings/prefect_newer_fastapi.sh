#!/usr/bin/env bash
# Prefect 3.7's server: it asks for any FastAPI below 1.0, and cannot be imported beside a current one.
#
# Prefect still bounds the length of two request bodies by an argument that pydantic 1 had. FastAPI took it along, with
# a warning, for years, and does not any more. Nothing shows it when Prefect is installed: the requirements are met, and
# clients, flows and workers run well. `prefect server start` ends with a TypeError, and whoever starts a server in the
# background, and waits for its health, waits in vain. An environment that pins Prefect has to pin FastAPI beside it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "prefect==3.7.7" "fastapi==0.165.0"
"$folder/venv/bin/pip" --disable-pip-version-check check
PREFECT_HOME="$folder/prefect" "$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import requires, version

import prefect

print("prefect", prefect.__version__, "asks for", *(line for line in requires("prefect") if line.startswith("fastapi")))
print("fastapi", version("fastapi"))


@prefect.task
def step():
    return 1


print("a task without a server:", step.fn())
try:
    from prefect.server.api.server import create_app  # noqa: F401
except TypeError as error:
    print("the server:", error)
    sys.exit(0)
sys.exit("Prefect's behaviour has changed: its server can be imported beside this FastAPI")
PYTHON
