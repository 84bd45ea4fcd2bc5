"""The forms of chats that other tools write: one file a form, found by listing this folder; nothing registers it.

A form says by which columns it is recognised, and reads a row (chat_rows.py).
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from synthmill.schemas.errors import Drop, InputError
from synthmill.storage.plain_files.chat_messages import ChatReader, set_ids, set_thinking
from synthmill.storage.plain_files.chat_rows import ChatRow

Fields = Mapping[str, Any]


class Form(NamedTuple):
    """columns: sets of columns; a row that has all of one set is in this form. unless: columns of more particular
    forms. reads: every column that the form reads. read raises Drop.
    """

    name: str
    columns: tuple[frozenset[str], ...]
    reads: frozenset[str]
    read: Callable[[Fields, ChatReader], ChatRow]
    unless: frozenset[str] = frozenset()

    def fits(self, columns: Iterable[str]) -> str:
        """The columns by which rows with these columns are in this form; empty where they are not."""
        present = set(columns)
        match = next((names for names in self.columns if names <= present and not self.unless & present), frozenset())
        return ", ".join(sorted(match))

    def row(self, fields: Fields, padded: bool = False) -> ChatRow:
        """A raw row as a chat, with its further columns. Raises Drop. padded: as `ChatReader` has it."""
        reader = ChatReader(padded)
        chat = self.read(fields, reader)
        for answer in chat.answers or [[]]:
            set_ids([*chat.messages, *answer])
            set_thinking([*chat.messages, *answer])
        others = {name: value for name, value in fields.items() if name not in self.reads}
        return replace(chat, others=others, lost=tuple(reader.lost))


@cache
def forms() -> Mapping[str, Form]:
    """Every form, by name."""
    modules = (importlib.import_module(f"{__name__}.{listed.name}") for listed in pkgutil.iter_modules(__path__))
    return {module.FORM.name: module.FORM for module in modules}


def present(fields: Fields) -> set[str]:
    """The columns in which a row has a value."""
    return {name for name, value in fields.items() if value is not None}


def fitting(columns: Iterable[str]) -> dict[str, str]:
    """The forms that rows with these columns are in -> the columns that say so."""
    names = set(columns)
    return {form.name: match for form in forms().values() if (match := form.fits(names))}


def chat_in(fields: Fields, padded: bool = False) -> ChatRow | None:
    """A row as a chat, whatever form it has; None where it has none. Raises Drop, also for a row of two forms."""
    names = fitting(present(fields))
    if len(names) > 1:
        raise Drop(f"ambiguous_form: {described(names)}")
    return forms()[next(iter(names))].row(fields, padded) if names else None


def form_of(columns: Iterable[str], place: str) -> Form:
    """The form of a file whose rows have these columns. Raises InputError where there is none, or more than one."""
    columns = set(columns)
    names = fitting(columns)
    if len(names) > 1:
        raise InputError(f"{place} reads as {described(names)}; choose with --from")
    if not names:
        expected = "; ".join(f"{form.name}: {described_columns(form)}" for form in forms().values())
        raise InputError(f"{place} is in no form of chats; found: {', '.join(sorted(columns))}; expected {expected}")
    return forms()[next(iter(names))]


def described(names: Mapping[str, str]) -> str:
    return " and as ".join(f"{name} ({columns})" for name, columns in names.items())


def form_names() -> list[str]:
    """The names of all forms, without importing them."""
    return sorted(listed.name.replace("_", "-") for listed in pkgutil.iter_modules(__path__))


def described_columns(form: Form) -> str:
    return " or ".join(" + ".join(sorted(names)) for names in form.columns)
