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

from synthmill.schemas.errors import Drop, InputError
from synthmill.storage.plain_files.forms import Form
from synthmill.storage.plain_files.pool_chats import pool_lines, ranked_form
from synthmill.storage.plain_files.pool_columns import (
    PLAIN,
    TEXT,
    align_with_answers,
    cast_column,
    count_faults,
    first_occurrences,
    holds_texts_beside,
    is_list,
    texts_only,
)
from synthmill.storage.plain_files.pool_rows import (
    BESIDE_ANSWERS,
    ENDS,
    MESSAGES,
    POLICIES,
    THINKING,
    RowForm,
    pool_row,
)
from synthmill.storage.sql import literal, parquet

T = TypeVar("T")
BATCH_BYTES = 64 << 20  # of a file's content at a time; what is held at once is a few times as much
BATCH_ROWS, BUFFER = 65_536, 1 << 20
LOOKED_AT = 256  # rows, to learn which columns there are and how large rows are
IDS, PROMPTS, ANSWERS, REWARDS = ("prompt_id", "id"), ("prompt",), ("answers", "answer"), ("rewards", "reward")
FINISH_REASONS = ("finish_reasons", "finish_reason")
WHO_ANSWERED = ("policies", "policy")


class ColumnNames(NamedTuple):
    """What a file's columns are called; empty: the usual names (IDS, PROMPTS, ANSWERS, REWARDS)."""

    prompt_id: str = ""
    prompt: str = ""
    answer: str = ""
    reward: str = ""


class ScatteredAnswers(Exception):
    """A prompt's answers do not stand together; `read_pools` gathers them."""


