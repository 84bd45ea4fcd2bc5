"""Who is measured: every peer in its own environment, `.peers/NAME`, ours and a bare loop in `.venv`."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
ENVIRONMENTS = ROOT / ".peers"
RUNNERS = Path(__file__).parent / "runners"
QUIET = {
    "CURATOR_VIEWER": "0",
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NEMO_TELEMETRY_ENABLED": "false",
    "POSTHOG_DISABLED": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TELEMETRY_ENABLED": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "WANDB_MODE": "disabled",
}
"""No peer reports anything to anybody; what would be fetched on the way is taken from the package, or not at all."""
NOWHERE = "http://127.0.0.1:9"
"""A proxy that refuses everything: nothing but this machine can be reached."""


class Contestant(NamedTuple):
    """name: of its environment, runner and requirements; package: whose version is shown."""

    name: str
    title: str
    package: str
    workers: int | None = None
    """Ours only: `--workers`."""

    @property
    def is_ours(self) -> bool:
        return self.workers is not None

    @property
    def python(self) -> Path:
        own = self.is_ours or self.name == "bare"
        return Path(sys.executable) if own else ENVIRONMENTS / self.name / "bin" / "python"

    @property
    def is_absent(self) -> bool:
        """Its environment could not be installed, or was not."""
        return not self.python.exists() or (ENVIRONMENTS / self.name / ".absent").exists()

    def runner(self, job: str) -> Path:
        """The script that does a kind of job (`run`, `dialogues`, ...) with this peer."""
        return RUNNERS / f"{job}_{self.name}.py".replace("-", "_")

    def does(self, job: str) -> bool:
        return job in self.commands() or self.runner(job).exists()

    def command(self, job: str, job_file: Path, settings: Mapping[str, object]) -> list[str]:
        if job not in self.commands():
            return [str(self.python), str(self.runner(job)), str(job_file)]
        command = [str(self.python), "-m", "synthmill.flows.cli", *self.commands()[job], str(settings["input"])]
        command += ["--out", str(settings["output"]), "--workers", str(self.workers)]
        engine = ("--engine", f"openai:local-model@{settings['url']}", "--concurrency", str(settings["width"]))
        return [*command, *engine] if job == "run" else command

    def commands(self) -> dict[str, tuple[str, ...]]:
        """Jobs that a command of ours does, as users call it."""
        dedup = ("dedup", "--layers", "exact,words", "--text-column", "prompt")
        return {"run": ("sample", "-n", "1"), "dedup": dedup} if self.is_ours else {}

    def version(self) -> str:
        if self.is_absent:
            return ""
        code = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        return subprocess.run([str(self.python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


CONTESTANTS = (
    Contestant("bare", "a bare aiohttp loop", "aiohttp"),
    Contestant("synthmill", "synthmill `--workers 0`", "synthmill", 0),
    Contestant("synthmill-ray", "synthmill `--workers 1` (Ray)", "synthmill", 1),
    Contestant("oumi", "oumi", "oumi"),
    Contestant("datatrove", "datatrove", "datatrove"),
    Contestant("bespokelabs-curator", "Curator", "bespokelabs-curator"),
    Contestant("data-designer", "Data Designer", "data-designer"),
    Contestant("sdg-hub", "SDG Hub", "sdg-hub"),
    Contestant("distilabel", "distilabel", "distilabel"),
    Contestant("saturate", "saturate", "saturate"),
    Contestant("ray-data-llm", "Ray Data LLM", "ray"),
    Contestant("semhash", "semhash", "semhash"),
)


def variables(contestant: Contestant) -> dict[str, str]:
    """The environment of a contestant's process: its own home, no telemetry, no network but this machine."""
    home = ENVIRONMENTS / "homes" / contestant.name
    home.mkdir(parents=True, exist_ok=True)
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), NOWHERE)
    local = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    ours = {"PYTHONPATH": str(ROOT)} if contestant.is_ours else {}
    return {**kept, "HOME": str(home), **QUIET, **proxies, **local, **ours}
