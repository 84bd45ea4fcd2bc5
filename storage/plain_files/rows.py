"""Read users' sources, files, queries and Hub datasets (storage/plain_files/lines.py), into rows.

A bad row becomes `Dropped` with its line number and never stops its neighbours; a bad file stops everything before
any work.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.hashing import content_hash, file_checksum
from synthmill.schemas.messages import as_message
from synthmill.schemas.multifaceted import BenchRow, Rubric, Value
from synthmill.schemas.pools import Question
from synthmill.schemas.rows import Dropped, Instruction, KnownPrompt, Row
from synthmill.schemas.settings import FileSettings, SourceSettings
from synthmill.storage.plain_files.chat_rows import ChatRow
from synthmill.storage.plain_files.chats import first_turn, user_turns
from synthmill.storage.plain_files.forms import chat_in, fitting
from synthmill.storage.plain_files.lines import FORMATS, HUB, Line, files_in, hub_commit, lines_of, suffix_of, text_of
from synthmill.storage.plain_files.queries import QUERY, checksum_of

VERSION, CHATS_VERSION = "2", "3"
"""Versions of how rows are read, and of how rows that may be chats (schemas/messages.py) are read."""


@dataclass
class Chunk:
    """The next `rows_per_part` raw rows of a source. ids_in: one id per raw row."""

    rows: list[Any]
    dropped: list[Dropped]

    def with_distinct_ids(self) -> "Chunk":
        """The same chunk; a drop whose place is also the id of a row in the chunk gets another id."""
        row_ids = {row.id for row in self.rows}
        self.dropped = [
            row.model_copy(update={"id": f"{row.id} (unreadable)"}) if row.id in row_ids else row
            for row in self.dropped
        ]
        return self

    @property
    def ids_in(self) -> list[str]:
        return [row.id for row in self.rows] + [row.id for row in self.dropped]


def fingerprint(source: FileSettings) -> str:
    """What identifies a source's content: the checksum of its file, its files or its rows, or the Hub commit.

    Raises InputError.
    """
    if source.path.startswith(HUB):
        return content_hash(list(hub_commit(source.path)))
    path = Path(source.path).expanduser()
    if path.is_dir():
        return content_hash({name: file_checksum(file) for name, file in files_in(path).items()})
    if suffix_of(path) == QUERY:
        return checksum_of(path)
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty; expected rows")
        return file_checksum(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there; expected a file that ends in {FORMATS}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def lines_of_source(source: FileSettings) -> Iterator[Line]:
    return lines_of(source.path)


class RowKind(NamedTuple):
    """What a source's raw rows become: the artifact's stage, their row type, and the function that reads one (it raises
    Drop).

    columns: a row needs one of these, where there are any. length: a row's characters as a model sees them. key: what
    else decides how rows are read, such as a second file. version: raised when rows are read in another way. lines,
    fingerprint: a source's raw rows, and what identifies them.
    """

    stage: str
    model: type[Row]
    read: Callable[[Line, Any], Row]
    columns: Callable[[Any], tuple[str, ...]]
    length: Callable[[Any], int]
    key: str = ""
    version: str = CHATS_VERSION
    lines: Callable[[Any], Iterator[Line]] = lines_of_source
    fingerprint: Callable[[Any], str] = fingerprint


def read_chunks(source: FileSettings, rows_per_part: int, kind: RowKind | None = None) -> Iterator[Chunk]:
    """Rows in chunks of `rows_per_part` raw rows, so that a file that grew keeps its earlier chunks; default:
    instructions.

    Raises InputError for an unreadable file, for one without rows, and when no row of the first chunk has a column
    that is needed.
    """
    kind = kind or INSTRUCTIONS
    expected = kind.columns(source)
    ids: set[str] = set()
    chunk, raw_rows, total = Chunk([], []), 0, 0
    file = ""
    columns: set[str] = set()
    any_read = False
    for line in kind.lines(source):
        if source.limit is not None and total >= source.limit:
            break
        if line.file != file and raw_rows:  # a file that grows moves no other file's rows to another part
            check_columns(source, expected, columns, None if any_read else chunk.dropped)
            yield chunk.with_distinct_ids()
            chunk, raw_rows = Chunk([], []), 0
        file = line.file
        total += 1
        raw_rows += 1
        columns.update(line.fields or ())
        try:
            row = kind.read(line, source)
            if row.id in ids:
                raise Drop(f"duplicate_id: {row.id}")
            ids.add(row.id)
            chunk.rows.append(row)
            any_read = True
        except Drop as drop:
            chunk.dropped.append(Dropped(id=line.place, reason=drop.reason, detail=drop.detail[:500]))
        if raw_rows == rows_per_part:
            check_columns(source, expected, columns, None if any_read else chunk.dropped)
            yield chunk.with_distinct_ids()
            chunk, raw_rows = Chunk([], []), 0
    if total == 0:
        raise InputError(f"{source.path} has no rows; expected rows with a column {expected[0]!r}")
    if raw_rows:
        check_columns(source, expected, columns, None if any_read else chunk.dropped)
        yield chunk.with_distinct_ids()


def check_columns(
    source: FileSettings, expected: tuple[str, ...], columns: set[str], dropped: Sequence[Dropped] | None
) -> None:
    """Raises InputError for a file that has none of the columns. dropped: its rows, where none could be read."""
    if not expected:
        return
    is_chat = isinstance(source, SourceSettings) and "prompt" not in columns and fitting(columns)
    if dropped is not None and not columns & set(expected) and not is_chat:
        if not columns:
            first = dropped[0]
            raise InputError(f"{source.path}: no row can be read; the first, {first.id}: {first.reason} {first.detail}")
        present = ", ".join(sorted(columns)).encode(errors="replace").decode()
        has_option = isinstance(source, SourceSettings)
        remedy = "; name the column with --prompt-column, or source.prompt_column in the settings" if has_option else ""
        raise InputError(
            f"{source.path} has no column {expected[0]!r} (nor {' or '.join(expected[1:])}); found: {present}{remedy}"
        )


def instruction_of(line: Line, source: SourceSettings) -> Instruction:
    """One raw row as an instruction. Raises Drop."""
    if line.fields is None:
        raise Drop(line.fault)
    fields, notes = line.fields, list[str]()
    system = fields.get(source.system_column)
    prompt, turns = fields.get(source.prompt_column), fields.get("turns")
    if isinstance(prompt, list):
        fields, prompt = {**fields, "messages": prompt}, None
    if prompt is None and isinstance(messages := fields.get("messages"), list):
        system, prompt, notes = first_turn(messages, system)
    elif prompt is None and isinstance(turns, list) and turns and isinstance(turns[0], dict):
        system, prompt, notes = first_turn(turns, system)
    elif prompt is None and isinstance(turns, list) and turns:
        prompt = turns[0]
        if len(turns) > 1:
            notes.append(f"{len(turns) - 1} later turns left out")
    elif prompt is None and (chat := other_chat(fields)):
        system, prompt, notes = first_turn(chat.messages, system or None)
    prompt, system = text_of(prompt, "prompt"), text_of(system, "system") if system is not None else None
    if not prompt.strip():
        raise Drop("empty_prompt")
    if len(prompt) + len(system or "") > source.max_prompt_chars:
        raise Drop(
            f"prompt_too_long: {len(prompt) + len(system or '')} characters; source.max_prompt_chars is "
            f"{source.max_prompt_chars}"
        )
    row_id = id_of(fields.get(source.id_column)) or content_hash([system, prompt])[:24]
    source_name = fields.get("source")
    return Instruction(
        id=row_id,
        prompt=prompt,
        system=system,
        source=text_of(source_name, "source") if isinstance(source_name, str) else file_of(line, source),
        note="; ".join(notes),
    )


def other_chat(fields: dict[str, Any]) -> ChatRow | None:
    """A row in another tool's form (forms/); None where it has a prompt, though not in the column that was named."""
    return None if fields.get("prompt") is not None else chat_in(fields)


