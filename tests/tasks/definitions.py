"""What decides what a stage makes: its class, and every function, class and constant of ours that it names, directly
or through others. Where they stand, how they are laid out and what comments say does not count.
"""

import ast
import hashlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from synthmill.tasks.frames import FileStage, FrameStage
from synthmill.tasks.recipe import Recipe

PLUMBING = (Recipe, FrameStage, FileStage)  # what all stages share: a change there is not one of their rows' meaning
OF_FUNCTIONS, OF_CLASSES = (
    ("synthmill.tasks.", "synthmill.schemas.", "synthmill.storage.", "synthmill.flows."),
    ("synthmill.tasks.", "synthmill.flows."),
)  # a row's fields are in its Arrow schema
PLAIN = (str, bytes, int, float, bool, type(None))


def definition_hash(kind: type) -> str:
    parts: dict[str, str] = {}
    ahead: list[Any] = [kind]
    while ahead:
        item = ahead.pop()
        name = f"{item.__qualname__}"
        if name in parts:
            continue
        tree = without_docstrings(ast.parse(textwrap.dedent(inspect.getsource(item))))
        parts[name] = ast.unparse(tree)
        for used, value in named_by(item, tree):
            if isinstance(value, FunctionType | type):
                ahead.append(value)
            else:
                parts[f"{name}: {used}"] = constant(value)
    text = "\n".join(f"{name}\n{parts[name]}" for name in sorted(parts))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def named_by(item: Any, tree: ast.AST) -> Iterator[tuple[str, Any]]:
    """The functions, classes and constants of ours that a definition names, and their names there."""
    scope = vars(sys.modules[item.__module__])
    bases = [(base.__name__, base) for base in item.__mro__[1:]] if isinstance(item, type) else []
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for used, value in [*bases, *((name, scope.get(name)) for name in sorted(names))]:
        value = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, FunctionType | type):
            ours = OF_CLASSES if isinstance(value, type) else OF_FUNCTIONS
            if value.__module__.startswith(ours) and value not in PLUMBING and "[" not in value.__name__:
                yield used, value
        elif used in scope and used.isupper() and not isinstance(value, ModuleType) and constant(value):
            yield used, value


def constant(value: Any) -> str:
    """A constant as text; empty for what is none."""
    if isinstance(value, re.Pattern):
        return f"{value.pattern!r} {value.flags}"
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(constant, value))}]"
    if isinstance(value, set | frozenset):
        return f"[{', '.join(sorted(map(constant, value)))}]"
    if isinstance(value, dict):
        return f"[{', '.join(f'{constant(name)}: {constant(item)}' for name, item in value.items())}]"
    return ""


def without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.body = [each for each in node.body if not is_text(each)] or [ast.Pass()]
    return tree


def is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