class PoolFile:
    """A file of pools. faults: unusable rows by reason, counted while the file is read.

    rewards: whether it must have rewards. reference: whether to read reference answers, where it has any. extra: more
    columns to read, with one number per answer. single_turn: refuse prompts of several turns. policies: whether to
    read who gave each answer. by_row: what rows say of how their answers are scored (of BESIDE_PROMPT), to read where
    the file has it. Raises InputError when the file cannot be read, or lacks a column.
    """

    def __init__(
        self,
        path: str,
        names: ColumnNames | None = None,
        *,
        rewards: bool = True,
        reference: bool = False,
        extra: Sequence[str] = (),
        single_turn: bool = False,
        policies: bool = False,
        by_row: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.faults: Counter[str] = Counter()
        self.single_turn = single_turn
        self._messages = ""  # of a file that `gather` wrote
        self._ranked: Form | None = None
        self._parquet = None
        if path.lower().endswith(".parquet") and not path.startswith("hf://"):
            self._parquet = open_parquet(Path(path).expanduser())
        sample = self._sample()
        self.columns = self._column_names(sample)
        names = names or ColumnNames()
        if not self.columns & {*ANSWERS, names.answer} and (form := ranked_form(path, self.columns)):
            self._ranked, self._parquet = form, None  # read as lines, each a pool
            sample = self._sample()
            self.columns = self._column_names(sample)
        self.prompt = self._column(names.prompt, PROMPTS, "--prompt-column")
        self.answer = self._column(names.answer, ANSWERS, "--answer-column")
        self.reward = self._column(names.reward, REWARDS, "--reward-column", needed=rewards)
        self.id = self._column(names.prompt_id, IDS, "--prompt-id-column", needed=False) or self.prompt
        self.system = "system" if "system" in self.columns else ""
        self.reference = "reference" if reference and "reference" in self.columns else ""
        reserved = (*PLAIN, "answers", self.prompt, self.answer, self.id)
        if clash := next((name for name in extra if name in reserved), ""):
            raise InputError(f"{clash!r} is no column of numbers, so it cannot be weighed")
        self.extra = tuple(self._column(name, (), "") for name in extra)
        self.ends = next((name for name in FINISH_REASONS if name in self.columns), "")
        self.thoughts = THINKING if THINKING in self.columns and THINKING not in extra else ""
        self.policies = next((name for name in WHO_ANSWERED if policies and name in self.columns), "")
        self.by_row = tuple(name for name in by_row if name in self.columns)
        if self._parquet:
            kinds = {field.name: field.type for field in self._parquet.schema_arrow}
            self.wide, self.chat = is_list(kinds[self.answer]), is_list(kinds[self.prompt])
            if self.ends and not holds_texts_beside(kinds[self.ends], self.wide):
                self.ends = ""
            if self.thoughts and not holds_texts_beside(kinds[self.thoughts], self.wide):
                self.thoughts = ""
        else:
            answers = (fields[self.answer] for fields in sample if fields.get(self.answer) is not None)
            self.wide = isinstance(next(answers, None), list)
            self.chat = any(isinstance(fields.get(self.prompt), list) for fields in sample)

    def _sample(self) -> list[dict[str, Any]]:
        """The first rows of a file of lines; none of a Parquet file, whose schema says enough."""
        if self._parquet:
            return []
        sample = [line.fields for line in islice(pool_lines(self.path, self._ranked), LOOKED_AT) if line.fields]
        if not sample:
            raise InputError(f"{self.path} has no row that can be read; expected rows with answers and rewards")
        return sample

    def _column_names(self, sample: list[dict[str, Any]]) -> set[str]:
        if not self._parquet:
            return set().union(*sample)
        names = self._parquet.schema_arrow.names
        if len(set(names)) < len(names):
            raise InputError(f"{self.path} has two columns of one name; rename one of them")
        return set(names)

    def _column(self, name: str, usual: Sequence[str], option: str, needed: bool = True) -> str:
        """The file's column of this name, or the first usual one. Raises InputError for a missing column."""
        candidates = (name,) if name else usual
        column = next((candidate for candidate in candidates if candidate in self.columns), "")
        if not column and (needed or name):
            remedy = f"; name it with {option}" if option and not name else ""
            names = " or ".join(map(repr, candidates))
            raise InputError(f"{self.path} has no column {names}; found {', '.join(sorted(self.columns))}{remedy}")
        return column

    @property
    def schema(self) -> pa.Schema | None:
        """A Parquet file's schema; None for a file of lines."""
        return self._parquet.schema_arrow if self._parquet else None

    def tables(self) -> Iterator[pa.Table]:
        """Pools, a batch at a time, each id once: prompt_id, prompt, system (where the file has it), answers, rewards
        and the extra columns as lists; finish_reasons and reasoning, where the file has them; messages, in JSON, where
        prompts are messages. A reward that is no number is null. Raises ScatteredAnswers, and InputError if no row can
        be used.
        """
        rows = 0
        raw = self._from_lines() if self._by_rows else self._from_parquet()
        for table in self._first_of_each_id(map(self._usable_pools, raw)) if self.wide else self._group_rows(raw):
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

    def _usable_pools(self, table: pa.Table) -> pa.Table:
        """The usable pools of a batch; the others are counted."""
        good = self._usable(table, self.faults)
        return table if pc.all(good).as_py() in (True, None) else table.filter(good)

    def _usable(self, table: pa.Table, faults: Counter[str]) -> Any:
        """Which pools of a batch are usable, (pools,) bool."""
        good = pc.is_valid(table["prompt"])
        count_faults(faults, "null_prompt", good)
        for name in ("rewards", *self.extra):
            if name in table.column_names:
                lengths = (pc.fill_null(pc.list_value_length(table[column]), 0) for column in ("answers", name))
                same = pc.equal(*lengths)
                count_faults(faults, f"as_many_{name}_as_answers", same)
                good = pc.and_(good, same)
        return good

    def _first_of_each_id(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Wide pools, the first of each id."""
        hashes: set[int] = set()
        for table in tables:
            first = pa.array(first_occurrences(table["prompt_id"].to_pylist(), hashes), pa.bool_())
            count_faults(self.faults, "duplicate_id", first)
            yield table if pc.all(first).as_py() in (True, None) else table.filter(first)

    def ids(self) -> Iterator[str | None]:
        """Per row of the file, the pool that it is read into; None for a row that is not used."""
        hashes: set[int] = set()
        for ids in self._ids_of_rows():
            first = first_occurrences(ids, hashes) if self.wide else [True] * len(ids)
            yield from (pool if is_first else None for pool, is_first in zip(ids, first, strict=True))

    def _ids_of_rows(self) -> Iterator[list[str | None]]:
        if not self._by_rows:
            for table in self._from_parquet():
                good = self._usable(table, Counter()) if self.wide else pc.is_valid(table["prompt"])
                yield pc.if_else(good, table["prompt_id"], None).to_pylist()
            return
        form = self._form
        for line in pool_lines(self.path, self._ranked):
            try:
                yield [pool_row(line, form)[0]["prompt_id"]]
            except Drop:
                yield [None]

    def _with_prompts(self, rows: pa.Table) -> pa.Table:
        good = pc.is_valid(rows["prompt"])
        count_faults(self.faults, "null_prompt", good)
        return rows.filter(good)

    def _group_rows(self, raw: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Rows of one prompt that follow each other, as lists. The last prompt of a batch waits for the next batch."""
        hashes: set[int] = set()
        waiting: pa.Table | None = None
        for batch in chain(raw, [None]):
            table = None if batch is None else self._with_prompts(batch)
            rows = waiting if table is None else table if waiting is None else pa.concat_tables([waiting, table])
            if rows is None or not rows.num_rows:
                continue
            ids = rows["prompt_id"].combine_chunks()
            changes = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
            starts = np.append(0, np.flatnonzero(changes) + 1)
            if table is not None:
                starts, waiting = starts[:-1], rows.slice(starts[-1]).combine_chunks()
                rows = rows.slice(0, rows.num_rows - waiting.num_rows)
            if not len(starts):
                continue
            count_before = len(hashes)
            hashes.update(map(hash, ids.take(pa.array(starts)).to_pylist()))
            if len(hashes) < count_before + len(starts) or (
                waiting is not None and table is not None and hash(waiting["prompt_id"][0].as_py()) in hashes
            ):
                raise ScatteredAnswers
            yield self._usable_pools(self._pools_of(rows, starts))

    def _pools_of(self, rows: pa.Table, starts: Any) -> pa.Table:
        """Pools from rows of answers; starts: (pools,) int, the place of each pool's first row. Pools with several
        prompts are counted and left out.
        """
        offsets = pa.array(np.append(starts, rows.num_rows), pa.int32())
        pools = rows.select([name for name in PLAIN if name in rows.column_names]).take(pa.array(starts))
        for name in ("answers", "rewards", *BESIDE_ANSWERS, *self.extra):
            if name in rows.column_names:
                pools = pools.append_column(name, pa.ListArray.from_arrays(offsets, rows[name].combine_chunks()))
        same = pc.equal(rows["prompt"], rows["prompt"].take(np.repeat(starts, np.diff(offsets.to_numpy()))))
        one_prompt = pa.array(np.logical_and.reduceat(same.to_numpy(), starts))
        count_faults(self.faults, "several_prompts_of_one_id", one_prompt)
        return pools.filter(one_prompt)

    @property
    def _form(self) -> RowForm:
        return RowForm(self._columns_read(), self.wide, self.chat, self.single_turn)

    def _columns_read(self) -> dict[str, str]:
        """Our name -> the file's, for every column to read."""
        columns = {"prompt_id": self.id, "prompt": self.prompt, "system": self.system, "reference": self.reference}
        columns |= {"answers": self.answer, "rewards": self.reward, ENDS: self.ends, MESSAGES: self._messages}
        columns |= {THINKING: self.thoughts, POLICIES: self.policies}
        columns |= {name: name for name in (*self.extra, *self.by_row)}
        return {ours: theirs for ours, theirs in columns.items() if theirs}

    def _from_parquet(self) -> Iterator[pa.Table]:
        assert self._parquet is not None
        file, names = self._parquet, self._columns_read()
        columns_read = sorted(set(names.values()))
        try:
            first = next(file.iter_batches(batch_size=LOOKED_AT, columns=columns_read), None)
            size = first.nbytes / max(1, first.num_rows) if first else 1  # the file itself may be packed tightly
            per_batch = int(min(BATCH_ROWS, max(LOOKED_AT, BATCH_BYTES / max(1, size))))
            for batch in prefetch(file.iter_batches(batch_size=per_batch, columns=columns_read, use_threads=False)):
                columns = {ours: cast_column(batch[theirs], ours, self.wide, theirs) for ours, theirs in names.items()}
                has_id = pc.greater(pc.fill_null(pc.utf8_length(columns["prompt_id"]), 0), 0)
                columns["prompt_id"] = pc.if_else(has_id, columns["prompt_id"], columns["prompt"])
                for name in BESIDE_ANSWERS if self.wide else ():
                    if name in columns:
                        columns[name] = align_with_answers(columns[name], columns["answers"])
                yield pa.table(columns)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError) as error:
            raise InputError(f"{self.path} cannot be read: {error}") from error

    def _from_lines(self) -> Iterator[pa.Table]:
        rows: list[dict[str, Any]] = []
        form, size = self._form, 0
        for line in pool_lines(self.path, self._ranked):
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
        """The schema of batches of rows that were read one by one."""
        number = pa.list_(pa.float64()) if self.wide else pa.float64()
        types = {
            **dict.fromkeys(PLAIN, TEXT),
            **dict.fromkeys(("answers", *BESIDE_ANSWERS), pa.list_(TEXT) if self.wide else TEXT),
        }
        names = dict.fromkeys((*self._columns_read(), *(("system", MESSAGES) if self.chat else ())))
        return pa.schema([(name, types.get(name, number)) for name in names])

    def gather(self, folder: Path) -> "PoolFile":
        """Write the same pools to a file where each prompt's answers stand together, in the order of each prompt's
        first answer; in bounded memory.
        """
        import duckdb

        raw, gathered = folder / "raw.parquet", folder / "ordered.parquet"
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
                    using (prompt_id) order by _first, _row) to {literal(str(gathered))} (format parquet)"""
            )
        pools = PoolFile(
            str(gathered),
            ColumnNames("prompt_id", "prompt", "answers", "rewards" if self.reward else ""),
            rewards=bool(self.reward),
            reference=bool(self.reference),
            extra=self.extra,
            policies=bool(self.policies),
            by_row=self.by_row,
        )
        pools.path, pools.faults, pools._messages = self.path, self.faults, MESSAGES if self.chat else ""
        return pools


def read_pools(file: PoolFile, work: Callable[[Iterator[pa.Table]], T], beside: Path) -> T:
    """Return work(the file's pools). Where a prompt's answers are scattered, gather them into a temporary folder in
    `beside`, and work again on the gathered file.
    """
    file.faults.clear()
    try:
        return work(file.tables())
    except ScatteredAnswers:
        with TemporaryDirectory(dir=beside, prefix=".pools-") as folder:
            return work(file.gather(Path(folder)).tables())


def open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there; expected a Parquet or JSONL file") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}; write or fetch it again") from error


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """The same items; a thread makes the next one while the caller uses the current one."""
    end: Any = object()
    with ThreadPoolExecutor(1) as thread:
        next_item = thread.submit(next, items, end)
        while (item := next_item.result()) is not end:
            next_item = thread.submit(next, items, end)
            yield item
