"""A call store of many answers, and what looking them up costs.

    python -m bench.scale_calls lookups FOLDER SEGMENTS ANSWERS   # misses, and memory; answers a segment
    python -m bench.scale_calls replay FOLDER SEGMENTS ANSWERS    # every stored answer, in the order of asking

Each makes its folder first, if it is not there, and prints JSON. The file runs in an older tree as well, with that tree
first on PYTHONPATH. For look-ups only indexes are real: their segments are holes of the right size.
"""

import argparse
import gc
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

LINE = 500  # bytes an answer
MISSES = 1_000
REPEATS = 5


def index_only(folder: Path, segments: int, answers: int) -> None:
    """Sealed segments without content."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(1)
    for number in range(segments):
        path = folder / f"{number:06}.calls"
        with path.open("wb") as file:
            file.truncate(answers * LINE)
        keys = np.sort(draws.integers(0, 1 << 64, (2, answers), dtype=np.uint64), axis=1)
        write_index(path, keys, answers)


def write_index(path: Path, keys: Any, answers: int) -> None:
    offsets = np.arange(answers, dtype=np.uint64) * LINE
    try:
        from synthmill.storage.call_index import RECORD, compact, write_run
    except ImportError:  # as version 0.1 had it
        lengths, none = np.full(answers, LINE, np.uint64), np.zeros(answers, np.uint64)
        np.save(path.with_suffix(".index.npy"), np.stack([keys[0], keys[1], offsets, lengths, none]))
        return
    table = np.zeros(answers, RECORD)
    table["high"], table["low"], table["offset"], table["length"] = keys[0], keys[1], offsets, LINE
    write_run(path.with_suffix(".index"), {path.name: answers * LINE}, {}, answers, [table])
    compact(path.parent)


def write_answers(folder: Path, segments: int, answers: int) -> None:
    """Sealed segments with answers, as a run writes them."""
    from synthmill.schemas.calls import Completion
    from synthmill.storage.calls import CallStore

    text = "what the river carries over the old mill " * 8
    for number in range(segments):
        store = CallStore(folder / "one")
        store.place = folder
        for n in range(number * answers, (number + 1) * answers):
            key, hashed, question = call_of(n)
            completion = Completion(text=text, prompt_tokens=20, completion_tokens=70)
            store.add(key, hashed, question, completion, engine="echo", role="student", stage="answers", sample=0)
        store.close()


def call_of(n: int) -> tuple[bytes, bytes, bytes]:
    from synthmill.schemas.calls import Message, Request, ask_hash, call_key

    request: Any = Request(role="student", messages=(Message(role="user", content=f"question {n}"),))
    question = (request.question_json if hasattr(request, "question_json") else request.asked)()  # as 0.1 has it
    return call_key("echo", ask_hash(question), 0), ask_hash(question), question


def memory() -> int:
    """Bytes that this process holds and shares with nobody."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_", "Shared_Dirty")))


def lookups(folder: Path, segments: int, answers: int) -> dict[str, float]:
    if not folder.exists():
        index_only(folder, segments, answers)
    from synthmill.storage.calls import CallStore

    memory_before = memory()
    store = CallStore(folder)
    keys = [os.urandom(16) for _ in range(MISSES)]
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for key in keys:
            store.find(key)
        seconds.append((time.perf_counter() - began) / MISSES)
    held = max(0, memory() - memory_before - MISSES * 49)
    return {"miss_us": statistics.median(seconds) * 1e6, "bytes_an_answer": held / (segments * answers)}


def replay(folder: Path, segments: int, answers: int) -> dict[str, float]:
    if not folder.exists():
        write_answers(folder, segments, answers)
    from synthmill.storage.calls import CallStore

    keys = [call_of(n)[0] for n in range(segments * answers)]
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as workers have it
    store = CallStore(folder)
    began = time.perf_counter()
    assert all(store.find(key) is not None for key in keys)
    return {"answers_per_s": len(keys) / (time.perf_counter() - began)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("lookups", "replay"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("segments", type=int)
    parser.add_argument("answers", type=int)
    options = parser.parse_args()
    work = {"lookups": lookups, "replay": replay}[options.what]
    print(json.dumps(work(options.folder, options.segments, options.answers)))
