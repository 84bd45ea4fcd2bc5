"""A store of many small artifacts, runs and segments of calls, and what looking at it costs.

    python -m bench.scale_catalog make STORE ARTIFACTS [--runs RUNS] [--segments SEGMENTS] [--drops-every 3]
    python -m bench.scale_catalog grow|rebuild|rebuild-again|drops|ls|show|calls STORE ARTIFACTS

Every command prints its seconds. The file runs in an older tree as well, with that tree first on PYTHONPATH:
`python bench/scale_catalog.py drops STORE ARTIFACTS`. A chain of four artifacts is a run; one artifact in three has
drops, if not told otherwise. `rebuild` begins without anything derived, `rebuild-again` with the catalog that is there.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa

from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.calls import Completion
from synthmill.schemas.rows import Dropped
from synthmill.storage.artifacts import Store, seal_part, write_manifest
from synthmill.storage.calls import CallStore, Segment
from synthmill.storage.runs import StageRun, new_run, write_run

ROWS, DROPS, ANSWERS = 20, 5, 10
STAGES = ("instructions", "answers", "scores", "pairs")
DERIVED = ("catalog.duckdb", "derived", "calls/parquet")


def key_of(*names: object) -> str:
    return blake2b("/".join(map(str, names)).encode(), digest_size=16).hexdigest()


def row_id(artifact: int, row: int) -> str:
    """The id of a row that `make` writes; those that are dropped come behind the ROWS that are kept."""
    return key_of("row", artifact, row)[:24]


def make_artifact(store: Store, number: int, source: Manifest | None, drops_every: int = 3) -> Manifest:
    stage, key = STAGES[number % len(STAGES)], key_of("artifact", number)
    ids = [row_id(number, row) for row in range(ROWS)]
    parents = [row_id(number - 1, row) for row in range(ROWS)] if source else [""] * ROWS
    rows = pa.table(
        {
            "id": ids,
            "parent_id": parents,
            "text": [f"the text of row {row_id}" for row_id in ids],
            "calls": pa.array([[] for _ in ids], pa.list_(pa.string())),
        }
    )
    gone = range(ROWS, ROWS + DROPS) if number % drops_every == 0 else ()
    dropped = [Dropped(id=row_id(number, row), reason="too_short", detail=f"{row} words") for row in gone]
    ids_in = [*ids, *(row.id for row in dropped)]
    seal = seal_part(store, stage, key_of("part", number), rows, dropped, ids_in=ids_in)
    return write_manifest(
        store,
        Manifest(
            stage=stage,
            key=key,
            identity={"stage": stage, "version": "1", "settings": {"number": number}},
            sources={source.key: source.content} if source else {},
            columns={field.name: str(field.type) for field in rows.schema},
            parts=(seal,),
            run=f"run-{number // len(STAGES)}",
        ),
    )


def make(store: Store, artifacts: int, runs: int, segments: int, drops_every: int = 3) -> None:
    store.prepare()
    manifests: list[Manifest] = []
    for number in range(artifacts):
        manifests.append(make_artifact(store, number, manifests[-1] if number % len(STAGES) else None, drops_every))
    for number in range(runs):
        chain = manifests[number * len(STAGES) % artifacts :][: len(STAGES)]
        stages = tuple(StageRun.of(manifest, {}, 1.0) for manifest in chain)
        write_run(
            store, new_run("bench", {"number": number}).model_copy(update={"stages": stages, "status": "finished"})
        )
    for number in range(segments):
        add_segment(store, number)


def add_segment(store: Store, number: int) -> None:
    calls = CallStore(store.calls / f"of-{number}", origin={"run": f"run-{number}", "stage": "answers"})
    for answer in range(ANSWERS):
        question = b'{"messages":[["user","question"]],"sampling":{},"sample":0}'
        completion = Completion(text=f"answer {answer}", prompt_tokens=3, completion_tokens=7)
        key = bytes.fromhex(key_of("call", number, answer))
        calls.add(key, key, question, completion, engine="echo", role="student", sample=0)
    calls.close()
    [written] = (store.calls / f"of-{number}").glob("*.calls")  # opening all earlier ones each time would take minutes
    path = written.rename(store.calls / f"{number:06}-{written.name}")
    shutil.rmtree(store.calls / f"of-{number}")
    segment = Segment(path)
    if hasattr(segment, "refresh"):  # as version 0.1 had it
        segment.refresh()
    segment.seal()


def forget(store: Store) -> None:
    """Delete what is derived."""
    for name in DERIVED:
        path = store.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def rebuild(store: Store) -> None:
    from synthmill.storage.catalog import rebuild

    rebuild(store)


def drops(store: Store) -> None:
    from synthmill.storage.catalog import query

    query(store, "SELECT 1")  # the catalog is there
    print_seconds("count(*) of drops", lambda: print(query(store, "SELECT count(*) FROM drops")[1]))


def command(store: Store, *arguments: str) -> None:
    tree = Path(str(sys.modules["synthmill.storage.artifacts"].__file__)).parent.parent
    subprocess.run(
        [sys.executable, "-m", "synthmill.flows.cli", *arguments, "--store", str(store.root)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def print_seconds(name: str, work: Callable[[], object]) -> None:
    began = time.perf_counter()
    work()
    print(f"{name}: {time.perf_counter() - began:.3f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("make", "grow", "rebuild", "rebuild-again", "drops", "ls", "show", "calls"))
    parser.add_argument("store", type=Path)
    parser.add_argument("artifacts", type=int)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--segments", type=int, default=0)
    parser.add_argument("--drops-every", type=int, default=3)
    options = parser.parse_args()
    store, artifacts = Store(options.store.resolve()), options.artifacts
    if options.command == "make":
        runs = artifacts // len(STAGES) if options.runs is None else options.runs
        print_seconds("make", lambda: make(store, artifacts, runs, options.segments, options.drops_every))
    elif options.command == "grow":  # what one more run brings
        last = make_artifact(store, 4 * time.time_ns(), None)
        stages = (StageRun.of(last, {}, 1.0),)
        write_run(store, new_run("bench", {}).model_copy(update={"stages": stages, "status": "finished"}))
        add_segment(store, time.time_ns())
    elif options.command.startswith("rebuild"):
        if options.command == "rebuild":
            forget(store)
        print_seconds(options.command, lambda: rebuild(store))
    elif options.command == "drops":
        drops(store)
    elif options.command == "show":
        print_seconds("show ROW_ID", lambda: command(store, "show", row_id(artifacts // 2 // 4 * 4 + 3, 7)))
    else:
        print_seconds(options.command, lambda: command(store, options.command))


if __name__ == "__main__":
    main()
