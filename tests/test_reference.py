"""The reference pages of `make docs`: each stage, scorer, rule, verifier, format and kind of row is described."""

import re
from types import ModuleType
from typing import get_args

import pytest

from synthmill.flows.making.reading import READ_AS
from synthmill.flows.making.stage_list import stages_by_name
from synthmill.flows.making.steps import KINDS
from synthmill.schemas.formats import FORMATS
from synthmill.schemas.kinds import UnionSettings
from synthmill.storage.plain_files.forms import form_names
from synthmill.storage.published.configurations import Kind
from synthmill.storage.published.known_trainers import trainer_names
from synthmill.tasks.cuts.cut import CutSettings
from synthmill.tasks.scorers.scoring import ScorerSettings
from synthmill.tasks.verifiers.verifier import Verifier
from tests.command import ROOT

DOCS = ROOT / "docs"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as mkdocs imports it: its folder stands first."""
    monkeypatch.syspath_prepend(str(DOCS))
    import reference_pages

    module: ModuleType = reference_pages
    return module


def test_each_marker_stands_on_one_page(pages: ModuleType) -> None:
    texts = [path.read_text() for path in DOCS.rglob("*.md")]
    assert {marker: sum(text.count(marker) for text in texts) for marker in pages.PAGES} == dict.fromkeys(
        pages.PAGES, 1
    )


@pytest.mark.parametrize("base", [ScorerSettings, CutSettings, Verifier])
def test_every_kind_of_a_union_is_described(pages: ModuleType, base: type[UnionSettings]) -> None:
    page = "\n".join(pages.union_page(base))
    entries = dict(re.findall(r"^## (\S+)\n\n(.*)\n", page, re.M))
    assert entries.keys() == base.kinds().keys()
    assert [name for name, about in entries.items() if not about.endswith(".")] == []


def test_every_stage_is_described_with_its_paper(pages: ModuleType) -> None:
    page = "\n".join(pages.stages_page())
    for name, stage in stages_by_name().items():
        [facts] = re.findall(rf"^`{name}` .*$", page, re.M)
        assert pages.sentence(stage.__doc__) and "](../papers.md#" in facts, name


def test_every_format_and_kind_of_row_is_described(pages: ModuleType) -> None:
    rows = [*pages.formats_page(), *pages.kinds_page()]
    tables = dict(re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|", "\n".join(rows), re.M))
    assert {*FORMATS, *trainer_names(), *form_names(), *READ_AS, *get_args(Kind)} <= {name for name in tables}
    assert all(about.strip() for about in tables.values())
    assert pages.ROW_KINDS.keys() == KINDS.keys() and set(pages.PUBLISHED_KINDS) == set(get_args(Kind))
