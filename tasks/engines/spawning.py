"""Processes that a library spawns on our behalf, and the caller's script."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HIDING = threading.Lock()


@contextmanager
def without_main() -> Iterator[None]:
    """What is spawned meanwhile does not import the caller's script again. Python's multiprocessing does so in every
    child, for functions that stand in it. That runs a script without `if __name__ == "__main__"` once more, and loads
    into the child what the script imports: with numba, vLLM's CPU worker does not start (vLLM 0.32, register_kernels in
    vllm/triton_utils/dispatcher.py: it takes `vars()` of whatever stands in a module for a dictionary). Threads hide it
    one after the other.
    """
    main = vars(sys.modules["__main__"])
    with HIDING:
        hidden: dict[str, Any] = {name: main.pop(name) for name in ("__spec__", "__file__") if name in main}
        main["__spec__"] = None
        try:
            yield
        finally:
            main.update(hidden)
