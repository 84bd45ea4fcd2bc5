"""Reference pages from the code: stages, scorers, rules for pairs, verifiers, formats, kinds of rows.

Each entry says what it is in a sentence, its settings with their defaults, and the paper that it is from.
docs/site_pages.py puts them where a page holds the marker of one, `<!-- every scorer -->`.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from synthmill.flows.commands.list_settings import settings_of
from synthmill.flows.commands.stages import GROUPS, columns_made, columns_taken, makes, takes
from synthmill.flows.making.reading import READ_AS
from synthmill.flows.making.stage_list import AnyStage, stages_by_name
from synthmill.flows.making.steps import KINDS
from synthmill.flows.methods import method, methods
from synthmill.schemas.formats import FORMATS
from synthmill.schemas.kinds import UnionSettings
from synthmill.storage.plain_files.forms import described_columns, forms
from synthmill.storage.published.configurations import Kind
from synthmill.storage.published.formats import SHAPES
from synthmill.storage.published.known_trainers import trainer, trainer_names
from synthmill.storage.published.trainer import EVERYTHING
from synthmill.storage.published.uses import KINDS as KINDS_OF_USE
from synthmill.tasks.cuts.cut import CutSettings
from synthmill.tasks.recipe import Recipe
from synthmill.tasks.scorers.scoring import ScorerSettings
from synthmill.tasks.verifiers.verifier import Verifier

PAPERS = Path(__file__).with_name("papers.md")
ROW_KINDS = {
    "preferences": "A prompt with a preferred and a rejected answer.",
    "pools": "A prompt with many answers and what scorers gave each of them.",
    "conversations": "A whole conversation, with its system message and tools if it has any.",
    "turns": "A question of a conversation, with what was said before and the passages that answer it.",
    "prompts": "A prompt, perhaps with a system message and a reference answer.",
    "passages": "A passage of a corpus.",
}
"""What rows of each kind of a plan are."""
PUBLISHED_KINDS: dict[Kind, str] = {
    "conversations": "Conversations to imitate: `messages`.",
    "completions": "An answer to imitate: `prompt`, `completion`.",
    "preferences": "One answer over another: `prompt`, `chosen`, `rejected`.",
    "labelled": "An answer that is wanted or not: `prompt`, `completion`, `label`.",
    "prompts": "Prompts alone: `prompt`.",
    "rl": "Prompts whose answers a verifier checks: `prompt`, `verifier`, perhaps `answer`.",
    "triplets": "A query, its passage, and one that is not: `anchor`, `positive`, `negative`.",
    "distillation": "A prompt with what the model learns to do without: `prompt`, `privileged_context`.",
    "other": "Rows as they are.",
}
"""What the rows of each kind of a dataset's configuration are."""


def sentence(text: str | None) -> str:
    """The first sentence of a docstring, without its source."""
    first = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.) ", first.partition(" Source: ")[0])[0]


