"""Pools of answers in plain files, streamed: one row per answer (long) or one per prompt, with lists (wide)."""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import Drop, InputError
from storage.lines import Line, lines_of
from storage.sources import id_of
from storage.sql import literal, parquet

T = TypeVar("T")
BATCH_BYTES = 64 << 20  # of a file's content at a time; what is held at once is a few times as much
BATCH_ROWS, BUFFER = 65_536, 1 << 20
LOOKED_AT = 256  # rows, to learn which columns there are and how large rows are
IDS, PROMPTS, ANSWERS, REWARDS = ("prompt_id", "id"), ("prompt",), ("answers", "answer"), ("rewards", "reward")
TEXT = pa.string()
PLAIN = ("prompt_id", "prompt", "system", "reference")


class Names(NamedTuple):
    """What a file's columns are called; empty: the usual names (IDS, PROMPTS, ANSWERS, REWARDS)."""

    prompt_id: str = ""
    prompt: str = ""
    answer: str = ""
    reward: str = ""


class Scattered(Exception):
    """A prompt's answers do not stand together; `over` gathers them."""


class PoolFile:
    """A file of pools. faults: rows that could not be used, by reason, counted while it is read.

    rewards: whether it must have them. reference: whether to read reference answers, where it has any. extra: columns
    of numbers, one per answer, to be read besides. Raises InputError when it cannot be read, or has not the columns.
    """

    def __init__(
        self,
        path: str,
        names: Names | None = None,
        *,
        rewards: bool = True,
        reference: bool = False,
        extra: Sequence[str] = (),
    ) -> None:
        self.path = path
        names = names or Names()
        self.faults: Counter[str] = Counter()
        self._parquet = None
        if path.lower().endswith(".parquet") and not path.startswith("hf://"):
            self._parquet = open_parquet(Path(path).expanduser())
            names_there = self._parquet.schema_arrow.names
            columns = set(names_there)
            if len(columns) < len(names_there):
                raise InputError(f"{path} has two columns of one name; rename one of them")
        else:
            looked_at = [line.fields for line in islice(lines_of(path), LOOKED_AT) if line.fields]
            if not looked_at:
                raise InputError(f"{path} has no row that can be read; expected rows with answers and rewards")
            columns = set().union(*looked_at)
        self.prompt = self._column(columns, names.prompt, PROMPTS, "--prompt-column")
        self.answer = self._column(columns, names.answer, ANSWERS, "--answer-column")
        self.reward = self._column(columns, names.reward, REWARDS, "--reward-column", needed=rewards)
        self.id = self._column(columns, names.prompt_id, IDS, "--prompt-id-column", needed=False) or self.prompt
        self.system = "system" if "system" in columns else ""
        self.reference = "reference" if reference and "reference" in columns else ""
        self.columns = columns
        if taken := [name for name in extra if name in (*PLAIN, "answers", self.prompt, self.answer, self.id)]:
            raise InputError(f"{taken[0]!r} is no column of numbers, so it cannot be weighed")
        self.extra = tuple(self._column(columns, name, (), "") for name in extra)
        if self._parquet:
            self.wide = is_list(self._parquet.schema_arrow.field(self.answer).type)
        else:
            answers = (fields[self.answer] for fields in looked_at if fields.get(self.answer) is not None)
            self.wide = isinstance(next(answers, None), list)

    def _column(self, columns: set[str], name: str, usual: Sequence[str], option: str, needed: bool = True) -> str:
        wanted = (name,) if name else usual
        found = next((one for one in wanted if one in columns), "")
        if not found and (needed or name):
            remedy = f"; name it with {option}" if option and not name else ""
            names = " or ".join(map(repr, wanted))
            raise InputError(f"{self.path} has no column {names}; found {', '.join(sorted(columns))}{remedy}")
        return found

    @property
    def schema(self) -> pa.Schema | None:
        """Of a Parquet file."""
        return self._parquet.schema_arrow if self._parquet else None

    def tables(self) -> Iterator[pa.Table]:
        """Pools, a batch at a time: prompt_id, prompt, system (where the file has it), answers, rewards and the extra
        columns as lists. A reward that is no number is null. Raises Scattered.
        """
        raw = self._from_parquet() if self._parquet else self._from_lines()
        return self._whole_pools(raw) if self.wide else self._gathered(raw)

    def _whole_pools(self, raw: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for table in raw:
            whole = pc.is_valid(table["prompt"])
            self._count("null_prompt", whole)
            for name in ("rewards", *self.extra):
                if name in table.column_names:
                    lengths = (pc.fill_null(pc.list_value_length(table[one]), 0) for one in ("answers", name))
                    same = pc.equal(*lengths)
                    self._count(f"as_many_{name}_as_answers", same)
                    whole = pc.and_(whole, same)
            yield texts_only(table if pc.all(whole).as_py() in (True, None) else table.filter(whole))

    def ids(self) -> Iterator[str | None]:
        """Per row of the file, the pool that it is read into; None for a row that is not used."""
        if self._parquet:
            for table in self._from_parquet():
                yield from pc.if_else(pc.is_valid(table["prompt"]), table["prompt_id"], None).to_pylist()
            return
        for line in lines_of(self.path):
            try:
                yield self._row(line)[0]["prompt_id"]
            except Drop:
                yield None

    def _with_prompts(self, rows: pa.Table) -> pa.Table:
        good = pc.is_valid(rows["prompt"])
        self._count("null_prompt", good)
        return rows.filter(good)

    def _count(self, reason: str, good: Any) -> None:
        if bad := len(good) - (pc.sum(good).as_py() or 0):
            self.faults[reason] += bad

    def _gathered(self, raw: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Rows of one prompt that follow each other, as lists. The last prompt of a batch waits for the next one."""
        seen: set[int] = set()
        left: pa.Table | None = None
        for given in chain(raw, [None]):
            table = None if given is None else self._with_prompts(given)
            rows = left if table is None else table if left is None else pa.concat_tables([left, table])
            if rows is None or not rows.num_rows:
                continue
            ids = rows["prompt_id"].combine_chunks()
            changes = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
            starts = np.append(0, np.flatnonzero(changes) + 1)
            if table is not None:
                starts, left = starts[:-1], rows.slice(starts[-1]).combine_chunks()
                rows = rows.slice(0, rows.num_rows - left.num_rows)
            if not len(starts):
                continue
            known = len(seen)
            seen.update(map(hash, ids.take(pa.array(starts)).to_pylist()))
            if len(seen) < known + len(starts) or (
                left is not None and table is not None and hash(left["prompt_id"][0].as_py()) in seen
            ):
                raise Scattered
            offsets = pa.array(np.append(starts, rows.num_rows), pa.int32())
            first = rows.select([name for name in PLAIN if name in rows.column_names])
            listed = {name: name for name in self.extra} | {"answers": "answers", "rewards": "rewards"}
            columns = {
                name: pa.ListArray.from_arrays(offsets, rows[name].combine_chunks())
                for name in listed
                if name in rows.column_names
            }
            pools = first.take(pa.array(starts))
            for name, column in columns.items():
                pools = pools.append_column(name, column)
            same = pc.equal(rows["prompt"], rows["prompt"].take(np.repeat(starts, np.diff(offsets.to_numpy()))))
            one_prompt = np.logical_and.reduceat(same.to_numpy(), starts)
            self._count("several_prompts_of_one_id", pa.array(one_prompt))
            yield from self._whole_pools(iter([pools.filter(pa.array(one_prompt))]))

    def _read(self) -> dict[str, str]:
        """Our name -> the file's, of every column that is read."""
        found = {"prompt_id": self.id, "prompt": self.prompt, "system": self.system, "reference": self.reference}
        found |= {"answers": self.answer, "rewards": self.reward} | {name: name for name in self.extra}
        return {ours: theirs for ours, theirs in found.items() if theirs}

    def _from_parquet(self) -> Iterator[pa.Table]:
        assert self._parquet is not None
        file, read = self._parquet, self._read()
        wanted = sorted(set(read.values()))
        try:
            first = next(file.iter_batches(batch_size=LOOKED_AT, columns=wanted), None)
            size = first.nbytes / max(1, first.num_rows) if first else 1  # the file itself may be packed tightly
            per_batch = int(min(BATCH_ROWS, max(LOOKED_AT, BATCH_BYTES / max(1, size))))
            for batch in ahead(file.iter_batches(batch_size=per_batch, columns=wanted, use_threads=False)):
                columns = {ours: plain(batch[theirs], ours, self.wide, theirs) for ours, theirs in read.items()}
                named = pc.greater(pc.fill_null(pc.utf8_length(columns["prompt_id"]), 0), 0)
                columns["prompt_id"] = pc.if_else(named, columns["prompt_id"], columns["prompt"])
                yield pa.table(columns)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError) as error:
            raise InputError(f"{self.path} cannot be read: {error}") from error

    def _from_lines(self) -> Iterator[pa.Table]:
        rows: list[dict[str, Any]] = []
        size = 0
        for line in lines_of(self.path):
            try:
                row, length = self._row(line)
            except Drop as drop:
                self.faults[drop.reason] += 1
                continue
            rows.append(row)
            size += length
            if size > BATCH_BYTES or len(rows) == BATCH_ROWS:
                yield pa.Table.from_pylist(rows, self._schema())
                rows, size = [], 0
        if rows:
            yield pa.Table.from_pylist(rows, self._schema())

    def _schema(self) -> pa.Schema:
        number = pa.list_(pa.float64()) if self.wide else pa.float64()
        of = {**dict.fromkeys(PLAIN, TEXT), "answers": pa.list_(TEXT) if self.wide else TEXT}
        return pa.schema([(name, of.get(name, number)) for name in self._read()])

    def _row(self, line: Line) -> tuple[dict[str, Any], int]:
        """One row of a file of lines, and its characters. Raises Drop."""
        if line.fields is None:
            raise Drop(line.fault)
        row: dict[str, Any] = {ours: line.fields.get(theirs) for ours, theirs in self._read().items()}
        row["prompt_id"] = id_of(row["prompt_id"]) or row["prompt"]
        if not isinstance(row["prompt"], str):
            raise Drop("prompt_not_text")
        for name in ("system", "reference"):
            if row.get(name) is not None and not isinstance(row[name], str):
                raise Drop(f"{name}_not_text")
        if isinstance(row["answers"], list) != self.wide:
            raise Drop("answers_not_lists" if self.wide else "answer_not_text")
        texts = [text_in(answer) for answer in (row["answers"] if self.wide else [row["answers"]])]
        for name in ("rewards", *self.extra):
            if name in row:
                values = row[name] if self.wide else [row[name]]
                if values is None:
                    values = [None] * len(texts)
                if not isinstance(values, list):
                    raise Drop(f"{name}_not_lists")
                numbers = [number_in(value) for value in values]
                row[name] = numbers if self.wide else numbers[0]
        row["answers"] = texts if self.wide else texts[0]
        said = [row["prompt_id"], row["prompt"], row.get("system"), row.get("reference"), *texts]
        try:
            "".join(filter(None, said)).encode()
        except UnicodeEncodeError:
            raise Drop("not_utf8") from None
        return row, sum(len(text or "") for text in said)

    def gathered(self, folder: Path) -> "PoolFile":
        """The same pools in a file where each prompt's answers stand together, in the order of the first of each; in
        bounded memory.
        """
        import duckdb

        raw, ordered = folder / "raw.parquet", folder / "ordered.parquet"
        rows = self._from_parquet() if self._parquet else self._from_lines()
        self.faults.clear()
        writer, place = None, 0
        for table in rows:
            numbered = table.append_column("_row", pa.array(np.arange(place, place + table.num_rows)))
            writer = writer or pq.ParquetWriter(raw, numbered.schema)
            writer.write_table(numbered)
            place += table.num_rows
        if writer:
            writer.close()
        with duckdb.connect(config={"temp_directory": str(folder), "memory_limit": "4GB"}) as database:
            database.execute(
                f"""copy (select rows.* exclude (_row) from {parquet([raw])} as rows
                    join (select prompt_id, min(_row) as _first from {parquet([raw])} group by prompt_id)
                    using (prompt_id) order by _first, _row) to {literal(str(ordered))} (format parquet)"""
            )
        found = PoolFile(
            str(ordered),
            Names("prompt_id", "prompt", "answers", "rewards" if self.reward else ""),
            rewards=bool(self.reward),
            reference=bool(self.reference),
            extra=self.extra,
        )
        found.faults = self.faults
        return found


def over(file: PoolFile, work: Callable[[Iterator[pa.Table]], T], beside: Path) -> T:
    """work(the file's pools); where a prompt's answers are scattered, once more with them gathered in a temporary
    folder in `beside`.
    """
    file.faults.clear()
    try:
        return work(file.tables())
    except Scattered:
        with TemporaryDirectory(dir=beside, prefix=".pools-") as folder:
            return work(file.gathered(Path(folder)).tables())


def open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there; expected a Parquet or JSONL file") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def plain(column: Any, name: str, wide: bool, theirs: str) -> Any:
    """A Parquet column as texts, numbers, or lists of these. Raises InputError for what is neither."""
    listed = wide and name not in PLAIN
    numbers = name not in (*PLAIN, "answers")
    kind = pa.float64() if numbers else TEXT
    wanted = pa.list_(kind) if listed else kind
    try:
        values = column.flatten() if listed else column
        if pa.types.is_struct(values.type):
            fields = {field.name for field in values.type}
            values = pc.struct_field(values, "text" if "text" in fields else "content")
        values = values.cast(kind)
        if numbers and not pc.all(pc.is_finite(values)).as_py():
            values = pc.if_else(pc.is_finite(values), values, None)
        return as_lists(column, values) if listed else values
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, AttributeError) as error:
        raise InputError(f"the column {theirs!r} holds {column.type}; expected {wanted}") from error


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one being made while one is used."""
    nothing: Any = object()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, items, nothing)
        while (item := waiting.result()) is not nothing:
            waiting = thread.submit(next, items, nothing)
            yield item


def in_one(column: Any) -> Any:
    """A column as one array, without a copy where it is one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def as_lists(lists: Any, values: Any) -> Any:
    """Other values in the same lists; a null list has none."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(lengths)), pa.int32()), values)


def texts_only(pools: pa.Table) -> pa.Table:
    """What is no text becomes an empty one without a reward, so that its pool can give no pair."""
    answers = in_one(pools["answers"])
    flat = answers.flatten()
    if not flat.null_count:
        return pools
    columns = {name: pools[name] for name in pools.column_names}
    columns["answers"] = as_lists(answers, pc.fill_null(flat, ""))
    if "rewards" in columns:
        rewards = in_one(pools["rewards"])
        columns["rewards"] = as_lists(rewards, pc.if_else(pc.is_valid(flat), rewards.flatten(), None))
    return pa.table(columns)


def text_in(answer: Any) -> str | None:
    """An answer's text; it may stand in an object as `text` or `content`."""
    if isinstance(answer, dict):
        answer = answer.get("text", answer.get("content"))
    return answer if isinstance(answer, str) else None


def number_in(value: Any) -> float | None:
    """A finite number, also one that is written as text (CSV), or as true or false; None for anything else."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if not isinstance(value, int | float) or abs(value) > sys.float_info.max:
        return None
    return float(value) if math.isfinite(value) else None
