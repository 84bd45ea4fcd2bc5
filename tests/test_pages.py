"""The pages of `make docs`: every public name is on one, every guide is in their order, no link leads nowhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import synthmill
from synthmill.flows.methods import methods
from tests.command import ROOT

DOCS = ROOT / "docs"
TOP = {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"}
PAGES = [*sorted(DOCS.rglob("*.md")), *(ROOT / name for name in sorted({*TOP, "AGENTS.md", "llms.txt"}))]
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.M | re.S)
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")


def test_every_public_name_is_on_a_page_of_the_api() -> None:
    pages = {path.name: path.read_text() for path in (DOCS / "api").glob("*.md")}
    described = set(re.findall(r"^::: synthmill\.(\w+)$", "\n".join(pages.values()), re.M))
    assert described | {"stages"} == set(dir(synthmill))
    assert "<!-- every stage -->" in pages["stages.md"]


def places(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for entry in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from places(entry)


def test_every_guide_has_its_place() -> None:
    nav = list(places(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    guides = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert sorted(nav) == sorted(guides | (TOP - {"README.md"}) | {"index.md"})


def anchors(path: Path) -> set[str]:
    """What links name the headings of a page by."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub(lambda code: code[0].strip("`\n"), path.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link, anchor in LINK.findall(CODE.sub("", page.read_text())):
        target = page.parent / link if link else page
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}#{anchor}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_lists_begin_behind_a_blank_line(page: Path) -> None:
    """Elsewhere than here, a list is else the end of its paragraph."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for block in text.split("\n\n"):
        lines = block.strip("\n").splitlines()
        first = next((n for n, line in enumerate(lines) if re.match(r"(- |1\. )", line)), 0)
        assert first == 0 or lines[first - 1].startswith(("#", "<!--")), f"{page.name}: {lines[first - 1]!r}"


def test_every_method_is_on_the_page_of_methods() -> None:
    text = (DOCS / "methods.md").read_text()
    assert [name for name in methods() if f"`{name}`" not in text] == ["pipeline"]
