"""Artifacts: sealed parts are whole or made again, rows are conserved, and errors name the file and the remedy."""

from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from synthmill.schemas.artifacts import Loss, Manifest, PartSeal
from synthmill.schemas.errors import StoreError, SynthmillError
from synthmill.schemas.rows import Dropped, Instruction
from synthmill.storage import artifacts
from synthmill.storage.artifacts import (
    Store,
    losses_of,
    read_manifest,
    read_part,
    rows_to_table,
    seal_part,
    sealed_artifact,
    sealed_part,
    write_manifest,
)
from tests.conftest import instructions


def sealed(store: Store, key: str = "k", dropped: int = 0) -> PartSeal:
    rows = instructions(3)
    table = rows_to_table(Instruction, rows, [["a"]] * 3)
    drops = [Dropped(id=f"lost-{n}", reason="empty_answer") for n in range(dropped)]
    return seal_part(store, "stage", key, table, drops, ids_in=[row.id for row in rows] + [drop.id for drop in drops])


def flip(path: Path, at: int = 40) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 255
    path.write_bytes(data)


def test_a_sealed_part_says_what_became_of_every_row(store: Store) -> None:
    seal = sealed(store, dropped=2)
    assert (seal.rows_in, seal.rows, seal.dropped) == (5, 3, {"empty_answer": 2})
    assert sealed_part(store, "stage", "k") == seal
    assert read_part(store, seal)["id"].to_pylist() == ["row-0", "row-1", "row-2"]


def test_the_content_of_a_part_is_its_rows_not_its_calls(store: Store) -> None:
    rows = instructions(2)
    made = [
        seal_part(store, "stage", key, rows_to_table(Instruction, rows, calls), [], ids_in=[row.id for row in rows])
        for key, calls in (("a", [["x"], ["y"]]), ("b", [["z"], []]))
    ]
    assert made[0].content == made[1].content
    assert made[0].content != sealed(store).content


def test_the_content_of_rows_is_the_hash_of_their_arrow_stream() -> None:
    """Artifacts in stores hold it: it must not change."""
    table = pa.concat_tables([rows_to_table(Instruction, instructions(3), [["a"]] * 3)] * 2)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.drop_columns(["calls"]).schema) as stream:
        stream.write_table(table.drop_columns(["calls"]).combine_chunks())
    assert artifacts.table_content(table) == blake2b(sink.getvalue(), digest_size=16).hexdigest()


@pytest.mark.parametrize("what", ["file", "dropped_file"])
def test_a_part_that_fails_its_checksum_does_not_exist(store: Store, what: str) -> None:
    seal = sealed(store, dropped=1)
    flip(store.root / getattr(seal, what))
    assert sealed_part(store, "stage", "k") is None
    with pytest.raises(StoreError, match="does not match its checksum; run the same command again"):
        read_part(store, seal)


def test_a_part_without_its_seal_does_not_exist(store: Store) -> None:
    sealed(store)
    store.seal_path("stage", "k").write_text("{")
    assert sealed_part(store, "stage", "k") is None
    store.seal_path("stage", "k").unlink()
    assert sealed_part(store, "stage", "k") is None


def test_a_lost_row_is_a_bug_that_is_seen(store: Store) -> None:
    table = rows_to_table(Instruction, instructions(2), [[], []])
    with pytest.raises(SynthmillError, match="lost 1 of 3 rows, the first row-9"):
        seal_part(store, "stage", "k", table, [], ids_in=["row-0", "row-1", "row-9"])


def test_a_doubled_row_is_a_bug_that_is_seen(store: Store) -> None:
    rows = instructions(2)
    table = rows_to_table(Instruction, [*rows, rows[0]], [[], [], []])
    with pytest.raises(SynthmillError, match="doubled 1 of 2 rows, the first row-0"):
        seal_part(store, "stage", "k", table, [], ids_in=["row-0", "row-1"])
    both = [Dropped(id="row-1", reason="x")]
    with pytest.raises(SynthmillError, match="doubled 1 of 2 rows, the first row-1"):
        seal_part(store, "stage", "k", rows_to_table(Instruction, rows, [[], []]), both, ids_in=["row-0", "row-1"])


