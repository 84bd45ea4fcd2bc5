"""A dataset's folder: shards, checksums, what goes and what stays, whatever was in the folder before."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from synthmill.schemas.errors import InputError, StoreError
from synthmill.storage import artifacts
from synthmill.storage.files import write_atomically
from synthmill.storage.published import shards
from synthmill.storage.published.card_metadata import metadata
from synthmill.storage.published.chats import chats_in
from synthmill.storage.published.configurations import Dataset, Table
from synthmill.storage.published.folder import (
    is_finished,
    is_known_whole,
    is_ours,
    is_whole,
    read_dataset,
    write_dataset,
)
from synthmill.storage.published.row_streams import RowStream
from tests.command import environment
from tests.storage.test_formats import pairs, said


def test_shards_are_bounded_and_read_back(tmp_path: Path) -> None:
    rows = pairs(1000)
    dataset = Dataset(
        "Title", "Intro.", {"a": Table.of(rows, "preferences", "a pair"), "none": Table.of(rows[:0], "other", "")}
    )
    size = rows.to_arrow().nbytes
    assert write_dataset(tmp_path / "out", replace(dataset, shard_bytes=size // 5), "card") == 1000
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert 3 <= len(names) <= 6 and names[0].startswith("train-00000-of-0000")
    again = read_dataset(tmp_path / "out")
    assert again.tables["a"].rows.frame().equals(rows) and again.tables["a"].kind == "preferences"
    write_dataset(tmp_path / "out", dataset, "card")
    assert [path.name for path in (tmp_path / "out" / "data").iterdir()] == ["train-00000-of-00001.parquet"]
    assert is_ours(tmp_path / "out") and is_ours(tmp_path / "absent") and not is_ours(Path(__file__).parent)


def test_nothing_but_our_own_files_goes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.parquet").write_text("precious")
    first = Dataset("t", "i", {"a": Table.of(pairs(4), "preferences", "")}, files={"ids/a-test.txt": b"x"})
    write_dataset(tmp_path, replace(first, shard_bytes=1), "card")
    assert len(list((tmp_path / "data").iterdir())) == 5
    write_dataset(tmp_path, Dataset("t", "i", first.tables), "card")
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"README.md", "synthmill.json", "data/mine.parquet", "data/train-00000-of-00001.parquet"}
    (tmp_path / "data" / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(StoreError, match="is damaged"):
        read_dataset(tmp_path)


def test_an_unfinished_dataset_is_ours_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset("t", "i", {"a": Table.of(pairs(40), "preferences", "")}, shard_bytes=1)
    written = []

    def dying(path: Path, write: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write_atomically(path, write)

    write_dataset(tmp_path / "out", dataset, "card")
    (tmp_path / "out" / "README.md").write_text("card\n\n## Mine\n\nby hand\n")
    monkeypatch.setattr(shards, "write_atomically", dying)
    for _ in range(2):
        written.clear()
        with pytest.raises(KeyboardInterrupt):
            write_dataset(tmp_path / "out", replace(dataset, shard_bytes=1_000), "card")
    monkeypatch.undo()
    assert is_ours(tmp_path / "out") and not is_finished(tmp_path / "out")
    assert not (tmp_path / "out" / "README.md").exists()
    write_dataset(tmp_path / "out", replace(dataset, shard_bytes=1 << 20), "card")
    assert "by hand" in (tmp_path / "out" / "README.md").read_text()  # what its owner wrote outlives a crash
    assert [path.name for path in (tmp_path / "out" / "data").iterdir()] == ["train-00000-of-00001.parquet"]


def test_a_file_of_somebody_elses_that_is_written_over_is_named(tmp_path: Path) -> None:
    dataset = Dataset("t", "i", {"a": Table.of(pl.DataFrame({"id": ["1"]}), "other", "a row")})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"theirs")
    names: list[str] = []
    write_dataset(tmp_path, dataset, "card", overwritten=names.append)
    write_dataset(tmp_path, dataset, "card", overwritten=names.append)  # ours by now
    assert names == ["data/train-00000-of-00001.parquet"]


def test_files_that_were_whole_are_not_read_again_unless_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, memory = tmp_path / "out", tmp_path / "memory.json"
    write_dataset(folder, Dataset("t", "i", {"a": Table.of(pl.DataFrame({"id": ["1"]}), "other", "a row")}), "card")
    monkeypatch.setattr(artifacts, "SETTLED_NS", 0)
    assert is_known_whole(folder, memory) and memory.exists()
    monkeypatch.setattr(artifacts, "file_checksum", lambda _: pytest.fail("read again"))
    assert is_known_whole(folder, memory)
    monkeypatch.undo()
    [shard] = (folder / "data").iterdir()
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert not is_known_whole(folder, memory)
    shard.unlink()
    assert not is_known_whole(folder, memory)


def test_a_foreign_marker_reaches_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("precious")
    folder = tmp_path / "out"
    folder.mkdir()
    for marker in (
        {"configs": {}, "files": ["../precious.txt"], "written": ["../precious.txt", 1, None]},
        {"configs": 5, "files": [], "written": []},
        {"configs": {}},
        [],
    ):
        (folder / "synthmill.json").write_text(json.dumps(marker))
        (folder / "README.md").write_text("x")
        with pytest.raises((InputError, StoreError)):
            read_dataset(folder)
        write_dataset(folder, Dataset("t", "i", {"a": Table.of(pairs(2), "preferences", "")}), "card")
    assert (tmp_path / "precious.txt").read_text() == "precious"


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_no_flipped_bit_is_read_as_other_rows(tmp_path: Path) -> None:
    """Some bits of a shard and of the marker, and all of a small file."""
    written = Dataset("t", "i", {"a": Table.of(pairs(4), "preferences", "")}, files={"note.txt": b"four rows"})
    write_dataset(tmp_path, written, "card")
    assert is_whole(tmp_path)
    for name, step in (("data/train-00000-of-00001.parquet", 61), ("note.txt", 1), ("synthmill.json", 61)):
        path = tmp_path / name
        data = path.read_bytes()
        for bit in range(0, 8 * len(data), step):
            path.write_bytes(flipped(data, bit))
            with pytest.raises((StoreError, InputError)):
                read_dataset(tmp_path)
        path.write_bytes(data)
    assert read_dataset(tmp_path).tables["a"].rows.frame().equals(pairs(4))


def test_a_shard_that_is_gone_or_another_is_damage(tmp_path: Path) -> None:
    write_dataset(tmp_path, Dataset("t", "i", {"a": Table.of(pairs(4), "preferences", "")}), "card")
    shard = tmp_path / "data" / "train-00000-of-00001.parquet"
    pairs(3).write_parquet(shard)
    with pytest.raises(StoreError, match=r"train-00000-of-00001\.parquet does not match its checksum"):
        read_dataset(tmp_path)
    shard.unlink()
    shard.mkdir()
    with pytest.raises(StoreError, match="is gone"):
        read_dataset(tmp_path)
    assert not is_whole(tmp_path)


def without_checksums(folder: Path) -> None:
    """As datasets were written before they had any."""
    marker = json.loads((folder / "synthmill.json").read_text())
    for name in ("checksums", "card", "self"):
        del marker[name]
    (folder / "synthmill.json").write_text(json.dumps(marker))


def test_a_dataset_without_checksums_is_read_and_written_over(tmp_path: Path) -> None:
    dataset = Dataset("t", "i", {"a": Table.of(pairs(4), "preferences", "")}, facts={"flow": "f"})
    write_dataset(tmp_path, dataset, "card")
    without_checksums(tmp_path)
    again = read_dataset(tmp_path)
    assert again.tables["a"].rows.frame().equals(pairs(4)) and again.facts == {"flow": "f"}
    shard = tmp_path / "data" / "train-00000-of-00001.parquet"
    pairs(3).write_parquet(shard)
    with pytest.raises(StoreError, match="has 3 rows, its marker says 4"):
        read_dataset(tmp_path)
    write_dataset(tmp_path, dataset, "card")
    assert is_whole(tmp_path)


def test_nobody_elses_shards_go_or_are_read(tmp_path: Path) -> None:
    """A folder that is not ours, written into by force, twice, with more shards the second time."""
    theirs = tmp_path / "data" / "train-00000-of-00007.parquet"
    theirs.parent.mkdir()
    pairs(3).write_parquet(theirs)
    data = theirs.read_bytes()
    dataset = Dataset("t", "i", {"a": Table.of(pairs(40), "preferences", "")})
    for shard_bytes in (1 << 20, 100, 1 << 20):
        write_dataset(tmp_path, replace(dataset, shard_bytes=shard_bytes), "card")
        assert theirs.read_bytes() == data
        assert read_dataset(tmp_path).rows == 40
    from datasets import load_dataset

    [shards_] = dataset.shards().values()
    loaded = load_dataset("parquet", data_files=str(tmp_path / shards_.pattern), split="train")
    assert len(loaded) == 40


def test_rows_are_written_batch_by_batch(tmp_path: Path) -> None:
    """Batches and shards that do not begin at the same rows; nothing is lost between them, and no split is whole."""
    rows = pairs(1000)
    starts = [0, 1, 333, 334, 900, 900]
    stream = RowStream(
        lambda columns: (
            (rows if columns is None else rows.select(columns))[start:end]
            for start, end in zip(starts, [*starts[1:], 1000], strict=True)
        )
    )
    assert (stream.height, stream.frame().equals(rows)) == (1000, True)
    assert stream.take([0, 333, 899, 999])["id"].to_list() == ["pair0", "pair333", "pair899", "pair999"]
    assert stream.filter(pl.col("id").str.ends_with("9")).height == 100
    dataset = Dataset("t", "i", {"a": Table.of(stream, "preferences", "")}, shard_bytes=stream.size // 7)
    write_dataset(tmp_path, dataset, "card")
    assert len(list((tmp_path / "data").iterdir())) == 8
    assert read_dataset(tmp_path).tables["a"].rows.frame().equals(rows)


LARGE = """
import sys
from pathlib import Path
import polars as pl
from synthmill.storage.published.configurations import (Dataset, Table)
from synthmill.storage.published.folder import (read_dataset, write_dataset)
from synthmill.storage.published.row_streams import RowStream

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10

