"""A small store that an earlier version wrote: three commands, and the archive in tests/data that holds what they made.

    python tests/earlier_store.py TREE

TREE: a checkout of the commit that the archive is named after (e561b05: there, what is installed as synthmill.LAYER was
imported as LAYER). It runs the commands against the local chat server and writes tests/data/store-e561b05.tar.gz:
the input, the store without its catalog and datasets, which are made again from it, and what that version said it
had spent.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

COMMIT = "e561b05"
DATA = Path(__file__).parent / "data"
ARCHIVE = DATA / f"store-{COMMIT}.tar.gz"
LEFT_OUT = ("catalog.duckdb", ".catalog.lock", "derived", "datasets", "locks", ".html")
BUDGET = 20  # requests, fewer than the run needs
SPEND = """SELECT stage, role, engine, sum(calls)::BIGINT AS calls, sum(prompt_tokens)::BIGINT AS prompt_tokens,
    sum(completion_tokens)::BIGINT AS completion_tokens FROM spend GROUP BY ALL ORDER BY ALL"""
ROWS = 4
PRICES = '{"openai:*": {"prompt": 1, "completion": 10}}'


def sample(server: str) -> list[str]:
    return ["sample", "in.jsonl", "--engine", server, "-n", "3", "--max-tokens", "64", "--out", "out.jsonl"]


def preferences(server: str) -> list[str]:
    settings = ["source=in.jsonl", f"engines.teacher={server}", "answers.count=3", "reward=judge", "cuts=[max-min]"]
    settings += ["scorers=[{spec: judge, evaluations: 1}]", "dedup.layers=[exact]", "workers=0"]
    return ["run", "preferences", *(part for setting in settings for part in ("--set", setting))]


def budgeted(server: str, requests: int = BUDGET) -> list[str]:
    settings = ["source=in.jsonl", f"engines.teacher={server}", "dedup.layers=[exact]", "workers=0", "seed=7"]
    settings += [f"budget.requests={requests}", f"budget.prices={PRICES}"]
    return ["run", "synthesize", *(part for setting in settings for part in ("--set", setting))]


def unpack(folder: Path) -> Path:
    """The archive's files in a folder; returns the store."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "store"


def record(tree: Path) -> None:
    from bench.serving import chat_server

    with tempfile.TemporaryDirectory() as place, chat_server("--words", "8", "--latency-ms", "1") as url:
        folder = Path(place)
        rows = [{"id": f"r{n}", "prompt": f"Explain number {n} in your own words"} for n in range(ROWS)]
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        environment = {**os.environ, "PYTHONPATH": str(tree), "PREFECT_HOME": str(folder / "prefect")}
        server = f"openai:local-model@{url}"
        for command, code in ((sample(server), 0), (preferences(server), 0), (budgeted(server), 3)):
            run = subprocess.run(
                [sys.executable, "-m", "flows.cli", *command], cwd=folder, env=environment, check=False
            )
            assert run.returncode == code, command
        spend = [sys.executable, "-m", "flows.cli", "sql", SPEND, "--csv"]
        (folder / "spend.csv").write_bytes(subprocess.check_output(spend, cwd=folder, env=environment))
        DATA.mkdir(exist_ok=True)
        with tarfile.open(ARCHIVE, "w:gz") as archive:
            for name in ("in.jsonl", "spend.csv"):
                archive.add(folder / name, name)
            archive.add(folder / "store", "store", filter=lambda file: None if file.name.endswith(LEFT_OUT) else file)


if __name__ == "__main__":
    record(Path(sys.argv[1]).resolve())
