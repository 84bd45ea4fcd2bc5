"""The work: recipes, the driver, engines, scorers, cuts. No Prefect, no DuckDB; only parallel.py imports Ray."""

import atexit
import os
from pathlib import Path


def writable(folder: Path) -> bool:
    """Whether files can be written to a folder, or it can be made."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return folder.is_absolute() and os.access(existing, os.W_OK)


def find_place_for_kernels() -> None:
    """Name a temporary folder for compiled kernels where neither this package nor the user's cache can be written, as
    in a container without a home: numba refuses to load them otherwise. It reads the variable when it is imported.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111  # without a home, too
    if "NUMBA_CACHE_DIR" in os.environ or writable(Path(__file__).parent) or writable(cache):
        return
    from shutil import rmtree
    from tempfile import mkdtemp

    folder = os.environ["NUMBA_CACHE_DIR"] = mkdtemp(prefix="synthmill-kernels-")
    atexit.register(rmtree, folder, ignore_errors=True)


find_place_for_kernels()
