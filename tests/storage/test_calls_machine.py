"""Whatever happens to a call store, every answer that was shown to a recipe is found, by every reader."""

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from synthmill.storage import calls, segments
from synthmill.storage.calls import CallStore
from synthmill.storage.segments import Segment, seal_abandoned, segment_files, spent_in
from tests.storage.test_calls import add, indexes, key_of


class Calls(RuleBasedStateMachine):
    """Two writers over one folder; either may fail to write, die, seal, or come back."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.writers = [CallStore(self.folder), CallStore(self.folder)]
        self.shown: set[int] = set()
        self.next = 0
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(os, "fsync", lambda _: None)
        self.patch.setattr(segments, "SEAL_AT_BYTES", 3000)
        self.patch.setattr(calls, "WINDOW", 1024)
        self.patch.setattr(calls, "OPEN_FILES", 2)

    def teardown(self) -> None:
        for writer in self.writers:
            writer.close()
        self.patch.undo()
        shutil.rmtree(self.folder)

    def fresh(self, count: int) -> range:
        self.next += count
        return range(self.next - count, self.next)

    @rule(which=st.integers(0, 1), count=st.integers(1, 12))
    def answers_arrive(self, which: int, count: int) -> None:
        numbers = self.fresh(count)
        add(self.writers[which], *numbers)
        self.shown |= set(numbers)

    @rule(which=st.integers(0, 1), count=st.integers(1, 3), written=st.integers(0, 400))
    def a_write_fails(self, which: int, count: int, written: int) -> None:
        real = os.write

        def full(descriptor: int, data: Any) -> int:
            nonlocal written
            if not written:
                raise OSError(errno.ENOSPC, "No space left on device")
            wrote = real(descriptor, data[:written])
            written -= wrote
            return wrote

        numbers = self.fresh(count)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("synthmill.storage.calls.os.write", full)
            try:
                add(self.writers[which], *numbers)
                self.shown |= set(numbers)
            except calls.StoreError:
                pass

    @rule(which=st.integers(0, 1))
    def a_writer_is_killed(self, which: int) -> None:
        writer = self.writers[which]
        if writer._file >= 0:
            os.close(writer._file)
            path = writer._own.path
            writer._file, writer._own = -1, None
            with path.open("ab") as file:
                file.write(b"0123 torn")  # what it was about to write, perhaps
        writer.close()
        self.writers[which] = CallStore(self.folder)

    @rule(which=st.integers(0, 1))
    def a_writer_ends(self, which: int) -> None:
        self.writers[which].close()
        self.writers[which] = CallStore(self.folder)

    @rule(which=st.integers(0, 1))
    def a_writer_looks_again(self, which: int) -> None:
        self.writers[which].refresh()

    @rule()
    def the_dead_are_sealed(self) -> None:
        seal_abandoned(self.folder)

    @precondition(lambda self: indexes(self.folder))
    @rule(which=st.integers(0, 9), where=st.integers(0, 1 << 20), bit=st.integers(0, 7))
    def an_index_is_damaged(self, which: int, where: int, bit: int) -> None:
        index = indexes(self.folder)[which % len(indexes(self.folder))]
        content = bytearray(index.read_bytes())
        content[where % len(content)] ^= 1 << bit
        index.write_bytes(content)

    @precondition(lambda self: indexes(self.folder))
    @rule(which=st.integers(0, 9))
    def an_index_is_lost(self, which: int) -> None:
        indexes(self.folder)[which % len(indexes(self.folder))].unlink()

    @invariant()
    def what_was_shown_is_found(self) -> None:
        reader = CallStore(self.folder)
        for n in self.shown:
            answer = reader.find(key_of(n))
            assert answer is not None and answer.text == f"answer {n}.0"
        reader.close()
        for writer in self.writers:
            writer.refresh()
            assert all(writer.find(key_of(n)) for n in self.shown)
        assert CallStore(self.folder).find(key_of(self.next)) is None

    @invariant()
    def what_was_written_is_counted_once(self) -> None:
        written = sum(kind == b"A" for path in segment_files(self.folder) for kind, *_ in Segment(path).lines())
        assert sum(numbers[0] for numbers in spent_in(self.folder).values()) == written


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
