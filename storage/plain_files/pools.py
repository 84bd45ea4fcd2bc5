"""Pools of answers in plain files, streamed: one row per answer (long) or one per prompt, with lists (wide)."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import Drop, InputError
from storage.plain_files.lines import lines_of
from storage.plain_files.pool_columns import (
    PLAIN,
    TEXT,
    count,
    firsts,
    is_list,
    of_each_answer,
    plain,
    says_ends,
    texts_only,
)
from storage.plain_files.pool_rows import ENDS, MESSAGES, RowForm, pool_row
from storage.sql import literal, parquet

T = TypeVar("T")
BATCH_BYTES = 64 << 20  # of a file's content at a time; what is held at once is a few times as much
BATCH_ROWS, BUFFER = 65_536, 1 << 20
LOOKED_AT = 256  # rows, to learn which columns there are and how large rows are
IDS, PROMPTS, ANSWERS, REWARDS = ("prompt_id", "id"), ("prompt",), ("answers", "answer"), ("rewards", "reward")
FINISH_REASONS = ("finish_reasons", "finish_reason")


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
    of numbers, one per answer, to be read besides. single_turn: refuse prompts of several turns. Raises InputError when
    it cannot be read, or has not the columns.
    """

    def __init__(
        self,
        path: str,
        names: Names | None = None,
        *,
        rewards: bool = True,
        reference: bool = False,
        extra: Sequence[str] = (),
        single_turn: bool = False,
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
        self.ends = next((name for name in FINISH_REASONS if name in columns), "")
        self.single_turn = single_turn
        self._messages = ""  # of a file that `gathered` wrote
        if self._parquet:
            kinds = {field.name: field.type for field in self._parquet.schema_arrow}
            self.wide, self.chat = is_list(kinds[self.answer]), is_list(kinds[self.prompt])
            if self.ends and not says_ends(kinds[self.ends], self.wide):
                self.ends = ""
        else:
            answers = (fields[self.answer] for fields in looked_at if fields.get(self.answer) is not None)
            self.wide = isinstance(next(answers, None), list)
            self.chat = any(isinstance(fields.get(self.prompt), list) for fields in looked_at)

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
        """Pools, a batch at a time, each id once: prompt_id, prompt, system (where the file has it), answers, rewards
        and the extra columns as lists; finish_reasons, where the file says how answers ended; messages, in JSON, where
        prompts are such. A reward that is no number is null. Raises Scattered, and InputError where no row can be used.
        """
        rows = 0
        raw = self._from_lines() if self._by_rows else self._from_parquet()
        for table in self._once(map(self._whole_pools, raw)) if self.wide else self._gathered(raw):
            rows += table.num_rows
            yield texts_only(table)
        if self.faults and not rows:
            faults = ", ".join(f"{count:,} {reason}" for reason, count in self.faults.items())
            answers = "answers (a list of texts)" if self.wide else "answer (a text)"
            raise InputError(
                f"{self.path}: none of its rows can be used ({faults}); expected prompt (a text, or a list of "
                f"messages) and {answers} in each"
            )

    @property
    def _by_rows(self) -> bool:
        """Whether rows are read one by one: lines, and Parquet with prompts that are messages."""
        return self._parquet is None or self.chat

    def _whole_pools(self, table: pa.Table) -> pa.Table:
        """The pools of a batch that can be used; the others are counted."""
        good = self._usable(table, self.faults)
        return table if pc.all(good).as_py() in (True, None) else table.filter(good)

    def _usable(self, table: pa.Table, faults: Counter[str]) -> Any:
        """Which pools of a batch can be used, (pools,) bool."""
        good = pc.is_valid(table["prompt"])
        count(faults, "null_prompt", good)
        for name in ("rewards", *self.extra):
            if name in table.column_names:
                lengths = (pc.fill_null(pc.list_value_length(table[column]), 0) for column in ("answers", name))
                same = pc.equal(*lengths)
                count(faults, f"as_many_{name}_as_answers", same)
                good = pc.and_(good, same)
        return good

    def _once(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Wide pools, of each id the first one."""
        seen: set[int] = set()
        for table in tables:
            first = pa.array(firsts(table["prompt_id"].to_pylist(), seen), pa.bool_())
            count(self.faults, "duplicate_id", first)
            yield table if pc.all(first).as_py() in (True, None) else table.filter(first)

    def ids(self) -> Iterator[str | None]:
        """Per row of the file, the pool that it is read into; None for a row that is not used."""
        seen: set[int] = set()
        for ids in self._ids_of_rows():
            first = firsts(ids, seen) if self.wide else [True] * len(ids)
            yield from (pool if is_first else None for pool, is_first in zip(ids, first, strict=True))

    def _ids_of_rows(self) -> Iterator[list[str | None]]:
        if not self._by_rows:
            for table in self._from_parquet():
                good = self._usable(table, Counter()) if self.wide else pc.is_valid(table["prompt"])
                yield pc.if_else(good, table["prompt_id"], None).to_pylist()
            return
        form = self._form
        for line in lines_of(self.path):
            try:
                yield [pool_row(line, form)[0]["prompt_id"]]
            except Drop:
                yield [None]

    def _with_prompts(self, rows: pa.Table) -> pa.Table:
        good = pc.is_valid(rows["prompt"])
        count(self.faults, "null_prompt", good)
        return rows.filter(good)

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
            listed = ("answers", "rewards", ENDS, *self.extra)
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
            count(self.faults, "several_prompts_of_one_id", pa.array(one_prompt))
            yield self._whole_pools(pools.filter(pa.array(one_prompt)))

    @property
    def _form(self) -> RowForm:
        return RowForm(self._read(), self.wide, self.chat, self.single_turn)

    def _read(self) -> dict[str, str]:
        """Our name -> the file's, of every column that is read."""
        found = {"prompt_id": self.id, "prompt": self.prompt, "system": self.system, "reference": self.reference}
        found |= {"answers": self.answer, "rewards": self.reward, ENDS: self.ends, MESSAGES: self._messages}
        found |= {name: name for name in self.extra}
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
                if ENDS in columns and self.wide:
                    columns[ENDS] = of_each_answer(columns[ENDS], columns["answers"])
                yield pa.table(columns)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError) as error:
            raise InputError(f"{self.path} cannot be read: {error}") from error

    def _from_lines(self) -> Iterator[pa.Table]:
        rows: list[dict[str, Any]] = []
        form, size = self._form, 0
        for line in lines_of(self.path):
            try:
                row, length = pool_row(line, form)
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
        """Of batches of rows that were read one by one."""
        number = pa.list_(pa.float64()) if self.wide else pa.float64()
        of = {**dict.fromkeys(PLAIN, TEXT), **dict.fromkeys(("answers", ENDS), pa.list_(TEXT) if self.wide else TEXT)}
        names = dict.fromkeys((*self._read(), *(("system", MESSAGES) if self.chat else ())))
        return pa.schema([(name, of.get(name, number)) for name in names])

    def gathered(self, folder: Path) -> "PoolFile":
        """The same pools in a file where each prompt's answers stand together, in the order of the first of each; in
        bounded memory.
        """
        import duckdb

        raw, ordered = folder / "raw.parquet", folder / "ordered.parquet"
        rows = self._from_lines() if self._by_rows else self._from_parquet()
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
        found.path, found.faults, found._messages = self.path, self.faults, MESSAGES if self.chat else ""
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


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one being made while one is used."""
    nothing: Any = object()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, items, nothing)
        while (item := waiting.result()) is not nothing:
            waiting = thread.submit(next, items, nothing)
            yield item
