"""What every runner shares. A runner is a script that runs in its peer's own environment, where nothing of ours is:

    .peers/NAME/bin/python peers/runners/run_NAME.py JOB

JOB: a file, JSON: {"url", "width", "input", "output", "work"}. A runner asks the OpenAI-compatible server at `url` (it
ends in /v1) each prompt of `input` (JSON lines of {"id", "prompt"}) with `width` requests in flight, and writes
`output`, JSON lines of {"id", "text"}. A `dialogues_NAME.py` takes the prompts for a user's openings, and makes ten
turns of each, with the same model on the user's side; "text" is the last answer. `work` is a folder for the peer's
caches and checkpoints; it is the same when the job is run again. A runner uses its peer as the peer's documentation
does.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MODEL = "local-model"
KEY = "none"
MAX_TOKENS = 1024
TURNS = 10
OPENING = "You are the person who asks. Go on with the conversation."


class Job(NamedTuple):
    """What to ask whom, and where the answers go."""

    url: str
    width: int
    input: Path
    output: Path
    work: Path

    def rows(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.input.read_text().splitlines()]

    def write(self, texts: Iterable[tuple[str, str]]) -> None:
        """Write (id, text) of what was answered."""
        lines = (json.dumps({"id": row_id, "text": text}) + "\n" for row_id, text in texts)
        self.output.write_text("".join(lines))


def swapped(turns: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """A dialogue as its user sees it: what the assistant said came from the other side."""
    roles = {"user": "assistant", "assistant": "user"}
    return [{"role": roles[turn["role"]], "content": turn["content"]} for turn in turns]


def read_job() -> Job:
    job = json.loads(Path(sys.argv[1]).read_text())
    return Job(job["url"], job["width"], Path(job["input"]), Path(job["output"]), Path(job["work"]))
