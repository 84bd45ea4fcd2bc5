"""A dataset: tables by configuration and split, and the folder that `datasets.load_dataset` and trainers read.

README.md               the card: without it the dataset does not exist
synthmill.json          what each configuration is, how it came about, and a checksum of every file: marks the folder
                        as ours, and is written last
data/<config>/<split>-00000-of-00001.parquet

A chat is a list of {role, content}, where all messages have the same fields (storage/published/chats.py). What a
trainer reads as lines of JSON is <config>/<split>.jsonl.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from synthmill.schemas.errors import InputError, StoreError, SynthmillError
from synthmill.schemas.hashing import content_hash, file_checksum
from synthmill.storage.artifacts import match_checksums
from synthmill.storage.files import read_json, write_json, write_text
from synthmill.storage.published.cards import MergedCard, merged_card, outline, outline_of
from synthmill.storage.published.configurations import Content, Dataset, Figure, Table, data_folder
from synthmill.storage.published.row_streams import Columns, RowStream, parquet_batches, parquet_schema
from synthmill.storage.published.shards import with_texts, write_checked, write_pieces, write_shards

MARKER = "synthmill.json"
CARD = "README.md"
UNFINISHED = "card_before"
"""In the marker of a folder that is being written, the card that was there: the owner's words outlive a crash."""
OWN = (
    *("title", "intro", "body", "notes", "figures"),
    *("configs", "files", "written", "checksums", "card", UNFINISHED, "self"),
)
"""What the marker says in its own right; everything else in it are the dataset's facts."""


def write_dataset(
    folder: Path,
    dataset: Dataset,
    card: str,
    *,
    force: bool = True,
    overwritten: Callable[[str], None] = lambda _: None,
) -> int:
    """Write every configuration and split that has rows, then the card, the marker last; returns all rows. What an
    earlier dataset of ours wrote into the folder and this one does not, goes; nothing else is touched. What somebody
    wrote into the card stays (storage/published/cards.py), with `force` but for changes within our own sections.
    overwritten: is called with the name of each file of somebody else's that one of ours replaces.

    Raises InputError for such changes, StoreError for a folder that cannot be written.
    """
    before, earlier, remembered = files_of(folder), card_in(folder), outline_of(marker_of(folder))
    text = card_for(folder, card, force=force).text
    shards = dataset.shards()
    names = {*dataset.files, *chain.from_iterable(split_shards.names for split_shards in shards.values())}
    new = {name for name in names if not (folder / name).exists()}
    for name in sorted(names - new - before):
        overwritten(name)
    configs = {
        name: {"kind": t.kind, "about": t.about, "splits": {split: rows.height for split, rows in t.splits.items()}}
        | ({"lines": t.lines} if t.lines else {})
        for name, t in dataset.tables.items()
    }
    marker = {"title": dataset.title, "intro": dataset.intro, "body": dataset.body, "configs": configs, **dataset.facts}
    marker |= {"notes": list(dataset.notes), "figures": list(map(asdict, dataset.figures))}
    interim = {"files": [], "written": sorted(before | new), UNFINISHED: earlier, "card": remembered}
    write_json(folder / MARKER, {**marker, **interim})  # ours from now on
    try:
        (folder / CARD).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror}; choose another folder") from error
    checksums: dict[str, str] = {}
    for (name, split), split_shards in shards.items():
        table = dataset.tables[name]
        checksums |= write_shards(folder, split_shards, table.splits[split], table.objects)
    written = sorted(checksums)
    for name, content in dataset.files.items():
        checksums[name] = write_checked(folder / name, partial(write_content, content))
    for name in before - set(checksums):
        (folder / name).unlink(missing_ok=True)
    write_text(folder / CARD, text)
    marker |= {"files": sorted(dataset.files), "written": written, "checksums": checksums, "card": outline(card)}
    write_json(folder / MARKER, {**marker, "self": content_hash(marker)})
    return dataset.rows


def move_dataset(source: Path, target: Path) -> None:
    """Move a dataset's files into another folder, the marker last; what an earlier dataset of ours wrote there goes."""
    earlier, names = files_of(target), files_of(source)
    for name in [*sorted(names), CARD, MARKER]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).replace(target / name)
    for name in earlier - names:
        (target / name).unlink(missing_ok=True)


def card_for(folder: Path, card: str, *, force: bool) -> MergedCard:
    """A card of ours as it is written into a folder, with what its owner wrote there. Raises as `write_dataset`."""
    return merged_card(card, card_in(folder), outline_of(marker_of(folder)), str(folder / CARD), force=force)


def card_in(folder: Path) -> str:
    """The card in a folder, or the one that was there before an unfinished dataset. Raises StoreError if unreadable."""
    marker = marker_of(folder)
    if UNFINISHED in marker:
        return str(marker[UNFINISHED])
    try:
        return (folder / CARD).read_text("utf-8-sig") if (folder / CARD).is_file() else ""
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder / CARD} cannot be read ({error}); move it away") from error


def write_content(content: Content, path: Path) -> None:
    write_pieces([content] if isinstance(content, bytes) else content(), path)


def files_of(folder: Path) -> set[str]:
    """What a dataset of ours consists of besides card and marker: what its marker lists, and nothing else."""
    marker = marker_of(folder)
    return {name for name in (*marker.get("files", ()), *marker.get("written", ())) if is_inside(folder, name)}


def is_inside(folder: Path, name: Any) -> bool:
    """Whether a name that a marker has is of a file in its folder: somebody else may have written the marker."""
    return isinstance(name, str) and (folder / name).resolve().is_relative_to(folder.resolve())