def file_of(line: Line, source: FileSettings) -> str:
    """The name of the file or dataset that a row is from."""
    return line.file or source.path.rsplit("/", 1)[-1]


def id_of(value: Any) -> str:
    """An id as text; empty where there is none. Raises Drop for a value that cannot be an id."""
    if isinstance(value, str):
        return text_of(value, "id")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas makes floats of whole numbers beside nulls
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise Drop(f"bad_id: expected text or a whole number, found {type(value).__name__}")
    return "" if value is None else str(value)


def question_of(line: Line, source: Any) -> Question:
    """One raw row as an instruction with a reference answer, where it has one. Raises Drop."""
    row = instruction_of(line, source)
    reference = (line.fields or {}).get(source.reference_column)
    if isinstance(reference, list):  # one per turn, of which the first is used
        reference = reference[0] if reference else None
    return Question(**row.model_dump(), reference="" if reference is None else text_of(reference, "reference"))


def bench_row_of(line: Line, source: SourceSettings) -> BenchRow:
    """One raw row of a bench, as `multifaceted` writes it; raises Drop. Its preference_set may be absent."""
    row = instruction_of(line, source)
    fields = line.fields or {}
    rubrics = fields.get("rubrics")
    if not isinstance(rubrics, list) or not rubrics:
        raise Drop("no_rubrics: expected a list of {criteria, score_descriptions}")
    sets = fields.get("preference_set") or []
    if not isinstance(sets, list) or len(sets) not in (0, len(rubrics)):
        raise Drop(f"bad_preference_set: expected as many values as rubrics, {len(rubrics)}")
    names = ("dimension", "subdimension", "preference", "description")
    try:
        values = tuple(Value(**{name: text_of(entry[name], name) for name in names}, origin="given") for entry in sets)
    except (KeyError, TypeError) as error:
        raise Drop(f"bad_preference_set: expected {', '.join(names)} ({error})") from error
    return BenchRow(
        id=row.id,
        prompt=row.prompt,
        system=row.system or "",
        source=row.source,
        preference_set=values,
        reference_answer=text_of(fields.get("reference_answer"), "reference_answer"),
        rubrics=tuple(Rubric.of(rubric) for rubric in rubrics),
    )


