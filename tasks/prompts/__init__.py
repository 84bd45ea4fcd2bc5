"""Prompts: one Jinja file each, under the recipe's name; blocks are named after chat roles, in the order they are
sent.

    {# version 1; source: docs/papers.md#multifaceted, step S2 #}
    {% block system %}You write system messages.{% endblock %}
    {% block user %}{{ row.prompt }}{% endblock %}

A block may carry a suffix (`user_example`) when a role speaks more than once. Templates are sandboxed and strict: a
missing variable is an error, and a row's text is never read as template syntax. Identity is `name@hash`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import StrictUndefined, TemplateError, meta, nodes
from jinja2.sandbox import SandboxedEnvironment

from synthmill.schemas.calls import Message
from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.own_methods import own_folders

FOLDER = Path(__file__).parent
ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


class Prompt:
    """A parsed template. `hash`: 12 hexadecimal digits of its text."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.hash = content_hash(text)[:12]
        self.tree = ENVIRONMENT.parse(text)
        self._template = ENVIRONMENT.from_string(text)
        self._roles = [(block.name.partition("_")[0], block.name) for block in self.tree.find_all(nodes.Block)]

    @property
    def identity(self) -> str:
        return f"{self.name}@{self.hash}"

    def render(self, **variables: Any) -> tuple[Message, ...]:
        """The messages; a block that comes out empty is left out. Raises InputError for a missing variable."""
        context = self._template.new_context(variables)
        messages = []
        try:
            for role, block in self._roles:
                if text := "".join(self._template.blocks[block](context)).strip():
                    messages.append(Message(role=role, content=text))
        except TemplateError as error:
            raise InputError(f"prompt {self.name}: {error.message}; check the variables its recipe gives it") from error
        return tuple(messages)

    def variables(self) -> set[str]:
        """Every top-level variable the template uses."""
        return meta.find_undeclared_variables(self.tree)

    def fields(self, variable: str) -> set[str]:
        """Every attribute that the template reads from one variable."""
        attributes = self.tree.find_all(nodes.Getattr)
        return {node.attr for node in attributes if isinstance(node.node, nodes.Name) and node.node.name == variable}


class Beside(NamedTuple):
    """The prompts beside a user's own stage: their folder, the hash of its templates, and those that the stage
    declares; None while its file is imported, which may load any.
    """

    folder: Path
    templates: str
    declared: frozenset[str] | None = None


BESIDE: ContextVar[Beside | None] = ContextVar("beside", default=None)


@contextmanager
def prompts_beside(beside: Beside) -> Iterator[None]:
    """Let `load` find a user's own prompts, those beside the file whose code runs here."""
    token = BESIDE.set(beside)
    try:
        yield
    finally:
        BESIDE.reset(token)


@cache
def load(name: str) -> Prompt:
    """Load `tasks/prompts/<name>.jinja`, or `prompts/<name>.jinja` of a folder of the user's own methods."""
    paths = [folder / f"{name}.jinja" for folder in (FOLDER, *(own / "prompts" for own in own_folders()))]
    path = next((path for path in paths if path.is_file()), paths[0])
    try:
        return Prompt(name, path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no prompt {name}: expected a template at {' or '.join(map(str, paths))}") from error
    except TemplateError as error:
        raise InputError(f"prompt {name} is not a valid Jinja template: {error}") from error


@cache
def load_beside(name: str, beside: Beside) -> Prompt:
    """A prompt beside a user's stage, or else of ours, once per content of those beside it. Raises InputError for one
    that the stage does not declare: its text would be in no key.
    """
    if beside.declared is not None and name not in beside.declared:
        raise InputError(f"the prompt {name} is not among the stage's prompts; write prompts = {{{name!r}: ()}} there")
    path = beside.folder / f"{name}.jinja"
    try:
        return Prompt(name, path.read_text(encoding="utf-8")) if path.is_file() else load_ours(name)
    except TemplateError as error:
        raise InputError(f"prompt {path} is not a valid Jinja template: {error}") from error
    except InputError as error:
        raise InputError(f"{error.message} or {path}") from error


load_ours = load


@wraps(load_ours)
def load_where_it_runs(name: str) -> Prompt:
    """`load`, which looks beside a user's stage first while that one's code runs."""
    beside = BESIDE.get()
    return load_beside(name, beside) if beside else load_ours(name)


load = load_where_it_runs  # type: ignore[assignment]
