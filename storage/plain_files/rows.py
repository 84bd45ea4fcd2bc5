"""Reading what users have, files, queries and Hub datasets (storage/plain_files/lines.py), into rows.

A bad row becomes `Dropped` with its line number and never stops its neighbours; a bad file stops everything before
any work.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from schemas.errors import Drop, InputError
from schemas.hashing import content_hash, file_checksum
from schemas.messages import as_message
from schemas.multifaceted import BenchRow, Rubric, Value
from schemas.pools import Question
from schemas.rows import Dropped, Instruction, KnownPrompt, Row
from schemas.settings import FileSettings, SourceSettings
from storage.plain_files.chats import first_turn, user_turns
from storage.plain_files.lines import FORMATS, HUB, Line, files_in, hub_commit, lines_of, suffix_of
from storage.plain_files.queries import QUERY, checksum_of

VERSION, CHATS_VERSION = "2", "3"
"""How rows are read; those that may be chats (schemas/messages.py)."""


@dataclass
class Chunk:
    """The next `rows_per_part` raw rows of a source. ids_in: one id per raw row."""

    rows: list[Any]
    dropped: list[Dropped]

    def named_apart(self) -> "Chunk":
        """The same; a drop whose place is called like a row of its chunk is called otherwise."""
        taken = {row.id for row in self.rows}
        self.dropped = [
            row.model_copy(update={"id": f"{row.id} (unreadable)"}) if row.id in taken else row for row in self.dropped
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


class RowKind(NamedTuple):
    """What a source's raw rows become: the artifact they make, their row type, and how one is read (it raises Drop).

    columns: without any of these no row can be read. length: a row's, in characters, as a model is given it. key: what
    else decides how rows are read, a second file for instance. version: raised when rows are read otherwise.
    """

    stage: str
    model: type[Row]
    read: Callable[[Line, Any], Row]
    columns: Callable[[Any], tuple[str, ...]]
    length: Callable[[Any], int]
    key: str = ""
    version: str = CHATS_VERSION


def read_chunks(source: FileSettings, rows_per_part: int, kind: RowKind | None = None) -> Iterator[Chunk]:
    """Rows in chunks of `rows_per_part` raw rows, so that a file that grew keeps its earlier chunks; default:
    instructions.

    Raises InputError for an unreadable file, for one without rows, and when no row of the first chunk has a column
    that is needed.
    """
    kind = kind or INSTRUCTIONS
    expected = kind.columns(source)
    seen: set[str] = set()
    chunk, raw, count = Chunk([], []), 0, 0
    file = ""
    columns: set[str] = set()
    answered = False
    for line in lines_of(source.path):
        if source.limit is not None and count >= source.limit:
            break
        if line.file != file and raw:  # a file that grows moves no other file's rows to another part
            check_columns(source, expected, columns, answered)
            yield chunk.named_apart()
            chunk, raw = Chunk([], []), 0
        file = line.file
        count += 1
        raw += 1
        columns.update(line.fields or ())
        try:
            row = kind.read(line, source)
            if row.id in seen:
                raise Drop(f"duplicate_id: {row.id}")
            seen.add(row.id)
            chunk.rows.append(row)
            answered = True
        except Drop as drop:
            chunk.dropped.append(Dropped(id=line.place, reason=drop.reason, detail=drop.detail[:500]))
        if raw == rows_per_part:
            check_columns(source, expected, columns, answered)
            yield chunk.named_apart()
            chunk, raw = Chunk([], []), 0
    if count == 0:
        raise InputError(f"{source.path} has no rows; expected rows with a column {expected[0]!r}")
    if raw:
        check_columns(source, expected, columns, answered)
        yield chunk.named_apart()


def check_columns(source: FileSettings, expected: tuple[str, ...], columns: set[str], answered: bool) -> None:
    if not answered and not columns & set(expected):
        found = ", ".join(sorted(columns)).encode(errors="replace").decode() or "no row that could be read at all"
        named = isinstance(source, SourceSettings)
        remedy = "; name the column with --prompt-column, or source.prompt_column in the settings" if named else ""
        raise InputError(
            f"{source.path} has no column {expected[0]!r} (nor {' or '.join(expected[1:])}); found: {found}{remedy}"
        )


def instruction_of(line: Line, source: SourceSettings) -> Instruction:
    """One raw row as an instruction; raises Drop when it is none."""
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


def file_of(line: Line, source: FileSettings) -> str:
    """The name of the file or dataset that a row is from."""
    return line.file or source.path.rsplit("/", 1)[-1]


def id_of(given: Any) -> str:
    """An id as text; empty where there is none. Raises Drop for what cannot be one."""
    if isinstance(given, str):
        return text_of(given, "id")
    if isinstance(given, float) and given.is_integer():
        given = int(given)  # pandas makes floats of whole numbers beside nulls
    if given is not None and (isinstance(given, bool) or not isinstance(given, int)):
        raise Drop(f"bad_id: expected text or a whole number, found {type(given).__name__}")
    return "" if given is None else str(given)


def question_of(line: Line, source: Any) -> Question:
    """One raw row as an instruction with a reference answer, where it has one; raises Drop when it is none."""
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
        values = tuple(Value(**{name: text_of(one[name], name) for name in names}, origin="given") for one in sets)
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
    """One raw row as a prompt to compare with. Raises InputError for a row without one: what cannot be read cannot be
    checked.
    """
    fields = line.fields or {}
    given = fields.get(source.prompt_column)
    fault = line.fault or "it has no prompt"
    try:
        if isinstance(given, str):
            said: Any = [given]
        elif isinstance(given, list) and not any(map(as_message, given)):
            said = given
        else:
            said = user_turns(given if isinstance(given, list) else fields.get("messages"))
            said = said or (fields.get("turns") if given is None else None)
    except Drop as drop:
        said, fault = None, f"it cannot be read ({drop.message})"
    turns = tuple(turn for turn in said if isinstance(turn, str) and turn.strip()) if isinstance(said, list) else ()
    if not turns:
        raise InputError(
            f"{source.path}, {line.place}: {fault}; expected a text in "
            f"{source.prompt_column!r}, messages or turns in every row (prompt_column names the column)"
        )
    if fields.get("kept") is False:
        raise Drop("not_kept")  # by an earlier search for duplicates
    try:
        return KnownPrompt(
            id=content_hash([line.place, turns])[:24],  # not the given one: what is there twice must be checked, too
            name=name_of(fields.get(source.id_column), line.place),
            turns=turns,
            source=file_of(line, source),
        )
    except TypeError as error:
        raise InputError(f"{source.path}, {line.place}: it is not UTF-8; convert the file") from error


def name_of(given: Any, place: str) -> str:
    """A row's id as people know it, or its place where it has none that can be one."""
    try:
        return id_of(given) or place
    except Drop:
        return place


def known_length(row: KnownPrompt) -> int:
    return sum(map(len, row.turns))


KNOWN = RowKind("known_prompts", KnownPrompt, known_prompt_of, prompt_columns, known_length)


def read_prompts(source: SourceSettings) -> list[str]:
    """Every user turn of a file, for checks against it. Raises InputError for a row without one, and for no row."""
    found: list[str] = []
    for line in lines_of(source.path):
        with suppress(Drop):
            found += known_prompt_of(line, source).turns
    if not found:
        raise InputError(f"{source.path} has no rows; expected rows with a column {source.prompt_column!r}")
    return found


def text_of(value: Any, what: str) -> str:
    if value is None:
        raise Drop(f"null_{what}")
    if not isinstance(value, str):
        raise Drop(f"{what}_not_text: found {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Drop("not_utf8") from None
    return value
