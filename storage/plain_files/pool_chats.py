"""Files of preferences and ranked answers, in any form of chats (forms/), as pools: a reward is a rank, negated."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from synthmill.schemas.errors import Drop
from synthmill.storage.plain_files.chat_rows import as_kinds
from synthmill.storage.plain_files.forms import Form, fitting, forms
from synthmill.storage.plain_files.lines import Line, is_padded, lines_of

LOOKED_AT = 8


def ranked_form(path: str, columns: Iterable[str]) -> Form | None:
    """The form of a file with these columns, where its first rows hold answers that are compared; else None."""
    names = fitting(columns)
    if len(names) != 1:
        return None
    form = forms()[next(iter(names))]
    for line in islice(lines_of(path), LOOKED_AT):
        try:
            if line.fields and form.row(line.fields, is_padded(path)).kind in ("preference", "ranking"):
                return form
        except Drop:
            continue
    return None


def pool_lines(path: str, form: Form | None) -> Iterator[Line]:
    """A file's raw rows, those of a form as pools. A row that cannot be read has no fields, and a reason."""
    for line in lines_of(path):
        try:
            yield (
                line._replace(fields=pool_fields(line.fields, form, is_padded(path))) if form and line.fields else line
            )
        except Drop as drop:
            yield line._replace(fields=None, fault=drop.message)


def pool_fields(fields: Mapping[str, Any], form: Form, padded: bool) -> dict[str, Any]:
    """A row as prompt, answers and rewards, with its further columns. Raises Drop."""
    [row], _ = as_kinds(form.row(fields, padded), ("ranking",))
    if any(len(answer) != 1 or answer[0].get("tool_calls") for answer in row.answers):
        raise Drop("answer_not_text: found several messages, or calls of tools")
    answers = [answer[0]["content"] for answer in row.answers]
    return {**row.others, "prompt": row.messages, "answers": answers, "rewards": [-rank for rank in row.ranks]}
