"""The call store: what was added is found, what is torn or damaged is not, and any number of writers get along."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthmill.schemas.calls import Completion, Message, Request, Sampling, ask_hash, call_key
from synthmill.schemas.errors import StoreError
from synthmill.storage import calls
from synthmill.storage import segments as storage_segments
from synthmill.storage.calls import CallStore, record_to
from synthmill.storage.segments import Segment, seal_abandoned, spent_in

ROOT = Path(__file__).parent.parent.parent


def request(n: int) -> Request:
    return Request(role="student", messages=(Message(role="user", content=f"question {n}"),), sampling=Sampling(seed=1))


def key_of(n: int, sample: int = 0) -> bytes:
    return call_key("echo", ask_hash(request(n).question_json()), sample)


def add(store: CallStore, *numbers: int, sample: int = 0) -> None:
    for n in numbers:
        asked = request(n).question_json()
        completion = Completion(
            text=f"answer {n}.{sample}", finish_reason="length", completion_tokens=n, logprobs=[["a", -1.0, {}]]
        )
        store.add(
            key_of(n, sample),
            ask_hash(asked),
            asked,
            completion,
            engine="echo",
            role="student",
            sample=sample,
            stage="s",
        )
    store.flush()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.calls"))


def test_answers_are_found_by_what_was_asked(tmp_path: Path) -> None:
    store = CallStore(tmp_path)
    add(store, *range(50))
    add(store, 3, sample=1)
    for reader in (store, CallStore(tmp_path)):
        found = reader.find(key_of(7))
        assert found is not None
        assert (found.text, found.finish_reason, found.completion_tokens, found.logprobs) == (
            "answer 7.0",
            "length",
            7,
            [["a", -1.0, {}]],
        )
        assert reader.find(key_of(3, 1)) == found._replace(text="answer 3.1", completion_tokens=3)
        assert reader.find(key_of(51)) is None
    store.close()
    sealed = CallStore(tmp_path)
    assert [sealed.find(key_of(n)) is not None for n in (0, 49, 50)] == [True, True, False]


def test_what_identifies_a_call() -> None:
    base = key_of(1)
    asked = request(1).question_json()
    other = request(1).model_copy(update={"sampling": Sampling(seed=2)})
    assert call_key("echo", ask_hash(asked), 0) == base
    assert call_key("other", ask_hash(asked), 0) != base
    assert call_key("echo", ask_hash(asked), 1) != base
    assert call_key("echo", ask_hash(other.question_json()), 0) != base
    judged = request(1).model_copy(update={"role": "judge"})
    assert judged.question_json() == asked  # a role is no part of what the model sees


def test_a_torn_tail_costs_only_the_torn_answer(tmp_path: Path) -> None:
    store = CallStore(tmp_path)
    add(store, 1, 2, 3)
    [path] = segments(tmp_path)
    whole = path.read_bytes()
    start_of_last = whole.rstrip(b"\n").rindex(b"\n") + 1
    for cut in (start_of_last + 1, start_of_last + 60, len(whole) - 1):
        path.write_bytes(whole[:cut])
        reader = CallStore(tmp_path)
        assert [reader.find(key_of(n)) is not None for n in (1, 2, 3)] == [True, True, False]
    path.write_bytes(whole[:-100] + b"\0" * 100)  # what a power cut may leave
    assert CallStore(tmp_path).find(key_of(3)) is None
    assert CallStore(tmp_path).find(key_of(2)) is not None


@pytest.mark.parametrize("sealed", [False, True])
def test_a_damaged_line_is_never_served(tmp_path: Path, sealed: bool) -> None:
    store = CallStore(tmp_path)
    add(store, 1, 2, 3)
    if sealed:
        store.close()
    [path] = segments(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"answer 2.0", b"answer 9.0"))
    reader = CallStore(tmp_path)
    assert [reader.find(key_of(n)) is not None for n in (1, 2, 3)] == [True, False, True]


def indexes(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.index"))


@pytest.mark.parametrize("where", [0, 40, -1, -30, -200])
def test_a_damaged_index_is_made_again(tmp_path: Path, where: int) -> None:
    store = CallStore(tmp_path)
    add(store, *range(40))
    store.close()
    [index] = indexes(tmp_path)
    data = bytearray(index.read_bytes())
    data[where] ^= 1
    index.write_bytes(data)
    reader = CallStore(tmp_path)
    assert all(reader.find(key_of(n)) for n in range(40))
    seal_abandoned(tmp_path)
    assert len(indexes(tmp_path)) == 1
    reader = CallStore(tmp_path)
    assert all(reader.find(key_of(n)) for n in range(40)) and not reader._unsealed


@pytest.mark.parametrize("content", [b"", b"nonsense", b"x" * 5000])
def test_what_is_no_index_is_left_out(tmp_path: Path, content: bytes) -> None:
    store = CallStore(tmp_path)
    add(store, 1)
    store.close()
    indexes(tmp_path)[0].write_bytes(content)
    assert CallStore(tmp_path).find(key_of(1)) is not None
    assert seal_abandoned(tmp_path) == 1
    assert CallStore(tmp_path).find(key_of(1)) is not None


def test_an_index_that_cannot_be_opened_is_no_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CallStore(tmp_path)
    add(store, 1)
    store.close()
    real = os.open

    def refused(path: Any, *more: Any) -> int:
        if str(path).endswith(".index"):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *more)

    monkeypatch.setattr("synthmill.storage.call_index.os.open", refused)
    with pytest.raises(StoreError, match="Too many open files"):
        CallStore(tmp_path)
    monkeypatch.undo()
    assert CallStore(tmp_path).find(key_of(1)) is not None
    assert len(indexes(tmp_path)) == 1


def test_two_thousand_segments_need_few_descriptors_and_few_indexes(tmp_path: Path) -> None:
    script = """
