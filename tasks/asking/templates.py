"""Templates and expressions of a user's own, over the columns of a row.

A column is a variable of its name: a text as it is, numbers, lists and structs as Jinja values, and `row["any name"]`
for a name that Jinja cannot spell. Templates are sandboxed and strict, and say the same at every call: nothing in
them draws at random. A null that would be written into a prompt drops its row; a template that expects nulls tests
for them: `{% if text %}`, `{{ text or "" }}`.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, get_args

import pyarrow as pa
from jinja2 import StrictUndefined, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from synthmill.schemas.calls import ChatRole, Message
from synthmill.schemas.errors import Drop, InputError

ROW = "row"
LOADING = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
CHAT_ROLES: tuple[str, ...] = get_args(ChatRole)


class NullWritten(Exception):
    """A template writes a value that is null."""


class Columns(ImmutableSandboxedEnvironment):
    """Jinja over rows: `draft.items` is the struct's field before it is a method of Python's."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return obj[attribute] if isinstance(obj, dict) and attribute in obj else super().getattr(obj, attribute)


def not_null(value: Any) -> Any:
    if value is None:
        raise NullWritten
    return value


def as_json(value: Any, indent: int | None = None) -> str:
    """The filter `tojson`, for prompts: nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent, default=str)


ENVIRONMENT = Columns(
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False, finalize=not_null
)
ENVIRONMENT.filters["tojson"] = as_json
del ENVIRONMENT.filters["random"], ENVIRONMENT.globals["lipsum"]


class Names:
    """What a template or an expression reads: `columns` by name, and whether it reads `row` as a whole."""

    def __init__(self, tree: nodes.Template) -> None:
        undeclared = meta.find_undeclared_variables(tree)
        self.lines: dict[str, int] = {}
        self.fields: dict[tuple[str, str], int] = {}
        self.whole_row = False
        inner = set()
        for holder, field, line in field_reads(tree):
            if holder.name in undeclared:
                inner.add(id(holder))
                if holder.name == ROW:
                    self.lines.setdefault(field, line)
                else:
                    self.fields.setdefault((holder.name, field), line)
        for node in tree.find_all(nodes.Name):
            if node.name == ROW and ROW in undeclared:
                self.whole_row |= id(node) not in inner
            elif node.name in undeclared:
                self.lines.setdefault(node.name, node.lineno)
        self.columns = frozenset(self.lines)

    def check(self, columns: pa.Schema, place: str) -> None:
        """Raises InputError for a name that is no column, or a field that a column of structs does not have."""
        for name, line in self.lines.items():
            if name not in columns.names and name not in ENVIRONMENT.globals:
                raise InputError(f"{place}, line {line}: {name!r} is no column; {expected(name, columns.names)}")
        for (name, field), line in self.fields.items():
            kind = columns.field(name).type if name in columns.names else pa.null()
            fields = [inner.name for inner in kind] if pa.types.is_struct(kind) else [field]
            if field not in fields:
                raise InputError(f"{place}, line {line}: {name!r} has no {field!r}; {expected(field, fields)}")


def field_reads(tree: nodes.Template) -> Iterator[tuple[nodes.Name, str, int]]:
    """Where a template reads a field of a variable, as `name.field` or `name["field"]`: (name, field, line)."""
    for attribute in tree.find_all(nodes.Getattr):
        if isinstance(attribute.node, nodes.Name):
            yield attribute.node, attribute.attr, attribute.lineno
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.node, nodes.Name) and isinstance(item.arg, nodes.Const) and isinstance(item.arg.value, str):
            yield item.node, item.arg.value, item.lineno


def expected(name: str, known: Iterable[str]) -> str:
    """What to write for a name that is unknown: the nearest, and all that are known."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}expected one of {', '.join(names) or 'none'}"


def with_row(values: Mapping[str, Any]) -> dict[str, Any]:
    return {ROW: values, **values}


class Template:
    """A template: blocks that are named after chat roles, in the order they are sent, or the text of one message."""

    def __init__(self, text: str) -> None:
        tree = ENVIRONMENT.parse(text)
        blocks = list(tree.find_all(nodes.Block))
        check_blocks(tree, blocks)
        self.names = Names(tree)
        self._template = ENVIRONMENT.from_string(text)
        self._parts = [(block.name.partition("_")[0], self._template.blocks[block.name]) for block in blocks]
        self.roles = {role for role, _ in self._parts}

    def messages(self, values: Mapping[str, Any], role: str = "user") -> tuple[Message, ...]:
        """The messages for a row; those that come out empty are left out. Raises Drop: null_column, bad_prompt."""
        context = self._template.new_context(with_row(values))
        parts = self._parts or [(role, self._template.root_render_func)]
        try:
            rendered = [(name, "".join(render(context)).strip()) for name, render in parts]
        except NullWritten as error:
            nulls = ", ".join(sorted(name for name in self.names.columns if values.get(name) is None))
            raise Drop(f"null_column: {nulls or 'a value'} is null, and the prompt writes it") from error
        except Exception as error:
            raise Drop(f"bad_prompt: {type(error).__name__}: {error}") from error
        return tuple(Message(role=name, content=text) for name, text in rendered if text)


def check_blocks(tree: nodes.Template, blocks: list[nodes.Block]) -> None:
    """Raises ValueError where a template loads others, or a block or a text beside blocks would never be sent."""
    if loading := next(tree.find_all(LOADING), None):
        raise ValueError(f"line {loading.lineno}: a prompt is one template; it cannot load others")
    if unknown := [block for block in blocks if block.name.partition("_")[0] not in CHAT_ROLES]:
        name, line = unknown[0].name, unknown[0].lineno
        raise ValueError(f"line {line}: the block {name} has no chat role; expected {', '.join(CHAT_ROLES)}")
    if len(blocks) > sum(isinstance(node, nodes.Block) for node in tree.body):
        raise ValueError("a block stands within another tag; expected blocks side by side, with other tags in them")
    for node in tree.body if blocks else ():
        texts = node.nodes if isinstance(node, nodes.Output) else []
        if any(not isinstance(text, nodes.TemplateData) or text.data.strip() for text in texts):
            raise ValueError(f"line {node.lineno}: this text is outside of the blocks and would not be sent")
        if not isinstance(node, nodes.Block | nodes.Output):
            raise ValueError(f"line {node.lineno}: this tag is outside of the blocks; write it into one")


@cache
def template_of(text: str) -> Template:
    """The template of a text, compiled once in a process. Raises ValueError that names the line."""
    if not text.strip():
        raise ValueError("there is no text; expected a template, for instance 'Summarise: {{ text }}'")
    try:
        return Template(text)
    except TemplateError as error:
        raise ValueError(f"line {getattr(error, 'lineno', 1)}: {error.message}") from error


class Expression:
    """A Jinja expression over a row's columns and the fields of an answer, that is true or not."""

    def __init__(self, text: str) -> None:
        self.names = Names(ENVIRONMENT.parse("{{ " + text + " }}"))
        self._evaluate = ENVIRONMENT.compile_expression(text, undefined_to_none=False)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it is true; one that cannot be worked out for these values is not."""
        try:
            return bool(self._evaluate(with_row(values)))
        except Exception:
            return False


@cache
def expression_of(text: str) -> Expression:
    """The expression of a text, compiled once in a process. Raises ValueError."""
    try:
        return Expression(text)
    except TemplateError as error:
        raise ValueError(f"{text!r} is no expression: {error.message}") from error
