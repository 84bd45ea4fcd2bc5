"""Copies: many small files become a few, none twice, and what is damaged or gone is made again."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.copies import MERGED_AT, Copies, merge_files, read_many

SCHEMA = pa.schema([("source", pa.string()), ("number", pa.int64())])


def add(folder: Path, names: list[str], wanted: list[str]) -> Copies:
    copies = Copies(folder, wanted)
    for name in names:
        copies.add_table(SCHEMA, [([name], pa.table({"source": [name], "number": [len(name)]}))])
    return copies


def rows(copies: Copies) -> list[str]:
    return sorted(name for file in copies.files for name in pq.read_table(file)["source"].to_pylist())


def test_many_copies_are_merged_and_the_old_ones_go_an_hour_later(tmp_path: Path) -> None:
    names = [f"s{n}" for n in range(MERGED_AT)]
    copies = add(tmp_path, names, names)
    assert copies.missing == set(names) and len(copies.files) == MERGED_AT
    copies.merge("number")
    assert len(copies.files) == 1 and rows(copies) == names
    assert len(list(tmp_path.iterdir())) == MERGED_AT + 1  # readers of an older catalog have the others open
    later = Copies(tmp_path, names)
    assert later.files == copies.files and not later.missing
    for path in later.superseded:
        os.utime(path, (0, 0))
    later.sweep()
    assert list(tmp_path.iterdir()) == list(copies.files)


def test_a_copy_of_what_is_gone_or_damaged_is_not_used(tmp_path: Path) -> None:
    copies = add(tmp_path, [f"s{n}" for n in range(MERGED_AT)], [])
    copies.merge()
    for path in copies.superseded:
        path.unlink()
    few = Copies(tmp_path, ["s0"])
    assert not few.files and few.missing == {"s0"}  # most of it is gone
    most = [f"s{n}" for n in range(1, MERGED_AT)]
    assert not Copies(tmp_path, most).missing
    assert Copies(tmp_path, most, exact=True).missing == set(most)
    [path] = copies.files
    path.write_bytes(path.read_bytes()[:50])
    assert Copies(tmp_path, most).missing == set(most)


def test_a_source_is_in_one_copy_even_if_two_processes_copied_it(tmp_path: Path) -> None:
    add(tmp_path, ["a"], ["a"])
    add(tmp_path, ["a"], ["a"])
    assert rows(Copies(tmp_path, ["a"])) == ["a"]


def test_copies_go_elsewhere_where_the_folder_is_only_read(tmp_path: Path) -> None:
    add(tmp_path / "store", ["a"], ["a"])
    copies = Copies(tmp_path / "store", ["a", "b"], target=tmp_path / "elsewhere")
    copies.add_table(SCHEMA, [(["b"], pa.table({"source": ["b"], "number": [1]}))])
    assert rows(copies) == ["a", "b"] and len(list((tmp_path / "store").iterdir())) == 1


def test_a_small_file_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    files = {}
    for name in ("a", "b", "c"):
        files[name] = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"source": ["mine"], "id": [name], "filename": ["f"]}), files[name])
    files["b"].write_bytes(b"PAR1 nonsense PAR1")
    files["d"] = tmp_path / "gone.parquet"
    read = list(read_many(files, "id"))
    assert [names for names, _ in read] == [["a"], ["c"]]
    assert [table.to_pylist() for _, table in read] == [[{"source": "a", "id": "a"}], [{"source": "c", "id": "c"}]]
    copies = Copies(tmp_path / "copies", ["b"])
    copies.add_table(SCHEMA, [])
    assert not copies.files and not list((tmp_path / "copies").iterdir())


def test_merging_sorts(tmp_path: Path) -> None:
    pq.write_table(pa.table({"source": ["a", "b"], "number": [2, 1]}), tmp_path / "unsorted.parquet")
    merge_files([tmp_path / "unsorted.parquet"], ["a", "b"], tmp_path / "sorted.parquet", "number")
    assert pq.read_table(tmp_path / "sorted.parquet")["number"].to_pylist() == [1, 2]