import os, resource, sys
os.fsync = lambda descriptor: None  # of no interest here, and slow 4,000 times
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from pathlib import Path
from synthmill.storage.calls import CallStore
from synthmill.storage.segments import seal_abandoned
from tests.storage.test_calls import add, key_of
folder = Path(sys.argv[1])
store = CallStore(folder)
add(store, *range(2000))
store.close()
for old in folder.glob("*.index"):
    old.unlink()
[whole] = folder.glob("*.calls")
answers = [line for line in whole.read_bytes().splitlines(keepends=True) if line[9:10] == b"A"]
for n, answer in enumerate(answers):
    (folder / f"{n:06}.calls").write_bytes(answer)
whole.unlink()
assert all(CallStore(folder).find(key_of(n)) for n in range(0, 2000, 97))
assert seal_abandoned(folder) == 2000
store = CallStore(folder)
assert all(store.find(key_of(n)) for n in range(2000))
print(len(store._runs), len(list(Path("/proc/self/fd").iterdir())))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    runs, descriptors = map(int, ran.stdout.split())
    assert runs == len(indexes(tmp_path)) <= 8
    assert descriptors < 100
    assert len(segments(tmp_path)) == 2000


def test_after_a_failed_write_what_was_written_is_found_and_the_next_answer_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CallStore(tmp_path)
    add(store, 1, 2)
    real = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) > 50:
            return real(descriptor, data[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("synthmill.storage.calls.os.write", full)
    with pytest.raises(StoreError, match="No space left on device"):
        add(store, 3)
    monkeypatch.undo()
    add(store, 4, 5)
    for reader in (store, CallStore(tmp_path)):
        assert [reader.find(key_of(n)) is not None for n in (1, 2, 3, 4, 5)] == [True, True, False, True, True]
    store.close()
    seal_abandoned(tmp_path)
    reader = CallStore(tmp_path)
    assert [reader.find(key_of(n)) is not None for n in (1, 2, 3, 4, 5)] == [True, True, False, True, True]
    assert len(segments(tmp_path)) == 2 and not reader._unsealed


def test_an_answer_that_was_asked_for_again_is_counted_and_not_served(tmp_path: Path) -> None:
    store = CallStore(tmp_path, origin={"run": "r1"})
    add(store, 1)
    first = store.find(key_of(1))
    asked = request(1).question_json()
    other = Completion(text="otherwise", prompt_tokens=5, completion_tokens=7, latency_s=1.0)
    facts = {"engine": "echo", "role": "student", "stage": "s", "step": "s-2"}
    store.add(key_of(1), ask_hash(asked), asked, other, repeated=True, **facts)
    store.flush()
    who = ("r1", "s", "s-2", "student", "echo")
    assert spent_in(tmp_path)[who][:4] == [1, 5, 7, 1.0]
    store.close()
    assert spent_in(tmp_path)[who][:4] == [1, 5, 7, 1.0]
    assert CallStore(tmp_path).find(key_of(1)) == first


def test_segments_that_an_earlier_version_sealed_are_found_and_sealed_anew(tmp_path: Path) -> None:
    store = CallStore(tmp_path)
    add(store, *range(20))
    store.close()
    [index], [segment] = indexes(tmp_path), segments(tmp_path)
    index.unlink()
    np.save(segment.with_suffix(".index.npy"), np.zeros((5, 20), np.uint64))  # as version 0.1 had it
    reader = CallStore(tmp_path)
    assert all(reader.find(key_of(n)) for n in range(20)) and not reader._unsealed
    assert indexes(tmp_path) and not list(tmp_path.glob("*.npy"))


def test_writers_see_each_other_after_a_refresh_and_only_the_dead_are_sealed(tmp_path: Path) -> None:
    one, two = CallStore(tmp_path), CallStore(tmp_path)
    add(one, 1)
    add(two, 2)
    assert one.find(key_of(2)) is None
    one.refresh()
    assert one.find(key_of(2)) is not None
    add(two, 3)
    one.refresh()
    assert one.find(key_of(3)) is not None
    assert seal_abandoned(tmp_path) == 0  # both are at work
    os.close(two._file)  # as a kill would
    assert seal_abandoned(tmp_path) == 1
    one.close()
    reader = CallStore(tmp_path)
    assert [reader.find(key_of(n)) is not None for n in (1, 2, 3)] == [True, True, True]


def test_a_segment_that_grew_behind_its_index_is_read_to_its_end(tmp_path: Path) -> None:
    store = CallStore(tmp_path)
    add(store, 1)
    [path] = segments(tmp_path)
    Segment(path).seal()  # as another process might, between our open and our lock
    add(store, 2)
    os.close(store._file)
    reader = CallStore(tmp_path)
    assert [reader.find(key_of(n)) is not None for n in (1, 2)] == [True, True]
    assert seal_abandoned(tmp_path) == 1
    reader = CallStore(tmp_path)
    assert [reader.find(key_of(n)) is not None for n in (1, 2)] == [True, True]
    assert seal_abandoned(tmp_path) == 0


def test_segments_roll_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_segments, "SEAL_AT_BYTES", 4000)
    store = CallStore(tmp_path)
    for n in range(60):
        add(store, n)
    assert len(segments(tmp_path)) > 3
    assert all(store.find(key_of(n)) for n in range(60))
    store.close()
    assert all(CallStore(tmp_path).find(key_of(n)) for n in range(60))


def test_indexes_are_merged_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthmill.storage.call_index.MERGED_AT_ONCE", 7)
    for start in range(0, 100, 10):
        store = CallStore(tmp_path)
        add(store, *range(start, start + 10))
        store.close()
    reader = CallStore(tmp_path)
    assert [run.header.count for run in reader._runs] == sorted(
        (run.header.count for run in reader._runs), reverse=True
    )
    assert sum(run.header.count for run in reader._runs) == 100 and len(reader._runs) < 5
    assert all(reader.find(key_of(n)) for n in range(100)) and reader.find(key_of(100)) is None


def test_answers_that_are_asked_for_in_order_are_read_by_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "WINDOW", 2000)
    monkeypatch.setattr(calls, "NEAR_BYTES", 4000)
    store = CallStore(tmp_path)
    add(store, *range(200))
    store.close()
    reader = CallStore(tmp_path)
    for n in [*range(200), 3, 150, *range(199, -1, -1)]:
        answer = reader.find(key_of(n))
        assert answer is not None and answer.text == f"answer {n}.0"


def test_what_was_asked_is_stored_once_for_many_samples(tmp_path: Path) -> None:
    store = CallStore(tmp_path)
    for sample in range(20):
        add(store, 1, sample=sample)
    store.close()
    assert segments(tmp_path)[0].read_bytes().count(b"question 1") == 1


def test_a_recording_holds_every_call_once(tmp_path: Path) -> None:
    for _ in range(2):
        store = CallStore(tmp_path / "calls")
        add(store, 1, 2)
        store.close()
    assert record_to(tmp_path / "calls", tmp_path / "recording") == 2
    assert CallStore(tmp_path / "recording").find(key_of(2)) is not None


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = CallStore(tmp_path / "file" / "calls")
    with pytest.raises(StoreError, match=r"cannot write .*file/calls"):
        add(store, 1)
