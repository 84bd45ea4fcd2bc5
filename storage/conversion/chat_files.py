"""A file of chats in some form: which form it is, what its rows are, and the rows themselves, one at a time."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from synthmill.schemas.errors import Drop, InputError
from synthmill.storage.conversion.tally import Tally
from synthmill.storage.plain_files.chat_rows import MADE_OF, ChatKind, ChatRow, as_kinds
from synthmill.storage.plain_files.forms import form_of, forms, present
from synthmill.storage.plain_files.lines import is_padded, lines_of
from synthmill.storage.plain_files.tables import inferred, merged

LOOKED_AT, ROWS_AT_ONCE = 256, 1024
OnRows = Callable[[int, int], None]
"""Is told (rows read, rows left out) now and then."""


T = TypeVar("T")


def batched(items: Iterable[T]) -> Iterator[list[T]]:
    """The same items, some at a time."""
    iterator = iter(items)
    while batch := list(islice(iterator, ROWS_AT_ONCE)):
        yield batch


class Placed(NamedTuple):
    """A row, and where it stands in its file."""

    place: str
    row: ChatRow


@dataclass
class Look:
    """What a whole file holds. fields: of messages; others: types of further columns, where they were asked for."""

    rows: int = 0
    kinds: Counter[ChatKind] = field(default_factory=Counter)
    fields: dict[str, None] = field(default_factory=dict)
    has_tools: bool = False
    others: pa.Schema | None = None


class ChatFile:
    """A file of chats. form: the form that it is read in; empty: the only one that its first rows' columns are in.

    Raises InputError where that is none, or more than one.
    """

    def __init__(self, path: str, form: str = "", limit: int | None = None) -> None:
        self.path, self.limit, self.padded = path, limit, is_padded(path)
        if form and form not in forms():
            raise InputError(f"{form} is no form of chats; expected one of {', '.join(forms())}")
        self.form = forms()[form] if form else form_of(self._columns(), path)

    def _columns(self) -> set[str]:
        """The columns in which a first row has a value. Raises InputError where no row can be read."""
        fields = [line.fields for line in islice(lines_of(self.path), LOOKED_AT) if line.fields]
        if not fields:
            raise InputError(f"{self.path} has no row that can be read; expected chats")
        return set().union(*map(present, fields))

    def rows(self, left_out: Tally, on_rows: OnRows = lambda *_: None) -> Iterator[Placed]:
        """Its rows; one that cannot be read is counted."""
        for number, line in enumerate(islice(lines_of(self.path), self.limit), 1):
            try:
                if line.fields is None:
                    raise Drop(line.fault)
                yield Placed(line.place, self.form.row(line.fields, self.padded))
            except Drop as drop:
                left_out.add(drop.reason, line.place, drop.detail)
            if number % ROWS_AT_ONCE == 0:
                on_rows(number, left_out.rows)

    def look(self, on_rows: OnRows = lambda *_: None, *, with_types: bool = False) -> Look:
        """Read all of it once. Raises InputError where columns have no common type, if types are asked for."""
        look, left_out = Look(), Tally()
        for placed in batched(self.rows(left_out, on_rows)):
            for row in (row for _, row in placed):
                look.kinds[row.kind] += 1
                look.has_tools |= bool(row.tools)
                look.fields |= {name: None for chat in row.chats for message in chat for name in message}
            if with_types:
                others: list[Mapping[str, Any]] = [row.others for _, row in placed]
                look.others = merged(look.others, inferred(others, self.path), self.path)
        look.rows = look.kinds.total() + left_out.rows
        if not look.kinds:
            reasons = "; ".join(left_out.lines())
            raise InputError(
                f"{self.path}: no row can be read as {self.form.name} ({reasons}); --from reads another form"
            )
        return look

    def rows_of_kind(self, kind: ChatKind, left_out: Tally, lost: Tally, on_rows: OnRows) -> Iterator[Placed]:
        """Its rows as rows of one kind; what that leaves out is counted, and so are rows with an empty side."""
        for place, row in self.rows(left_out, on_rows):
            try:
                made, names = as_kinds(row, (kind,))
                for each in made:
                    check_sides(each)
            except Drop as drop:
                left_out.add(drop.reason, place, drop.detail)
                continue
            for name in dict.fromkeys([*row.lost, *names]):
                lost.add(name, place)
            yield from (Placed(place, each) for each in made)


def kind_for(kinds: Counter[ChatKind], accepted: tuple[ChatKind, ...], what: str) -> ChatKind:
    """The kind that a file's rows are written as: that of most of them, else one that these can be. Raises InputError
    where no row can be any that is accepted.
    """
    for own, _ in kinds.most_common():
        if kind := own if own in accepted else next((kind for kind in accepted if kind in MADE_OF[own]), None):
            return kind
    counts = ", ".join(f"{count:,} of kind {kind}" for kind, count in kinds.most_common())
    raise InputError(f"{what} holds {' or '.join(accepted)}, and these rows are neither and cannot be: {counts}")


def check_sides(row: ChatRow) -> None:
    """Raises Drop for a row that nothing could be learned from."""
    if row.kind != "conversation" and not any(message["content"] for message in row.messages):
        raise Drop("empty_prompt")
    if row.kind == "conversation" and not any(message["role"] == "assistant" for message in row.messages):
        raise Drop("no_answer")
    for answer in row.answers or ([row.messages] if row.kind == "conversation" else []):
        if not any(m["content"] or m.get("tool_calls") for m in answer if m["role"] == "assistant"):
            raise Drop("empty_answer")
    if row.kind == "preference" and row.answers[0] == row.answers[1]:
        raise Drop("same_answers: chosen and rejected are equal")
