"""`synthmill judge-audit`: what a scorer gives to bad answers that are planted among the own ones."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from synthmill.flows.commands.score import ScoreSettings, score_answers
from synthmill.flows.commands.trust import interval
from synthmill.flows.making.learning import with_lessons
from synthmill.schemas.errors import InputError
from synthmill.storage.plain_files.lines import lines_of
from synthmill.storage.plain_files.outputs import write_rows
from synthmill.storage.plain_files.pools import ColumnNames, PoolFile, read_pools
from synthmill.tasks.scorers.scoring import ScorerSettings
from synthmill.tasks.trust.measures import DRAWS
from synthmill.tasks.trust.planted import AuditedPool, audit, plant, preferred

SAME = "gives every answer the same score"


def audit_file(settings: ScoreSettings, limit: int, as_object: bool, members: Sequence[ScorerSettings] = ()) -> None:
    """Print what the scorer makes of each kind, as a table or as JSON, and the name of each that it prefers. members:
    scorers whose scores it reads.
    """
    lacking = [name for name in settings.scorer.reads if name not in {label for m in members for label in m.labels}]
    if lacking or settings.scorer.needs_by_row:
        columns = ", ".join((*lacking, *settings.scorer.needs_by_row))
        raise InputError(
            f"{settings.scorer.kind} reads {columns}, which planted answers lack; name the scorers that give a score "
            "with --member, or audit another scorer"
        )
    report = with_lessons(lambda: audit_report(settings, limit, members))
    if as_object:
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        print_audit(report["planted"])
    for note in report["notes"]:
        print(note, file=sys.stderr)


def audit_report(settings: ScoreSettings, limit: int, members: Sequence[ScorerSettings] = ()) -> dict[str, Any]:
    """{scorer, prompts, draws, planted: rows of `audit`, notes}. Raises InputError."""
    source = Path(settings.source).expanduser()
    with TemporaryDirectory(prefix="audit-") as folder:
        planted = Path(folder) / f"{source.name.partition('.')[0]}.jsonl"
        rows, pools = [], {}
        for row in first_pools(settings, limit):
            pool = plant(row["prompt_id"], row["prompt"], row["answers"], settings.seed)
            if pool:
                pools[row["prompt_id"]] = pool
                rows.append({**row, "answers": pool.shown()})
        if not pools:
            raise InputError(f"{settings.source} has no answer with a text, so nothing can be planted beside it")
        write_rows(planted, None, [rows])
        scorers = (*members, settings.scorer)
        settings = replace(settings, columns=ColumnNames())
        silent = replace(settings, engine=None, engine_option={}, auto_drop=False, thinking=None)
        unread = list[str]()
        for n, scorer in enumerate(scorers):
            options = settings if scorer.roles or not any(other.roles for other in scorers) else silent
            out = Path(folder) / f"scored-{n}.jsonl"
            scored, planted = score_answers(replace(options, source=str(planted), out=out, scorer=scorer)), out
            unread += filter(None, [scored.note])
        label = settings.scorer.label
        values = [line.fields[label] for line in lines_of(str(out)) if line.fields]
    return summary(label, list(pools.values()), values, unread)


def first_pools(settings: ScoreSettings, limit: int) -> Iterator[dict[str, Any]]:
    """The first pools of the file, under our names."""
    file = PoolFile(settings.source, settings.columns, rewards=False, reference=True)
    names = ("prompt_id", "prompt", "system", "reference", "answers")

    def first(tables: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for table in tables:
            rows += table.select([name for name in names if name in table.column_names]).to_pylist()
            if len(rows) >= limit:
                break
        return rows[:limit]

    yield from read_pools(file, first, Path(settings.store).expanduser().resolve().parent)


def summary(label: str, pools: list[AuditedPool], shown: list[Any], unread: list[str]) -> dict[str, Any]:
    """shown: per pool the scores in the order that its answers were shown in."""
    scores = [pool.in_own_order(values) for pool, values in zip(pools, shown, strict=True)]
    rows = audit(pools, scores)
    notes = unread
    numbers = {value for values in scores for value in values if value is not None}
    if len(numbers) == 1:
        notes.append(f"{label} {SAME}, {numbers.pop():g}: it cannot tell a good answer from a bad one")
    for row in rows:
        if preferred(row):
            notes.append(
                f"{label} prefers the {row['kind']} answer to {row['against']}: it wins "
                f"{interval(row['wins'], True)}, by {interval(row['difference'], False)}"
            )
        if row["missing"]:
            what = f"{row['missing']:,} {row['kind']} answers, or what they are compared with,"
            notes.append(f"{label}: {what} have no score")
    return {"scorer": label, "prompts": len(pools), "draws": DRAWS, "planted": rows, "notes": notes}


def print_audit(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console

    from synthmill.flows.terminal.tables import table

    numbers = ("prompts", "wins", "difference", "best of all")
    lines = table("planted", "against", *numbers, "", numbers=numbers)
    for row in rows:
        figures = interval(row["wins"], True), interval(row["difference"], False), interval(row["best"], True)
        lines.add_row(row["kind"], row["against"], f"{row['pools']:,}", *figures, "preferred" if preferred(row) else "")
    Console(emoji=False).print(lines)
