"""`synthmill convert`: reads a file twice, first to know what it holds, then to write it; never all of it at once."""

import sys
from pathlib import Path
from typing import Any

import orjson

from synthmill.flows.terminal.progress import Reporter
from synthmill.schemas.errors import InputError
from synthmill.schemas.progress import Progress
from synthmill.storage.conversion.chat_files import ChatFile
from synthmill.storage.conversion.tally import Report
from synthmill.storage.conversion.to_format import TARGETS, convert_to_format
from synthmill.storage.conversion.to_trainer import Job, convert_for_trainer
from synthmill.storage.plain_files.outputs import ENDINGS, check_out
from synthmill.storage.published.known_trainers import trainer_names


def convert_file(
    source: str,
    *,
    to: Any,
    out: Path,
    form: str,
    use: Any,
    thinking: Any,
    as_text: tuple[Any, ...],
    limit: int | None,
    as_object: bool,
    force: bool,
) -> None:
    """Write `source` in a format, or for a trainer, and say what was lost. Raises InputError."""
    if out.exists() and not force:
        raise InputError(f"{out} is there already; choose another --out, or write over it with --force")
    is_format = to in TARGETS and (to not in trainer_names() or out.name.endswith(ENDINGS))
    if not is_format and to not in trainer_names():
        known = f"formats {', '.join(TARGETS)}; trainers {', '.join(trainer_names())}"
        raise InputError(f"{to} is neither a format nor a trainer for chats; expected one of these: {known}")
    if is_format:
        check_out(out, source)
        if use or as_text:
            raise InputError(f"--as and --as-text are for trainers, and {to} is a format; leave them out")
    file = ChatFile(source, form, limit)
    with Reporter("look", 0) as reporter:
        look = file.look(progress_to(reporter), with_types=out.suffix == ".parquet")
    with Reporter("convert", look.rows) as reporter:
        on_rows = progress_to(reporter)
        if is_format:
            report = convert_to_format(file, to, out, thinking, look, on_rows)
        else:
            report = convert_for_trainer(file, Job(to, use, thinking, as_text), out, look, on_rows)
    if as_object:
        print(orjson.dumps(as_dict(report), option=orjson.OPT_INDENT_2).decode())
    print_report(report, source, to, out)


def progress_to(reporter: Reporter) -> Any:
    """What is told (rows read, rows left out)."""
    return lambda rows, left_out: reporter(Progress(rows=rows, dropped=left_out))


def as_dict(report: Report) -> dict[str, Any]:
    return {
        "form": report.form,
        "rows": report.rows,
        "kinds": report.kinds,
        "written": report.written,
        "not_compared": report.not_compared,
        "left_out": report.left_out.as_dict(),
        "lost": report.lost.as_dict(),
    }


def print_report(report: Report, source: str, to: str, out: Path) -> None:
    """What was written, left out and lost, a line each."""
    print(
        f"{report.rows:,} rows of {source} ({report.form}) -> {report.written:,} rows of {out} ({to})", file=sys.stderr
    )
    for what, tally in (("left out", report.left_out), ("lost", report.lost)):
        for line in tally.lines():
            print(f"{what}: {line}", file=sys.stderr)
    if report.not_compared:
        print(f"what {report.not_compared:,} rows lost is not known: only {to} reads their form", file=sys.stderr)