def marker_of(folder: Path) -> dict[str, Any]:
    """A dataset's synthmill.json; empty where there is none, or one that says nothing of this kind."""
    try:
        marker = read_json(folder / MARKER)
    except StoreError:
        return {}
    lists = all(isinstance(marker.get(name), list) for name in ("files", "written"))
    return marker if lists and isinstance(marker.get("configs"), dict) else {}


def read_dataset(folder: Path, *, check: bool = True) -> Dataset:
    """What write_dataset wrote as Parquet, its rows still in their files. Raises InputError for a folder without a card
    of ours, StoreError where anything in it is not as it was written. check: whether files are read to know that.
    """
    if not is_finished(folder):
        raise InputError(f"{folder} is no dataset of synthmill's, or an unfinished one; run its flow again")
    marker = marker_of(folder)
    try:
        if check:
            check_files(folder, marker)
        filled = {name: config for name, config in marker["configs"].items() if any(config["splits"].values())}
        parquet = {name: config for name, config in filled.items() if not config.get("lines")}
        tables = {
            name: Table(
                {
                    split: shard_rows(folder, marker["written"], f"{data_folder(filled, name)}/{split}-", rows)
                    for split, rows in config["splits"].items()
                    if rows
                },
                config["kind"],
                config["about"],
            )
            for name, config in parquet.items()
        }
        files = {name: (folder / name).read_bytes() for name in marker["files"] if is_inside(folder, name)}
        texts = marker["title"], marker["intro"], marker["body"]
        notes, figures = list(map(str, marker.get("notes", ()))), list(map(Figure.read, marker.get("figures", ())))
    except (OSError, KeyError, TypeError, AttributeError, pa.ArrowInvalid) as error:
        raise damaged(folder, f"{type(error).__name__}: {error}") from error
    facts = {name: value for name, value in marker.items() if name not in OWN}
    return Dataset(texts[0], texts[1], tables, texts[2], files, facts, notes=notes, figures=figures)


def damaged(folder: Path, what: str) -> StoreError:
    """The error for a folder that is not as it was written."""
    shortened = " ".join(what.split())[:200]
    return StoreError(f"{folder} is damaged ({shortened}); run its flow again: it is written anew, nothing is asked")


def check_files(folder: Path, marker: Mapping[str, Any]) -> None:
    """Raises StoreError where marker or files are not what was written; a dataset from before there were checksums has
    none to check.
    """
    if not {"checksums", "self"} & marker.keys():
        return
    if not is_own_checksum(marker):
        raise damaged(folder, f"{MARKER} does not match its own checksum")
    for name in (*marker["written"], *marker["files"]):
        if not is_inside(folder, name) or not (folder / name).is_file():
            raise damaged(folder, f"{name} is gone")
        if file_checksum(folder / name) != marker["checksums"].get(name):
            raise damaged(folder, f"{name} does not match its checksum")


def shard_rows(folder: Path, written: Sequence[str], start: str, rows: int) -> RowStream:
    """The rows of a split. Raises StoreError where there are more or fewer than the marker says."""
    shards = [folder / name for name in written if name.startswith(start) and is_inside(folder, name)]
    if any(not shard.is_file() for shard in shards):
        raise damaged(folder, f"a shard of {start} is gone")
    counted = sum(pq.read_metadata(shard).num_rows for shard in shards)
    if counted != rows:
        raise damaged(folder, f"{start} has {counted:,} rows, its marker says {rows:,}")

    def read(columns: Columns) -> Iterator[pl.DataFrame]:
        try:
            for shard in shards:
                for table in parquet_batches(shard, columns):
                    yield pl.DataFrame(table.cast(with_texts(table.schema)))
        except (OSError, pa.ArrowInvalid) as error:
            raise damaged(folder, f"{type(error).__name__}: {error}") from error

    return RowStream(read, lambda: rows, lambda: parquet_schema(shards[0], with_texts))


def check_whole(folder: Path) -> None:
    """Raises InputError where there is no dataset in a folder, StoreError where it is not as it was written."""
    read_dataset(folder)


def is_whole(folder: Path) -> bool:
    """Whether there is a dataset in a folder, and every file of it is as it was written."""
    try:
        check_whole(folder)
    except SynthmillError:
        return False
    return True


def is_known_whole(folder: Path, memory: Path) -> bool:
    """As `is_whole`, but files that matched once, and that nobody has changed since, are not read again.

    memory: the file that says what they looked like.
    """
    marker = marker_of(folder)
    if not is_finished(folder) or "checksums" not in marker or not is_own_checksum(marker):
        return is_whole(folder)
    names = (*marker["written"], *marker["files"])
    if any(not is_inside(folder, name) or name not in marker["checksums"] for name in names):
        return False
    return match_checksums({folder / name: marker["checksums"][name] for name in names}, memory, marker["self"])


def has_figures(folder: Path) -> bool:
    """Whether a dataset's marker says what to show beside its rows; those of before version 0.1's figures do not."""
    return "figures" in marker_of(folder)


def is_own_checksum(marker: Mapping[str, Any]) -> bool:
    """Whether a marker matches its own checksum."""
    return content_hash({name: value for name, value in marker.items() if name != "self"}) == marker.get("self")


def is_finished(folder: Path) -> bool:
    """Whether a dataset in a folder was written to its end."""
    marker = marker_of(folder)
    return bool(marker) and UNFINISHED not in marker and (folder / CARD).is_file()


def is_ours(folder: Path) -> bool:
    """Whether a folder may be written over: there is nothing in it, or a dataset of ours."""
    return not folder.exists() or (folder.is_dir() and (bool(marker_of(folder)) or not any(folder.iterdir())))