def batches(columns):
    for start in range(0, 496_000, 8_000):
        ids = [f"{n:08}" for n in range(start, start + 8_000)]
        yield pl.DataFrame({"id": ids, "prompt": [row_id * 250 for row_id in ids]})

folder, before = Path(sys.argv[1]), held()
dataset = Dataset("t", "i", {"a": Table.of(RowStream(batches), "prompts", "")}, shard_bytes=100 << 20)
write_dataset(folder, dataset, "card")
again = read_dataset(folder).tables["a"].rows
letters = sum(batch["prompt"].str.len_chars().sum() for batch in again.batches(["prompt"]))
print(letters, len(list((folder / "data").iterdir())), held() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is what Linux says of it")
def test_a_dataset_is_written_and_read_in_less_memory_than_it_has(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LARGE, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path), check=True)
    letters, shard_count, held_mib = map(int, done.stdout.split())
    assert (letters, shard_count) == (496_000 * 2_000, 10)
    assert held_mib < 500, f"{held_mib} MiB for 992 MB of rows"


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"n": 1}'}}
CHAT = [said("user", "[x]"), {**said("assistant", ""), "tool_calls": [CALL]}, said("assistant", "y")]


def loaded_by_datasets(folder: Path, cache: Path) -> Any:
    """The first row of a folder's only configuration, by the library that trainers use."""
    from datasets import load_dataset

    file = str(cache / "x.parquet")
    (folder / "data" / "train-00000-of-00001.parquet").rename(file)  # by a name without brackets
    return load_dataset("parquet", data_files=file, split="train", cache_dir=str(cache / "cache"))[0]


