"""The call store: what was added is found, what is torn or damaged is not, and any number of writers get along."""

import os
from pathlib import Path

import numpy as np
import pytest

from schemas.calls import Completion, Message, Request, Sampling, ask_hash, call_key
from schemas.errors import StoreError
from storage import calls
from storage.calls import CallStore, Segment, record_to, seal_abandoned


def request(n: int) -> Request:
    return Request(role="student", messages=(Message(role="user", content=f"question {n}"),), sampling=Sampling(seed=1))


def key_of(n: int, sample: int = 0) -> bytes:
    return call_key("echo", ask_hash(request(n).asked()), sample)


def add(store: CallStore, *numbers: int, sample: int = 0) -> None:
    for n in numbers:
        asked = request(n).asked()
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
        assert reader.find(key_of(3, 1)) == found.model_copy(update={"text": "answer 3.1", "completion_tokens": 3})
        assert reader.find(key_of(51)) is None
    store.close()
    sealed = CallStore(tmp_path)
    assert [sealed.find(key_of(n)) is not None for n in (0, 49, 50)] == [True, True, False]


def test_what_identifies_a_call() -> None:
    base = key_of(1)
    asked = request(1).asked()
    other = request(1).model_copy(update={"sampling": Sampling(seed=2)})
    assert call_key("echo", ask_hash(asked), 0) == base
    assert call_key("other", ask_hash(asked), 0) != base
    assert call_key("echo", ask_hash(asked), 1) != base
    assert call_key("echo", ask_hash(other.asked()), 0) != base
    assert request(1).model_copy(update={"role": "judge"}).asked() == asked  # a role is no part of what the model sees


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


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    store = CallStore(tmp_path)
    add(store, 1)
    store.close()
    [path] = segments(tmp_path)
    index = Segment(path).index_path
    index.write_bytes(b"nonsense")
    assert CallStore(tmp_path).find(key_of(1)) is not None
    index.write_bytes(b"")
    assert CallStore(tmp_path).find(key_of(1)) is not None
    np.save(index, np.full((5, 1), 2**64 - 5, dtype=np.uint64))
    assert CallStore(tmp_path).find(key_of(1)) is not None
    assert seal_abandoned(tmp_path) == 1
    assert CallStore(tmp_path).find(key_of(1)) is not None


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
    early = Segment(path)
    early.refresh()
    early.seal()  # as another process might, between our open and our lock
    add(store, 2)
    os.close(store._file)
    reader = CallStore(tmp_path)
    assert [reader.find(key_of(n)) is not None for n in (1, 2)] == [True, True]
    assert seal_abandoned(tmp_path) == 1
    reader = CallStore(tmp_path)
    assert [reader.find(key_of(n)) is not None for n in (1, 2)] == [True, True]
    assert seal_abandoned(tmp_path) == 0


def test_segments_roll_over_and_large_ones_are_not_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SEAL_AT_BYTES", 4000)
    monkeypatch.setattr(calls, "SMALL", 5)
    store = CallStore(tmp_path)
    for n in range(60):
        add(store, n)
    assert len(segments(tmp_path)) > 3
    assert all(store.find(key_of(n)) for n in range(60))
    store.close()
    assert all(CallStore(tmp_path).find(key_of(n)) for n in range(60))


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
