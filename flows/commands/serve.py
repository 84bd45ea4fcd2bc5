"""`synthmill serve`: a Prefect server with its page, a work pool, every deployment, and a worker; until `--stop`.

All its files lie in `.prefect/` of the folder it was started in; commands that run there use that server.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from synthmill.flows.methods import Method, identifier, methods
from synthmill.flows.serving.server import STATE, wait_for
from synthmill.flows.terminal.quiet import TELEMETRY_OFF
from synthmill.schemas.errors import EngineError, InputError
from synthmill.storage.files import write_json, write_text
from synthmill.storage.runs import process_start

POOL = "local"
STOP_S = 20
PORT = 4200
ZOMBIE_S = 120
UTC = ("UTC", "Etc/UTC", "GMT", "Etc/GMT")
ENDED = ("Completed", "Failed", "Cancelled", "Crashed")


def serve(port: int) -> None:
    """Start what is not running, deploy, and print where the page is. Raises InputError, EngineError."""
    if STATE.exists():
        if url := served_url():
            print(f"it is running already: {url.removesuffix('/api')}")
            return
        print("a part of what was served from here is gone: starting all anew", file=sys.stderr, flush=True)
        stop()
    home = STATE.parent.resolve()
    home.mkdir(exist_ok=True)
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise InputError(f"port {port} is taken; name another with --port")
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        **TELEMETRY_OFF,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_RUNNER_HEARTBEAT_FREQUENCY": "30",
    }
    processes: dict[str, subprocess.Popen[bytes]] = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # `except` below ends what was started
    try:
        print("starting a Prefect server ...", file=sys.stderr, flush=True)
        server = ("server", "start", "--host", "127.0.0.1", "--port", str(port))
        processes["server"] = start_prefect(server, environment, home / "server.log")
        wait_for(f"{url}/health", processes["server"])
        print("deploying ...", file=sys.stderr, flush=True)
        run_prefect(("work-pool", "create", POOL, "--type", "process", "--overwrite"), environment)
        run_prefect(("work-pool", "set-concurrency-limit", POOL, "1"), environment)
        run_prefect(("deploy", "--all", "--prefect-file", str(write_deployments(home))), environment)
        watch_for_zombies(url)
        processes["worker"] = start_prefect(("worker", "start", "--pool", POOL), environment, home / "worker.log")
        pids = {name: [process.pid, process_start(process.pid)] for name, process in processes.items()}
        write_json(STATE, {"url": url, "processes": pids})
    except BaseException:
        for process in processes.values():
            end_process_group(process.pid, process_start(process.pid))
        raise
    print(f"page     http://127.0.0.1:{port}/deployments\nlogs     {home}\nend it   synthmill serve --stop")


def write_deployments(home: Path) -> Path:
    """Write a file of all deployments: those of prefect.yaml, where this folder has one, and one of every method,
    without a schedule. Raises InputError for settings that Prefect would change.
    """
    file = Path("prefect.yaml")
    project = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else project_here()
    for deployment in project["deployments"]:
        check_templates(deployment)
        note_local_times(deployment)
    project["deployments"] += [ad_hoc(method) for method in methods().values() if not method.fault]
    path = home / "deployments.yaml"
    write_text(path, yaml.safe_dump(project, sort_keys=False, allow_unicode=True))
    return path


def check_templates(deployment: dict[str, Any]) -> None:
    """Raises InputError for a template in a deployment's settings: Prefect fills in its own {{ name }} when it deploys,
    and leaves those out that it does not know, without a word.
    """
    from prefect.utilities.templating import PlaceholderType, find_placeholders

    lost = [
        placeholder.full_match
        for placeholder in find_placeholders(deployment.get("parameters") or {})
        if placeholder.type is PlaceholderType.STANDARD and not placeholder.name.startswith("ctx.")
    ]
    if lost:
        raise InputError(
            f"prefect.yaml: Prefect would take {min(lost)} out of the settings of {deployment.get('name')}; write the "
            "settings into a file of their own, and `settings: {config: FILE.yaml}` here"
        )


def note_local_times(deployment: dict[str, Any]) -> None:
    """Say where a schedule is in a place's own time: Prefect 3.7 runs a daily cron an hour early on the day whose hour
    the change of clocks leaves out.
    """
    for schedule in deployment.get("schedules") or ():
        zone = schedule.get("timezone") if schedule.get("cron") else None
        if zone and zone not in UTC:
            print(
                f"prefect.yaml: {deployment.get('name')} runs by the clock of {zone}: where a change of clocks leaves "
                "its hour out, it comes an hour early; write the cron in UTC, with `timezone: UTC`",
                file=sys.stderr,
            )


def project_here() -> dict[str, Any]:
    """A project of this folder without a deployment of its own: its runs work here."""
    step = {"prefect.deployments.steps.set_working_directory": {"directory": str(Path.cwd())}}
    return {"name": "synthmill", "pull": [step], "deployments": []}


def ad_hoc(method: Method) -> dict[str, Any]:
    """A method's deployment without a schedule; its settings are those of its example, where it has one."""
    example = Path("examples") / f"{method.name}.yaml"
    settings = yaml.safe_load(example.read_text(encoding="utf-8")) if example.is_file() else None
    if settings and "steps" in settings:  # prompts, which Prefect would take for templates of its own
        settings = {"config": str(example)}
    return {
        "name": "ad-hoc",
        "description": f"{method.about}; every setting is a parameter.",
        "entrypoint": f"synthmill.flows.deployed:{identifier(method.name)}",
        "tags": [method.name],
        "parameters": {"settings": settings} if settings else {},
        "work_pool": {"name": POOL},
    }


