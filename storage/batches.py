"""What of a store is in batches: a record for each batch, written before and after everything that is sent.

Beside the record HANDLE.json lie HANDLE.requests.jsonl, as the server reads them, HANDLE.questions.jsonl, from which an
answer is stored without the run that asked, and HANDLE.results.jsonl, as they came. The three go when every answer is
in the call store.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from synthmill.schemas.calls import Frozen, Message, Request, Sampling, ask_hash
from synthmill.schemas.errors import StoreError
from synthmill.storage.files import read_json, sync, write_json

State = Literal["written", "uploaded", "submitted", "ended", "stored"]
"""written: nothing was sent. uploaded: the server has the file. ended: the results are here. stored: their answers are
in the call store.
"""
FOLDER = "batches"
REQUESTS, QUESTIONS, RESULTS = ".requests.jsonl", ".questions.jsonl", ".results.jsonl"


class BatchRecord(Frozen):
    """A batch. handle: the hash of what it asks, and of whom. address: the server's; empty where requests go by hand.
    engine_settings: with them its results are read. status: the server's last word.
    """

    handle: str
    engine: str
    address: str
    engine_settings: dict[str, Any]
    requests: int
    made_at: float
    state: State = "written"
    file_id: str = ""
    batch_id: str = ""
    status: str = ""
    answered: int = 0
    run: str = ""


@dataclass(frozen=True)
class Asked:
    """One request of a batch: one or more samples of one question, asked together. question: as the call store has it;
    role, stage, step and whether it was asked before are stored with its answers.
    """

    question: bytes
    samples: Sequence[int]
    keys: Sequence[bytes]
    role: str
    stage: str = ""
    step: str = ""
    asked_again: bool = False

    @property
    def custom_id(self) -> str:
        """The first answer's key, and how many are asked for: unique, and the same in every run."""
        return self.keys[0].hex() + (f"-{len(self.keys)}" if len(self.keys) > 1 else "")

    @property
    def ask(self) -> bytes:
        return ask_hash(self.question)

    def request(self) -> Request:
        """The request whose question it is, as far as reading its answers takes: without calls of tools before it."""
        asked = orjson.loads(self.question)
        return Request(
            role=self.role,
            messages=tuple(Message(role=role, content=content) for role, content, *_ in asked["messages"]),
            sampling=Sampling.model_validate(asked["sampling"]),
            schema_=asked["schema"],
            choice=asked["choice"],
            tools=tuple(asked.get("tools", ())),
            sample=self.samples[0],
        )

    def line(self) -> bytes:
        facts = {
            "samples": list(self.samples),
            "keys": [key.hex() for key in self.keys],
            "question": orjson.Fragment(self.question),
            "role": self.role,
            "stage": self.stage,
            "step": self.step,
            **({"asked_again": True} if self.asked_again else {}),
        }
        return orjson.dumps(facts) + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> "Asked":
        facts = orjson.loads(line)
        question = orjson.dumps(facts["question"], option=orjson.OPT_SORT_KEYS)
        keys = [bytes.fromhex(key) for key in facts["keys"]]
        places = (facts["role"], facts["stage"], facts["step"])
        return cls(question, facts["samples"], keys, *places, asked_again=facts.get("asked_again", False))


class Batches:
    """The batches of a store."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER

    def records(self, engine: str = "") -> list[BatchRecord]:
        """Those of one engine, or all; the oldest first."""
        with_engine = []
        for path in sorted(self.folder.glob("*.json")):
            with suppress(FileNotFoundError):
                record = self.read(path.stem)
                if not engine or record.engine == engine:
                    with_engine.append(record)
        return sorted(with_engine, key=lambda record: record.made_at)

    def read(self, handle: str) -> BatchRecord:
        path = self.folder / f"{handle}.json"
        try:
            return BatchRecord.model_validate(read_json(path))
        except ValueError as error:
            raise StoreError(f"{path} is no record of a batch ({error}); move it away") from error

    def write(self, record: BatchRecord) -> BatchRecord:
        write_json(self.folder / f"{record.handle}.json", record.model_dump(mode="json"))
        return record

    def path(self, record: BatchRecord, suffix: str) -> Path:
        return self.folder / (record.handle + suffix)

    def lock_path(self, record: BatchRecord) -> Path:
        return self.folder.parent / "locks" / f"{FOLDER}-{record.handle}"

    def free_handle(self, name: str) -> str:
        """A batch with the same requests may have been before, and have expired."""
        number = 1
        while (self.folder / f"{name}-{number}.json").exists():
            number += 1
        return f"{name}-{number}"

    def asked(self, record: BatchRecord) -> Iterator[Asked]:
        """The requests of a batch that is not stored yet."""
        try:
            with self.path(record, QUESTIONS).open("rb") as file:
                yield from map(Asked.of_line, file)
        except FileNotFoundError:
            return

    def keep(self, record: BatchRecord, folder: Path) -> BatchRecord:
        """Take over a draft's files, then write the record: from now on the batch is known."""
        for suffix in (REQUESTS, QUESTIONS):
            path = folder / suffix
            sync(path)
            path.rename(self.path(record, suffix))
        sync(self.folder)
        return self.write(record)

    def finish(self, record: BatchRecord, **facts: Any) -> BatchRecord:
        """Note that every answer is in the call store, and delete what is no longer needed."""
        record = self.write(record.model_copy(update={**facts, "state": "stored"}))
        for suffix in (REQUESTS, QUESTIONS, RESULTS):
            self.path(record, suffix).unlink(missing_ok=True)
        return record

    def forget(self, record: BatchRecord) -> None:
        """A batch that was never submitted."""
        for suffix in (".json", REQUESTS, QUESTIONS, RESULTS):
            self.path(record, suffix).unlink(missing_ok=True)
