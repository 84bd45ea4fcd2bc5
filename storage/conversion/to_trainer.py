"""A file of chats for a trainer: a folder with what its reader takes, and the configuration beside it.

Rows go into a scratch file once, and from there through storage/published/for_trainer.py, as a run's dataset does.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.export_settings import ExportSettings
from synthmill.schemas.formats import Part, ThinkingPlace, Use
from synthmill.storage.conversion.chat_files import ChatFile, Look, OnRows, Placed, batched, kind_for
from synthmill.storage.conversion.frames import KINDS, frame_of
from synthmill.storage.conversion.tally import Count, Report
from synthmill.storage.plain_files.chat_rows import ChatKind, ChatRow, differences
from synthmill.storage.plain_files.forms import chat_in
from synthmill.storage.plain_files.outputs import write_rows
from synthmill.storage.published.chats import used
from synthmill.storage.published.configurations import Dataset, Table
from synthmill.storage.published.folder import move_dataset, write_dataset
from synthmill.storage.published.for_trainer import splits_for, tables_for
from synthmill.storage.published.forms.messages import PROVENANCE
from synthmill.storage.published.known_trainers import trainer
from synthmill.storage.published.row_faults import CHATS, faults_of
from synthmill.storage.published.row_streams import OLDEST, RowStream, parquet_batches, parquet_schema

ACCEPTED: Mapping[Use, tuple[ChatKind, ...]] = {
    "sft": ("completion", "conversation"),
    "pairs": ("preference",),
    "reward": ("preference",),
    "kto": ("label",),
    "prompts": ("prompt",),
    "self-distillation": ("conversation",),
}
"""The kinds of rows that a use is made of."""
USUAL: Mapping[ChatKind, Use] = {
    "conversation": "sft",
    "completion": "sft",
    "preference": "pairs",
    "ranking": "pairs",
    "label": "kto",
    "prompt": "prompts",
}
NAME = "chats"
"""What the table is called; with its use, the name of its files."""


class Job(NamedTuple):
    """What a conversion is for. use: what to train; empty: what most rows are made for; as_text: what may be written
    into texts where the trainer cannot hold it.
    """

    trainer: str
    use: Use | None = None
    thinking: ThinkingPlace = ""
    as_text: tuple[Part, ...] = ()


def convert_for_trainer(file: ChatFile, job: Job, out: Path, look: Look, on_rows: OnRows) -> Report:
    """Write a file of chats for a trainer into a folder, all of it or nothing; rows that the trainer cannot hold are
    left out. Raises InputError.
    """
    known = trainer(job.trainer)
    use = job.use or USUAL[look.kinds.most_common(1)[0][0]]
    if use not in ACCEPTED or use not in known.forms:
        uses = ", ".join(name for name in known.forms if name in ACCEPTED)
        raise InputError(f"{known.title} has no {use} of chats; choose with --as: {uses}")
    kind = kind_for(look.kinds, ACCEPTED[use], use)
    report = Report(file.form.name, look.rows, kinds={str(name): count for name, count in look.kinds.items()})
    check_folder(out)
    with TemporaryDirectory(dir=out.resolve().parent, prefix=".convert-") as folder:
        scratch, converted = Path(folder) / "rows.parquet", Path(folder) / "made"
        schema = frame_of([], [], kind, look).to_arrow(compat_level=OLDEST).schema
        places: list[str] = []
        settings = ExportSettings(
            to=str(out), trainer=job.trainer, uses=(use,), thinking=job.thinking, as_text=job.as_text
        )
        write_rows(scratch, schema, held_rows(file, kind, settings, look, report, places, on_rows))
        if not report.written:
            reasons = "; ".join(report.left_out.lines())
            raise InputError(f"{file.path}: no row can be written for {known.title} as {use}: {reasons}")
        rows = RowStream(partial(batches_of, scratch), lambda: report.written, lambda: parquet_schema(scratch))
        exported = tables_for({NAME: Table.of(rows, KINDS[kind], f"from {Path(file.path).name}")}, settings)
        dataset = Dataset("", "", exported.tables, files=exported.files)
        made_rows = next(iter(exported.tables.values())).rows
        count_losses(rows, made_rows, places, report)
        if equal := report.written - made_rows.height:
            report.left_out.counts["a prompt that an earlier row has"] = Count(equal, "not known")
            report.written = made_rows.height
        write_dataset(converted, dataset, f"{exported.readme}\n")
        move_dataset(converted, out)
    return report


def check_folder(out: Path) -> None:
    """Raises InputError where no folder can be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); a trainer's files need a folder") from error


def batches_of(path: Path, columns: Any) -> Iterator[pl.DataFrame]:
    return (pl.DataFrame(table) for table in parquet_batches(path, columns))


def held_rows(
    file: ChatFile,
    kind: ChatKind,
    settings: ExportSettings,
    look: Look,
    report: Report,
    places: list[str],
    on_rows: OnRows,
) -> Iterator[pa.Table]:
    """Rows that a trainer can hold, as frames; the others are counted. places: gets those of the rows."""
    known, use = trainer(settings.trainer), settings.uses[0]
    for placed in batched(file.rows_of_kind(kind, report.left_out, on_rows)):
        frame = frame_of([row for _, row in placed], list(map(row_id, placed)), kind, look)
        numbered = frame.with_columns(id=pl.int_range(pl.len()).cast(pl.String))
        used_rows = splits_for(Table.of(numbered, KINDS[kind], ""), use, known, settings).get("train")
        faults = {
            int(row["id"]): fault
            for row in (rows_in(used_rows) if used_rows else ())
            if (fault := next(faults_of(plain(row), use, known.forms[use]), ""))
        }
        if use == "self-distillation":
            faults |= {number: "no system message" for number, (_, row) in enumerate(placed) if not has_system(row)}
        for number, (place, row) in enumerate(placed):
            if number in faults:
                report.left_out.add(faults[number], place)
                continue
            places.append(place)
            dropped = (f"column {name}" for name, value in row.others.items() if value is not None and name != "id")
            for name in (*row.lost, *dropped):
                report.lost.add(name, place)
        kept = [number not in faults for number in range(frame.height)]
        report.written += sum(kept)
        yield frame.filter(pl.Series(kept, dtype=pl.Boolean)).to_arrow(compat_level=OLDEST)


def has_system(row: ChatRow) -> bool:
    return any(message["role"] == "system" for message in row.messages)


def row_id(placed: Placed) -> str:
    """A row's own id as a text, else its place."""
    own = placed.row.others.get("id")
    return placed.place if own is None else str(own)


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose messages have the fields that they use."""
    return row | {name: [used(message) for message in row[name] or ()] for name in CHATS if name in row}


def count_losses(before: RowStream, after: RowStream, places: list[str], report: Report) -> None:
    """Count what rows lack after they got their form, by reading them again. Rows of a form that only the trainer reads
    cannot be compared, nor prompts that are written once.
    """
    if after.height != before.height:
        report.not_compared = before.height
        return
    for place, old, new in zip(places, rows_in(before), rows_in(after), strict=True):
        row, converted = readable(old), readable(new)
        if row is None or converted is None:
            report.not_compared += 1
            continue
        for name in differences(row, converted):
            report.lost.add(name, place)


def readable(fields: dict[str, Any]) -> ChatRow | None:
    """A row as a chat; None where it is none, or has columns that this leaves out."""
    try:
        row = chat_in(fields)
    except Drop:
        return None
    return row if row and not row.others.keys() - set(PROVENANCE) else None


def rows_in(stream: RowStream) -> Iterator[dict[str, Any]]:
    return (row for batch in stream.batches() for row in batch.iter_rows(named=True))