def processes_served() -> dict[str, tuple[int, str]]:
    """(pid, start in ticks) of the worker and the server that were started from this folder."""
    try:
        state = json.loads(STATE.read_bytes())["processes"]
        return {name: (int(state[name][0]), str(state[name][1])) for name in ("worker", "server")}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return {}


def served_url() -> str:
    """The server's URL, if the worker and the server that were started from this folder still run."""
    processes = processes_served()
    running = bool(processes) and all(process_start(pid) == ticks for pid, ticks in processes.values())
    return str(json.loads(STATE.read_bytes())["url"]) if running else ""


def stop() -> None:
    """End what `serve` started in this folder, and nothing else."""
    if not (processes := processes_served()):
        print("nothing is served from here")
    for name, (pid, ticks) in processes.items():
        print(f"{name}: {'ended' if end_process_group(pid, ticks) else 'was gone'}")
    STATE.unlink(missing_ok=True)


def start_prefect(command: Sequence[str], environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a Prefect command in a session of its own, its output in a log file."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_prefect(command: Sequence[str], environment: dict[str, str]) -> None:
    """Run a Prefect command to its end. Raises EngineError with its output."""
    completed = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *command], env=environment, capture_output=True, text=True
    )
    if completed.returncode:
        output = " ".join(f"{completed.stdout} {completed.stderr}".split())[-400:]
        raise EngineError(f"prefect {' '.join(command)} failed: {output}")


def end_process_group(pid: int, ticks: str) -> bool:
    """End a process group, first with SIGTERM, then with SIGKILL; False where it was gone."""
    if not pid or process_start(pid) != ticks:
        return False
    for number, seconds in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, 5)):
        with suppress(ProcessLookupError):
            os.killpg(pid, number)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if process_start(pid) != ticks:
                return True
            time.sleep(0.1)
    return True


def watch_for_zombies(url: str) -> None:
    """Create an automation on the server: a run whose heartbeat stops before its end is marked as crashed."""
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.settings import PREFECT_API_URL, temporary_settings

    trigger: Any = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{state}" for state in ENDED)},
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=ZOMBIE_S,
    )
    crashed = ChangeFlowRunState(state=StateType.CRASHED, message="its process is gone; run it again, it resumes")
    automation = Automation(name="a run whose process is gone has crashed", trigger=trigger, actions=[crashed])
    with temporary_settings({PREFECT_API_URL: url}):
        try:
            asyncio.run(Automation.aread(name=automation.name))
        except ValueError:
            asyncio.run(automation.acreate())
