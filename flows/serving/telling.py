"""What a stage says on Prefect's page, from a thread of its own: where the server is slow or gone, the run goes on."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact

EVERY_S = 2.0
LAST_WORD_S = 5.0


class Telling:
    """A progress artifact: `tell(40.0, "120 of 300 rows, ...")` now and then, `last(line)` at the end."""

    def __init__(self, name: str) -> None:
        self._key = f"{name.replace('_', '-')}-progress"
        self._artifact: Any = None
        self._thread = threading.Thread()
        self._told = 0.0

    def __call__(self, percent: float, line: str) -> None:
        """Say it, unless something was said a moment ago, or is still being said."""
        if time.monotonic() - self._told > EVERY_S and not self._thread.is_alive():
            self._told = time.monotonic()
            self._thread = in_background(lambda: self._say(percent, line))

    def last(self, line: str) -> None:
        if self._thread.ident:
            self._thread.join(LAST_WORD_S)
        if not self._thread.is_alive():
            in_background(lambda: self._say(100.0, line)).join(LAST_WORD_S)

    def _say(self, percent: float, line: str) -> None:
        if self._artifact is None:
            self._artifact = create_progress_artifact(progress=percent, key=self._key, description=line)
        else:
            update_progress_artifact(self._artifact, percent, line)


def in_background(say: Callable[[], Any]) -> threading.Thread:
    """A thread that says it in this run's name, and dies quietly where it cannot."""
    context = copy_context()

    def work() -> None:
        with suppress(Exception):
            context.run(say)

    thread = threading.Thread(target=work, name="synthmill-telling", daemon=True)
    thread.start()
    return thread
