"""Progress of a stage on Prefect's page, sent by a background thread: a slow or dead server never stops the run."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact

EVERY_S = 2.0
LAST_WORD_S = 5.0


class PrefectProgress:
    """A progress artifact: `tell(40.0, "120 of 300 rows, ...")` now and then, `last(line)` at the end."""

    def __init__(self, name: str) -> None:
        self._key = f"{name.replace('_', '-')}-progress"
        self._artifact: Any = None
        self._thread = threading.Thread()
        self._sent_at = 0.0

    def __call__(self, percent: float, line: str) -> None:
        """Send progress, unless the last update was a moment ago or is still on its way."""
        if time.monotonic() - self._sent_at > EVERY_S and not self._thread.is_alive():
            self._sent_at = time.monotonic()
            self._thread = in_background(lambda: self._send(percent, line))

    def last(self, line: str) -> None:
        if self._thread.ident:
            self._thread.join(LAST_WORD_S)
        if not self._thread.is_alive():
            in_background(lambda: self._send(100.0, line)).join(LAST_WORD_S)

    def _send(self, percent: float, line: str) -> None:
        if self._artifact is None:
            self._artifact = create_progress_artifact(progress=percent, key=self._key, description=line)
        else:
            update_progress_artifact(self._artifact, percent, line)


def in_background(send: Callable[[], Any]) -> threading.Thread:
    """Run `send` in a thread with this run's context; the thread ignores every error."""
    context = copy_context()

    def send_quietly() -> None:
        with suppress(Exception):
            context.run(send)

    thread = threading.Thread(target=send_quietly, name="synthmill-telling", daemon=True)
    thread.start()
    return thread
