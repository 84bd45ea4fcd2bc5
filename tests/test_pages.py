"""The pages of `make docs`: every public name is on one, every guide is in their order, no link leads nowhere."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import synthmill
from synthmill.flows.cli import cli
from synthmill.flows.commands.list_settings import settings_of
from synthmill.flows.methods import method, methods
from tests.command import ROOT

DOCS = ROOT / "docs"
TOP = {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"}
PAGES = [*sorted(DOCS.rglob("*.md")), *(ROOT / name for name in sorted({*TOP, "AGENTS.md", "llms.txt"}))]
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.M | re.S)
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")
SHELL = re.compile(r"^```(?:bash)?\n(.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"""^synthmill ((?:"[^"]*"|'[^']*'|\\\n|[^\n"'\\])*)""", re.M)


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


def commands_on(page: Path) -> Iterator[list[str]]:
    """The arguments of each command in a block of shell, without what the shell takes for itself."""
    for block in SHELL.findall(page.read_text()):
        for command in COMMAND.findall(block):
            words = shlex.split(command.replace("\\\n", " "))
            own = takewhile(lambda word: not word.startswith(("#", "|", ">")), words)
            yield [word for word in own if word != "..."]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_commands_have_the_options_and_settings_that_they_name(page: Path) -> None:
    for name, *words in commands_on(page):
        try:
            context = cli.commands[name].make_context(name, words)
        except click.exceptions.Exit:  # --help
            continue
        except click.BadParameter as error:
            assert "does not exist" in error.message, f"{page.name}: {name} {words}: {error.message}"
            continue
        flow = context.params.get("flow")
        settings = [pair.partition("=")[0] for option, pair in pairwise(words) if option == "--set"]
        if name == "run" and flow in methods():
            assert [setting for setting in settings if not has(flow, setting)] == [], f"{page.name}: {flow}"


def has(flow: str, setting: str) -> bool:
    """Whether a method has a setting, or one within it, or one that it is within."""
    within = re.sub(r"^engines\.[\w-]+\.", "engines.ROLE.", setting + ".")
    names = [f"{name}." for name, *_ in settings_of(method(flow).settings)]
    return any(name.startswith(within) or within.startswith(name) for name in names)
