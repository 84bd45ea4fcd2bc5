"""Copies: many small files become a few, none twice, and what is damaged or gone is made again."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthmill.storage.copies import MERGED_AT, Copies

COLUMNS = {"number BIGINT": "length(name)"}
NAMES = [f"s{n}" for n in range(MERGED_AT)]


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Path]:
    """A small file for each name, which has a column called as one of the copy's."""
    files = {name: tmp_path / f"{name}.parquet" for name in NAMES}
    for name, path in files.items():
        pq.write_table(pa.table({"source": ["file"], "name": ["x" * (9 - int(name[1]))], "filename": ["f"]}), path)
    return files


def add_each(folder: Path, small: dict[str, Path]) -> Copies:
    for number in range(len(small)):
        Copies(folder, NAMES[: number + 1]).add_files(small, COLUMNS)
    return Copies(folder, NAMES)


def rows(copies: Copies, column: str = "source") -> list[object]:
    return [value for file in copies.files for value in pq.read_table(file)[column].to_pylist()]


def test_many_copies_are_merged_and_the_old_ones_go_an_hour_later(tmp_path: Path, small: dict[str, Path]) -> None:
    folder = tmp_path / "copies"
    copies = add_each(folder, small)
    assert not copies.missing and len(copies.files) == MERGED_AT
    copies.merge("number")
    assert len(copies.files) == 1 and sorted(map(str, rows(copies))) == NAMES
    assert rows(copies, "number") == sorted(9 - n for n in range(MERGED_AT))
    assert len(list(folder.iterdir())) == MERGED_AT + 1  # readers of an older catalog have the others open
    later = Copies(folder, NAMES)
    assert later.files == copies.files and not later.missing
    later.sweep()
    assert len(list(folder.iterdir())) == MERGED_AT + 1
    for path in later.superseded:
        os.utime(path, (0, 0))
    later.sweep()
    assert list(folder.iterdir()) == list(copies.files)


def test_a_copy_of_what_is_gone_or_damaged_is_not_used(tmp_path: Path, small: dict[str, Path]) -> None:
    folder = tmp_path / "copies"
    copies = Copies(folder, NAMES)
    copies.add_files(small, COLUMNS)
    few = Copies(folder, NAMES[:1])
    assert not few.files and few.missing == {"s0"}  # most of it is gone
    assert not Copies(folder, NAMES[1:]).missing
    assert Copies(folder, NAMES[1:], exact=True).missing == set(NAMES[1:])
    [path] = copies.files
    path.write_bytes(path.read_bytes()[:50])
    assert Copies(folder, NAMES).missing == set(NAMES)


def test_a_source_is_in_one_copy_even_if_two_processes_copied_it(tmp_path: Path, small: dict[str, Path]) -> None:
    both = [Copies(tmp_path / "copies", ["s0"]) for _ in range(2)]
    for copies in both:
        copies.add_files(small, COLUMNS)
    assert rows(Copies(tmp_path / "copies", ["s0"])) == ["s0"]


def test_copies_go_elsewhere_where_the_folder_is_only_read(tmp_path: Path, small: dict[str, Path]) -> None:
    folder = tmp_path / "copies"
    Copies(folder, NAMES[:3]).add_files(small, COLUMNS)
    copies = Copies(folder, NAMES, target=tmp_path / "elsewhere")
    copies.add_files(small, COLUMNS)
    assert sorted(map(str, rows(copies))) == NAMES and len(list(folder.iterdir())) == 1


def test_a_small_file_that_cannot_be_read_is_left_out(tmp_path: Path, small: dict[str, Path]) -> None:
    small["s1"].write_bytes(b"PAR1 nonsense PAR1")
    small["s2"].unlink()
    Copies(tmp_path / "copies", NAMES).add_files(small, COLUMNS)
    assert Copies(tmp_path / "copies", NAMES).missing == {"s1", "s2"}
    again = Copies(tmp_path / "copies", NAMES)
    again.add_files(small, COLUMNS)
    assert len(list((tmp_path / "copies").iterdir())) == 1  # none for nothing