def test_a_chat_with_calls_has_the_same_fields_in_every_message(tmp_path: Path) -> None:
    rows = pl.DataFrame([{"id": "a", "messages": [json.dumps(one) for one in CHAT]}])
    folder = tmp_path / "exp[1]"
    dataset = Dataset("t", "i", {"sft": Table.of(rows, "conversations", "")})
    head = metadata("f", dataset, "mit", [])
    write_dataset(folder, dataset, "card")
    [messages] = read_dataset(folder).tables["sft"].rows.frame()["messages"].to_list()
    assert [{**message} for message in messages] == [{"tool_calls": None, **message} for message in CHAT]
    assert loaded_by_datasets(folder, tmp_path)["messages"] == messages
    assert "json" not in head.casefold()  # a feature that `datasets` has since 4.7 only


def test_a_chat_of_json_that_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    rows = pl.DataFrame([{"id": "a", "messages": [json.dumps(one) for one in CHAT]}])
    as_before = Table.of(rows, "conversations", "", objects=("messages",))
    write_dataset(tmp_path / "old", Dataset("t", "i", {"sft": as_before}), "card")
    table = read_dataset(tmp_path / "old").tables["sft"]
    assert chats_in(table.rows.frame()["messages"]) == [CHAT] and table.rows.frame().schema == table.rows.schema
    assert loaded_by_datasets(tmp_path / "old", tmp_path)["messages"] == CHAT