@cache
def papers() -> Mapping[str, str]:
    """The entries of docs/papers.md by name."""
    parts = re.split(r"^## (\S+)$", PAPERS.read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def source_of(named: type, *names: str) -> str:
    """Links to a class's papers: those that it or its module names, else the entries that mention it."""
    module = sys.modules[named.__module__].__doc__ or ""
    anchors = [anchor for text in (named.__doc__ or "", module) for anchor in re.findall(r"papers\.md(#[\w-]+)", text)]
    mentioned = (f"#{entry}" for entry, text in papers().items() if any(f"`{name}`" in text for name in names))
    links = dict.fromkeys(anchors or mentioned)
    return ", ".join(f"[{anchor[1:]}](../papers.md{anchor})" for anchor in [*links][:3])


def settings_table(model: type[BaseModel], leave_out: str = "") -> Iterator[str]:
    rows = [cells for cells in settings_of(model) if cells[0] != leave_out]
    if rows:
        yield "| setting | default | meaning |\n|---|---|---|"
    for cells in rows:
        yield f"| {' | '.join(escape(cell, quote=False).replace('|', '&#124;') for cell in cells)} |"
    yield ""


def union_page(base: type[UnionSettings]) -> Iterator[str]:
    """Every kind of a union: how it is written, what it is, its settings."""
    for name, kind in sorted(base.kinds().items()):
        written = ", ".join(f"`{form}`" for form in kind.short_forms or (name,))
        source = source_of(kind, name)
        yield f"## {name}\n\n{sentence(kind.__doc__)}\n"
        yield f"Written {written}" + (f" · source {source}" if source else "") + "\n"
        yield from settings_table(kind, leave_out=base.discriminator)


def stages_page() -> Iterator[str]:
    """Every stage by the rows that it takes: its docstring, and its settings in a table."""
    stages = stages_by_name().values()
    for group in GROUPS:
        yield f"## Stages that take {group}\n"
        for stage in stages:
            if not stage.__name__.startswith("_") and takes(stage) == group:
                yield from stage_entry(stage)


def stage_entry(stage: AnyStage) -> Iterator[str]:
    yield f"::: synthmill.stages.{stage.__name__}\n    options: {{heading_level: 3, members: false}}\n"
    facts = {"takes": columns_taken(stage), "makes": columns_made(stage)}
    facts |= {"asks": list(stage.roles)} if issubclass(stage, Recipe) else {}
    facts |= {"source": [source] if (source := source_of(stage, stage.name)) else []}
    yield f"`{stage.name}`" + "".join(f" · {word} {', '.join(names)}" for word, names in facts.items() if names) + "\n"
    yield from settings_table(stage)


def methods_page() -> Iterator[str]:
    """Every method with all its settings."""
    for name, listed in methods().items():
        if not listed.fault:
            yield f"## All settings of {name}\n\n{listed.about}\n"
            yield from settings_table(method(name).settings)


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    heads = list(heads)
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    for cells in rows:
        yield f"| {' | '.join(cells)} |"
    yield ""


def formats_page() -> Iterator[str]:
    """What `export --format`, `export --for` and `convert` write, and the forms that are read."""
    yield "## Formats: `--format`\n"
    shapes = ((name, SHAPES.get(name)) for name in FORMATS)
    rows = (
        (f"`{name}`", shape.about, ", ".join(shape.kinds))
        if shape
        else (f"`{name}`", "the flow's own rows", "all kinds")
        for name, shape in shapes
    )
    yield from table(("format", "a row is", "made of"), rows)
    yield "## Trainers: `--for`\n"
    heads = ("trainer", "what it is", "version that was read", "uses", "what some use cannot hold")
    yield from table(heads, map(trainer_row, trainer_names()))
    yield "## Forms that are read\n"
    yield from table(
        ("form", "what it is", "recognised by the columns"),
        ((f"`{form.name}`", module_about(form.read), described_columns(form)) for form in forms().values()),
    )


def trainer_row(name: str) -> tuple[str, ...]:
    known = trainer(name)
    about = sentence(sys.modules[f"synthmill.storage.published.trainers.{name.replace('-', '_')}"].__doc__)
    lacks = sorted({feature for form in known.forms.values() for feature in EVERYTHING - form.holds})
    return f"`{name}`", about, known.version, ", ".join(known.forms), "; ".join(lacks) or "nothing"


def module_about(function: Callable[..., Any]) -> str:
    """The first sentence of the module that defines a function."""
    return sentence(sys.modules[function.__module__].__doc__)


def kinds_page() -> Iterator[str]:
    """Kinds of rows: in a plan, in a source that is read as one, in a dataset."""
    yield "## In a plan\n\nWhat steps take and make. A kind is told by its columns; other columns go along.\n"
    stages = stages_by_name().values()
    for kind, columns in KINDS.items():
        yield f"### {kind}\n\n{ROW_KINDS[kind]} Told by {', '.join(f'`{column}`' for column in columns)}.\n"
        for word, side in (("taken", takes), ("made", makes)):
            names = ", ".join(f"`{stage.name}`" for stage in stages if side(stage) == kind)
            yield f"- {word} by {names}" if names else f"- {word} by no stage"
        yield ""
    yield "## In a source: `read_as`\n"
    yield from table(("read as", "a row is", "columns"), map(source_row, READ_AS))
    yield "## In a dataset: `kind`\n"
    uses = {kind: [use for use, kinds in KINDS_OF_USE.items() if kind in kinds] for kind in get_args(Kind)}
    rows = ((f"`{kind}`", PUBLISHED_KINDS[kind], ", ".join(of_kind)) for kind, of_kind in uses.items())
    yield from table(("kind", "a row is", "can be exported for"), rows)


def source_row(name: str) -> tuple[str, ...]:
    known = READ_AS[name]
    model = known.kind(known.settings.model_construct()).model
    columns = [field for field in model.model_fields if field not in ("id", "parent_id")]
    return f"`{name}`", sentence(model.__doc__), ", ".join(columns)


PAGES: Mapping[str, Callable[[], Iterator[str]]] = {
    "<!-- every stage -->": stages_page,
    "<!-- every method -->": methods_page,
    "<!-- every scorer -->": lambda: union_page(ScorerSettings),
    "<!-- every rule -->": lambda: union_page(CutSettings),
    "<!-- every verifier -->": lambda: union_page(Verifier),
    "<!-- every format -->": formats_page,
    "<!-- every kind of row -->": kinds_page,
}
"""What a page holds in the place of a marker."""
