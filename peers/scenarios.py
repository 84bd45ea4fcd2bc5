"""What every contestant has to do: the same prompts, asked of our own chat server, which counts and times.

A scenario is a function from a contestant and a folder to a record: the figures of one round.
"""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.serving import chat_server
from peers.contestants import ROOT, Contestant, variables
from peers.harness import Figures, Server, measure

PROMPT = "Question {n}: what does the river carry over the old mill, and why do seven birds draw circles above it? " * 2
LIMIT_S = 60
"""What has not ended by then is ended, and reported so."""
ROWS, HALF, GROWN, DIALOGUES, JUDGED = 2000, 1000, 100, 200, 500
TEXTS, COPIES = 20_000, 4000
FAULTS = {"sigma": 0.8, "fail_every": 20, "fail_status": 500, "busy_at": 1000, "busy_s": 1.0}
"""Answers take 20 ms in the median; every twentieth is an error 500; for a second all are refused with 429."""

Record = dict[str, Any]


class Scene(NamedTuple):
    """One contestant in one folder, with a server of its own."""

    contestant: Contestant
    folder: Path
    server: Server
    width: int

    @property
    def input(self) -> Path:
        return self.folder / "in.jsonl"

    @property
    def output(self) -> Path:
        return self.folder / "out.jsonl"

    def write_prompts(self, count: int) -> None:
        rows = ({"id": f"row-{n}", "prompt": PROMPT.format(n=n)} for n in range(count))
        self.input.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(self, kill_at: int = 0, job: str = "run") -> Figures:
        """Run its command once, in the same place each time."""
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        self.output.unlink(missing_ok=True)
        paths = {"input": str(self.input), "output": str(self.output), "work": str(work)}
        settings = {"url": self.server.url, "width": self.width, **paths}
        job_file = self.folder / "job.json"
        job_file.write_text(json.dumps(settings))
        command = self.contestant.command(job, job_file, settings)
        return measure(command, variables(self.contestant), self.folder, self.server, LIMIT_S, kill_at)

    def rows(self) -> tuple[int, int]:
        """(rows with an answer, lines that repeat a row)."""
        if not self.output.exists():
            return 0, 0
        lines = [json.loads(line) for line in self.output.read_text().splitlines()]
        ids = [line["id"] for line in lines if line.get("text") or line.get("answer")]
        return len(set(ids)), len(ids) - len(set(ids))

    def record(self, figures: Figures, sent_before: int = 0) -> Record:
        stats, (rows, doubled) = self.server.stats(), self.rows()
        sent = stats["total"] - sent_before
        return {**figures._asdict(), "requests": sent, "rows": rows, "doubled": doubled}


@contextmanager
def scene(contestant: Contestant, folder: Path, width: int, latency_ms: float, **behaviour: object) -> Iterator[Scene]:
    with chat_server("--latency-ms", str(latency_ms)) as url:
        server = Server(url, 0)
        server = Server(url, int(server.stats()["pid"]))
        server.set(same="messages", usage="detailed", **behaviour)
        yield Scene(contestant, folder, server, width)


def plain(contestant: Contestant, folder: Path, width: int = 64, **behaviour: object) -> Record:
    """2,000 prompts."""
    with scene(contestant, folder, width, 20, **behaviour) as place:
        place.write_prompts(ROWS)
        return place.record(place.run())


def wide(contestant: Contestant, folder: Path) -> Record:
    return plain(contestant, folder, 256)


def faults(contestant: Contestant, folder: Path) -> Record:
    return plain(contestant, folder, 64, **FAULTS)


def kill(contestant: Contestant, folder: Path) -> Record:
    """2,000 prompts of 100 ms, kill -9 of the command when half of them were asked, and the same command again."""
    with scene(contestant, folder, 64, 100) as place:
        place.write_prompts(ROWS)
        first = place.run(kill_at=HALF)
        before = place.server.stats()
        second = place.record(place.run(), before["total"])
        stats = place.server.stats()
        killed = {"in_flight": first.in_flight, "remaining": first.remaining, "before": before["total"]}
        return {**second, **killed, "twice": stats["repeated"]}


def again(contestant: Contestant, folder: Path) -> Record:
    """1,000 prompts; the same command again; and once more with 100 prompts more."""
    with scene(contestant, folder, 64, 20) as place:
        place.write_prompts(HALF)
        records, sent = {}, 0
        for what in ("cold", "warm", "grown"):
            if what == "grown":
                place.write_prompts(HALF + GROWN)
            record = place.record(place.run(), sent)
            sent += record["requests"]
            records |= {f"{what}_{name}": record[name] for name in ("wall_s", "requests", "rows", "exit_code")}
        return records


def dialogues(contestant: Contestant, folder: Path) -> Record:
    """200 dialogues of ten turns, 50 ms an answer in the median, log-normal."""
    with scene(contestant, folder, 64, 50, sigma=0.8) as place:
        place.write_prompts(DIALOGUES)
        return place.record(place.run(job="dialogues"))


def judged(contestant: Contestant, folder: Path) -> Record:
    """500 prompts, two answers each, both judged."""
    with scene(contestant, folder, 64, 20) as place:
        place.write_prompts(JUDGED)
        return place.record(place.run(job="judged"))


def duplicates(contestant: Contestant, folder: Path) -> Record:
    """20,000 texts of 60 words, a fifth of them copies of others with one to three words changed."""
    with scene(contestant, folder, 64, 20) as place:
        copies = write_copies(place.input)
        record = place.record(place.run(job="dedup"))
        lines = [json.loads(line) for line in place.output.read_text().splitlines()] if place.output.exists() else []
        gone = all_ids(place.input) - kept_ids(lines) if lines else set()
        alike = sum(copy in gone or original in gone for copy, original in copies.items())
        wrong = len(gone - copies.keys() - set(copies.values()))
        return {**record, "planted": len(copies), "seen": alike, "wrong": wrong}


def write_copies(path: Path) -> dict[str, str]:
    """Write the texts; each copy's original by id."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(5000)]
    texts = [draw.choices(words, k=60) for _ in range(TEXTS - COPIES)]
    copies = {}
    for n, original in enumerate(draw.sample(range(len(texts)), COPIES), len(texts)):
        text = list(texts[original])
        for place in draw.sample(range(60), draw.randint(1, 3)):
            text[place] = draw.choice(words)
        texts.append(text)
        copies[f"row-{n}"] = f"row-{original}"
    rows = [json.dumps({"id": f"row-{n}", "prompt": " ".join(text)}) + "\n" for n, text in enumerate(texts)]
    draw.shuffle(rows)
    path.write_text("".join(rows))
    return copies


def all_ids(path: Path) -> set[str]:
    return {json.loads(line)["id"] for line in path.read_text().splitlines()}


def kept_ids(lines: Sequence[Record]) -> set[str]:
    """Ids of rows that stay: all that were written, or those of which that is said."""
    return {line["id"] for line in lines if line.get("kept", True)}


SCENARIOS = {
    scenario.__name__: scenario for scenario in (plain, wide, faults, kill, again, dialogues, judged, duplicates)
}
JOBS = {"dialogues": "dialogues", "judged": "judged", "duplicates": "dedup"}
"""What a contestant must be able to do; `run` where it is not named."""
ROUNDS = {"plain": 3, "wide": 3, "dialogues": 2, "judged": 2}
"""How often; once where it is not named."""


def log_tail(folder: Path) -> str:
    """The last line that a contestant's process wrote."""
    log = folder / "log.txt"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].replace(f"{ROOT}/", "").replace(str(Path.home()), "~")[:300] if lines else ""
