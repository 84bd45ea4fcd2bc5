"""What `make docs` adds to the guides: the pages at the top of the tree, the files that pages link to, the reference
pages. mkdocs calls the functions that begin with `on_`.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from reference_pages import PAGES as REFERENCE

ROOT = Path(__file__).parents[1]
GUIDES = "docs/"
PAGES = {"README.md": "index.md"} | {
    name: name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
}
"""Pages at the top of the tree, by what they are called in the site."""
CODE = r"^```.*?^```$|`[^`\n]+`"
LINK = r"\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
CODE_OR_LINK = re.compile(f"{CODE}|{LINK}", re.M | re.S)
"""What stands in code is no link, and stays as it is."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages at the top of the tree, and the files outside of docs/ that any page links to."""
    for source, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text()))
    linked = {
        target
        for page in files.documentation_pages()
        for link in CODE_OR_LINK.finditer(page.content_string)
        if (target := within_tree(page.src_uri, link["path"]))
    }
    for target in sorted(linked - PAGES.keys()):
        if not target.startswith(GUIDES) and (ROOT / target).is_file():
            files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links lead to where a file is in the site; what is a folder in the tree is no link there."""
    place = page.file.src_uri

    def in_site(link: re.Match[str]) -> str:
        target = within_tree(place, link["path"])
        if not target:
            return link[0]
        if (ROOT / target).is_dir():
            return link["text"]
        target = PAGES.get(target, target.removeprefix(GUIDES))
        return f"[{link['text']}]({'../' * place.count('/')}{target}{link['anchor'] or ''})"

    for marker, lines in REFERENCE.items():
        markdown = markdown.replace(marker, "\n".join(lines()) if marker in markdown else "")
    return CODE_OR_LINK.sub(in_site, markdown)


def within_tree(place: str, link: str | None) -> str:
    """The path in the tree that a link names on a page of the site; empty where it names none."""
    source = next((source for source, page in PAGES.items() if page == place), GUIDES + place)
    target = (ROOT / source).parent.joinpath(link).resolve() if link else Path()
    return str(target.relative_to(ROOT)) if target.is_relative_to(ROOT) else ""
