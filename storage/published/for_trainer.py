"""A dataset for one trainer: its tables in the forms that the trainer reads, and its configuration beside them.

Nothing is written for rows that the trainer could not hold, or would learn nothing from: they are counted and named.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import polars as pl

from synthmill.schemas.errors import InputError
from synthmill.schemas.export_settings import ExportSettings
from synthmill.schemas.formats import ThinkingPlace, Use
from synthmill.storage.published.chat_templates import refusals
from synthmill.storage.published.configurations import Content, Dataset, Table
from synthmill.storage.published.known_trainers import trainer
from synthmill.storage.published.parts_as_text import with_parts_as_text
from synthmill.storage.published.row_faults import EARLIER_THINKING, VerifierFault, count_faults
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.thinking import with_thinking
from synthmill.storage.published.trainer import Form, Trainer, Written
from synthmill.storage.published.uses import OWN, can_be, has_system, rows_for

REMEDIES = {
    "tools": "write them as text: --as-text tools",
    "a system message": "write it as text: --as-text system",
    "earlier turns": "write them as text: --as-text history",
    "answers in the prompt, which would be learned, too": "write them as text: --as-text history",
    EARLIER_THINKING: "leave it out: --thinking drop",
}
"""What a setting can do about a fault."""


class Exported(NamedTuple):
    """Tables and files to write; readme: how to load them, for the card; left_out: names of tables without a use;
    thinking: the places that thoughts are in.
    """

    tables: dict[str, Table]
    files: dict[str, Content]
    readme: str
    left_out: list[str]
    thinking: set[ThinkingPlace]


class Job(NamedTuple):
    """A table's rows for one use, by split, and the form that they get."""

    table: str
    use: Use
    form: Form
    splits: Mapping[str, RowStream]

    @property
    def label(self) -> str:
        return f"{self.table}_{self.use.replace('-', '_')}"


def tables_for(
    tables: Mapping[str, Table], settings: ExportSettings, verifier_fault: VerifierFault = lambda *verifier: ""
) -> Exported:
    """Every table for the trainer of the settings, in the uses that they name.

    Raises InputError where no table suits, where rows cannot be held, with their numbers, and where thinking is wanted
    in a field that the trainer does not read.
    """
    target = trainer(settings.trainer)
    jobs = [
        Job(name, use, target.forms[use], splits)
        for name, table in tables.items()
        for use in uses_of(table, target, settings.uses)
        if (splits := splits_for(table, use, target, settings))
    ]
    if not jobs:
        kinds = ", ".join(f"{name} ({table.kind})" for name, table in tables.items())
        wanted = f" as {', '.join(settings.uses)}" if settings.uses else ""
        raise InputError(
            f"{target.title} reads {', '.join(target.forms)}; nothing here can be written{wanted}: there is {kinds}"
        )
    places = {job.form.thinking or target.thinking for job in jobs}
    if settings.thinking == "field" and places != {"field"}:
        raise InputError(
            f"{target.title} reads no field for thinking here; expected text or drop, or leave --thinking out"
        )
    check_rows(jobs, target, settings, verifier_fault)
    made: dict[str, Table] = {}
    files: dict[str, Content] = {}
    for job in jobs:
        made[job.label] = table_of(job, target, tables[job.table])
        if not job.form.with_ids:
            files |= {f"ids/{job.label}-{name}.txt": partial(id_lines, rows) for name, rows in job.splits.items()}
    written = paths_of(made, jobs, settings.shard_bytes)
    files |= target.beside(written)
    lines = [f"For {target.title} (read with version {target.version}):", "", *target.readme(written)]
    left_out = [name for name in tables if name not in {job.table for job in jobs}]
    return Exported(made, files, "\n".join(lines), left_out, {settings.thinking} if settings.thinking else places)


def uses_of(table: Table, target: Trainer, wanted: Sequence[Use]) -> list[Use]:
    """What a table is written for: the uses that are wanted, else what its kind is made for, and self-distillation
    where rows have a context.
    """
    own = OWN.get(table.kind)
    possible = [use for use in target.forms if table.height and can_be(use, table.kind, table.rows)]
    if wanted:
        return [use for use in possible if use in wanted]
    in_context = table.kind == "other" or (table.kind == "conversations" and has_system(table.rows))
    return [use for use in possible if use == own or (use == "self-distillation" and in_context)]


def splits_for(table: Table, use: Use, target: Trainer, settings: ExportSettings) -> dict[str, RowStream]:
    """A table's splits that have rows, in the columns of a use, with thinking and parts where they are to be."""
    place = settings.thinking or target.forms[use].thinking or target.thinking

    def prepared(rows: RowStream) -> RowStream:
        used = with_thinking(rows_for(use, table.kind, rows), place)
        return used.map(partial(with_parts_as_text, parts=settings.as_text)) if settings.as_text else used

    splits = {target.splits.get(split, split): prepared(rows) for split, rows in table.splits.items() if rows.height}
    return {split: rows for split, rows in splits.items() if rows.height}


def check_rows(jobs: Sequence[Job], target: Trainer, settings: ExportSettings, verifier_fault: VerifierFault) -> None:
    """Raises InputError with the numbers of rows that cannot be trained on, by table, use and reason."""
    refuses = refusals(settings.chat_template)
    lines = []
    for job in jobs:
        faults: Counter[str] = Counter()
        for rows in job.splits.values():
            faults += count_faults(rows, job.use, job.form, refuses, verifier_fault)
        total = sum(rows.height for rows in job.splits.values())
        lines += [f"{job.table} as {job.use}: {line}" for line in in_words(faults, total)]
    if lines:
        raise InputError(
            f"{target.title} cannot train on these rows, and nothing was written: {'; '.join(lines)}. "
            "Cut them, or name the other uses with --as"
        )


def in_words(faults: Counter[str], total: int) -> Iterator[str]:
    for fault, count in faults.most_common():
        remedy = f" (or {REMEDIES[fault]})" if fault in REMEDIES else ""
        yield f"{fault} in {count:,} of {total:,} rows{remedy}"


def table_of(job: Job, target: Trainer, source: Table) -> Table:
    """A use's rows in the trainer's form."""

    def make(rows: pl.DataFrame) -> pl.DataFrame:
        in_form = job.form.make(rows)
        return in_form if job.form.with_ids else in_form.drop("id", strict=False)

    splits = {split: rows.map(make) for split, rows in job.splits.items()}
    about = f"{source.about}; from `{job.table}`, for {target.title}: {job.use}"
    return Table(splits, "other", about, job.form.lines, job.form.objects, target.one_file)


def columns_of(splits: Mapping[str, RowStream]) -> list[str]:
    return next(iter(splits.values())).columns


def paths_of(tables: Mapping[str, Table], jobs: Sequence[Job], shard_bytes: int) -> list[Written]:
    """Where each table's rows will lie within the folder."""
    dataset = Dataset("", "", tables, shard_bytes=shard_bytes)
    shards = dataset.shards()
    written = []
    for job in jobs:
        table = tables[job.label]
        files = {split: tuple(shards[job.label, split].names) for split in table.splits}
        source = tuple(columns_of(job.splits))
        written.append(Written(job.label, job.use, files, tuple(columns_of(table.splits)), source))
    return written


def id_lines(rows: RowStream) -> Iterator[bytes]:
    """An id a line, in the order of the rows."""
    for batch in rows.batches(["id"]):
        yield "".join(f"{row_id}\n" for row_id in batch["id"]).encode()