def test_a_part_that_lost_answers_to_an_engine_is_made_again(store: Store) -> None:
    table = rows_to_table(Instruction, instructions(1), [[]])
    seal = seal_part(store, "stage", "k", table, [], ids_in=["row-0"], lost={"00": Loss(error="engine_error: x")})
    assert sealed_part(store, "stage", "k") is None
    assert losses_of(store, "stage", "k") == {"00": Loss(runs=1, error="engine_error: x")}
    written = write_manifest(store, Manifest(stage="stage", key="k", identity={}, parts=(seal,)))
    assert sealed_artifact(store, "stage", "k", {}) is None
    assert read_part(store, written.parts[0]).num_rows == 1
    seal = seal_part(
        store, "stage", "k", table, [], ids_in=["row-0"], lost={"00": Loss(runs=2, error="engine_error: x")}
    )
    assert sealed_part(store, "stage", "k") == seal  # lost twice: settled, until it is asked for
    again = Store(store.root, retry_lost=True)
    assert sealed_part(again, "stage", "k") is None and losses_of(again, "stage", "k") == {}


def test_a_part_that_an_earlier_version_sealed_is_found(store: Store) -> None:
    table = rows_to_table(Instruction, instructions(1), [[]])
    seal = seal_part(store, "stage", "kk", table, [], ids_in=["row-0"])
    old = seal.model_copy(update={"file": "parts/stage/kk.parquet"})
    (store.root / seal.file).rename(store.root / old.file)
    store.seal_path("stage", "kk").unlink()
    fields = old.model_dump(mode="json", exclude={"lost"})
    store.flat_seal_path("stage", "kk").write_bytes(orjson.dumps(fields))
    assert sealed_part(store, "stage", "kk") == old


def test_an_artifact_is_done_when_its_manifest_says_so_and_everything_is_whole(store: Store) -> None:
    seal = sealed(store)
    manifest = Manifest(stage="stage", key="k", identity={}, sources={"source": "content"}, parts=(seal,))
    assert sealed_artifact(store, "stage", "k", {"source": "content"}) is None
    written = write_manifest(store, manifest)
    assert sealed_artifact(store, "stage", "k", {"source": "content"}) == written
    assert sealed_artifact(store, "stage", "k", {"source": "made anew, otherwise"}) is None
    flip(store.root / seal.file)
    assert sealed_artifact(store, "stage", "k", {"source": "content"}) is None


def test_damaged_and_foreign_files_are_named_with_a_remedy(store: Store, tmp_path: Path) -> None:
    path = store.manifest_path("stage", "k")
    path.parent.mkdir(parents=True)
    for content, says in (("{", "damaged"), ("[1]", "expected a JSON object"), ('{"format": 99}', "another version")):
        path.write_text(content)
        with pytest.raises(StoreError, match=says) as error:
            read_manifest(path)
        assert str(path) in error.value.message
        assert list(store.manifests()) == []
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.docx").write_text("mine")
    with pytest.raises(StoreError, match="is no synthmill store and not empty; choose another folder"):
        Store(foreign).prepare()
    (store.root / "synthmill.json").write_text('{"format": 2}')
    with pytest.raises(StoreError, match="has store format 2, this synthmill reads 1"):
        store.prepare()


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        Store(tmp_path / "file" / "store").prepare()


def test_two_who_make_one_part_at_once_do_not_spoil_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one's file comes between our file and our seal."""
    mine, theirs = (rows_to_table(Instruction, instructions(1), [[call]]) for call in ("mine", "theirs"))
    real = artifacts.write_table
    interrupted = False

    def interrupted_write(*arguments: Any) -> Any:
        nonlocal interrupted
        written = real(*arguments)
        if not interrupted:
            interrupted = True
            seal_part(store, "stage", "k", theirs, [], ids_in=["row-0"])
        return written

    monkeypatch.setattr(artifacts, "write_table", interrupted_write)
    seal = seal_part(store, "stage", "k", mine, [], ids_in=["row-0"])
    assert sealed_part(store, "stage", "k") == seal
    assert read_part(store, seal)["calls"].to_pylist() == [["mine"]]


def test_files_that_were_whole_are_read_again_only_when_somebody_touched_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = sealed(store)
    write_manifest(store, Manifest(stage="stage", key="k", identity={}, parts=(seal,)))
    monkeypatch.setattr(artifacts, "SETTLED_NS", -1)
    hashed: list[Path] = []
    real = artifacts.file_checksum

    def counted(path: Path) -> str:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(artifacts, "file_checksum", counted)
    for _ in range(3):
        assert sealed_artifact(store, "stage", "k", {}) is not None
    assert hashed == [store.root / seal.file]
    flip(store.root / seal.file)
    assert sealed_artifact(store, "stage", "k", {}) is None
    assert len(hashed) == 2