def prompt_columns(source: SourceSettings) -> tuple[str, ...]:
    return source.prompt_column, "messages", "turns"


def prompt_length(row: Instruction | BenchRow) -> int:
    return len(row.prompt)


INSTRUCTIONS = RowKind("instructions", Instruction, instruction_of, prompt_columns, prompt_length)
QUESTIONS = RowKind("questions", Question, question_of, prompt_columns, prompt_length)
BENCH = RowKind("bench_rows", BenchRow, bench_row_of, prompt_columns, prompt_length)


def known_prompt_of(line: Line, source: Any) -> KnownPrompt:
    """One raw row as a prompt to compare with. Raises InputError for a row without one, since a prompt that cannot
    be read cannot be checked.
    """
    fields = line.fields or {}
    prompt = fields.get(source.prompt_column)
    fault = line.fault or "it has no prompt"
    try:
        if isinstance(prompt, str):
            texts: Any = [prompt]
        elif isinstance(prompt, list) and not any(map(as_message, prompt)):
            texts = prompt
        else:
            texts = user_turns(prompt if isinstance(prompt, list) else fields.get("messages"))
            texts = texts or (fields.get("turns") if prompt is None else None)
            if not texts and prompt is None and (chat := other_chat(fields)):
                texts = user_turns(chat.messages)
    except Drop as drop:
        texts, fault = None, f"it cannot be read ({drop.message})"
    turns = tuple(turn for turn in texts if isinstance(turn, str) and turn.strip()) if isinstance(texts, list) else ()
    if not turns:
        raise InputError(
            f"{source.path}, {line.place}: {fault}; expected a text in "
            f"{source.prompt_column!r}, messages or turns in every row (prompt_column names the column)"
        )
    if fields.get("kept") is False:
        raise Drop("not_kept")  # by an earlier search for duplicates
    try:
        return KnownPrompt(
            id=content_hash([line.place, turns])[:24],  # not the row's own id: duplicates must be checked, too
            name=name_of(fields.get(source.id_column), line.place),
            turns=turns,
            source=file_of(line, source),
        )
    except TypeError as error:
        raise InputError(f"{source.path}, {line.place}: it is not UTF-8; convert the file") from error


def name_of(value: Any, place: str) -> str:
    """A row's own id, or its place where it has none or an invalid one."""
    try:
        return id_of(value) or place
    except Drop:
        return place


def known_length(row: KnownPrompt) -> int:
    return sum(map(len, row.turns))


KNOWN_PROMPTS = RowKind("known_prompts", KnownPrompt, known_prompt_of, prompt_columns, known_length)


def read_prompts(source: SourceSettings) -> list[str]:
    """Every user turn of a file, for checks against it. Raises InputError for a row without one or no rows."""
    prompts: list[str] = []
    for line in lines_of(source.path):
        with suppress(Drop):
            prompts += known_prompt_of(line, source).turns
    if not prompts:
        raise InputError(f"{source.path} has no rows; expected rows with a column {source.prompt_column!r}")
    return prompts
