"""A card that its owner edits: our part is replaced, what else stands in it stays.

Our part of the text lies between two marks, our part of the head are the keys that we write. The marker remembers what
we wrote (`outline`), so that the owner's changes can be told from our own earlier words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from schemas.errors import InputError
from schemas.hashing import content_hash

BEGIN = (
    "<!-- synthmill: this part is written anew by every export; your own text goes above this line or below the last "
    "line of this part, where it stays -->"
)
END = "<!-- synthmill: the end of that part -->"
HEAD = re.compile(r"\s*---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
NAMED = ("configs", "dataset_info")
"""Keys that list configurations by name."""
LICENSE = ("license", "license_name", "license_link")
OURS_ALONE = ("size_categories",)
TITLES = (
    "## How it was made",
    "## Duplicates and contamination",
    "## Sources and licence",
    "## Known limits",
    "## How to make it again",
)
"""Sections of cards from before there were marks, which not every card has."""


class MergedCard(NamedTuple):
    """The text to write, and what of the owner's stays in it, in words."""

    text: str
    kept: list[str]


def outline(card: str) -> dict[str, Any]:
    """What the marker remembers of a card that we wrote: the head, and a hash of each section."""
    head, body = parsed(card, "our own card")
    _, part, _ = around_marks(body)
    return {"metadata": head, "sections": {title: content_hash(text.strip()) for title, text in sections(part)}}


def outline_of(marker: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a marker remembers: empty in a foreign folder, configurations only of an earlier synthmill."""
    written = (marker or {}).get("card")
    if isinstance(written, dict):
        return written
    configs = (marker or {}).get("configs")
    return {"configs": list(configs)} if isinstance(configs, dict) else {}


def merged_card(ours: str, theirs: str, before: Mapping[str, Any], place: str, *, force: bool = False) -> MergedCard:
    """Our card with all that the owner wrote into an earlier one. before: `outline_of` the earlier one's marker.

    Raises InputError where the owner changed our own sections, or the head cannot be read; with `force`, these go.
    """
    if not theirs.strip() or theirs == ours:
        return MergedCard(ours, [])
    our_head, our_body = parsed(ours, "our own card")
    try:
        their_head, their_body = parsed(theirs, place)
    except InputError:
        if not force:
            raise
        their_head, their_body = {}, HEAD.sub("", theirs, count=1)
    head, kept = merged_head(our_head, their_head, before)
    above, part, below = around_marks(their_body)
    _, our_part, _ = around_marks(our_body)
    own, changed = own_sections(part, our_part, before.get("sections"))
    if changed and not force:
        raise InputError(
            f"{place} was changed within the part that synthmill writes ({', '.join(changed)}); move your text above "
            "or below the marks of that part, or give it up with --force"
        )
    kept += [f"the text {where} our part" for where, text in (("above", above), ("below", below)) if text.strip()]
    kept += [f"the section {title.lstrip('# ') or 'without a title'!r}" for title, _ in own]
    if not kept:
        return MergedCard(ours, [])
    after = [below.strip("\n"), *(text.strip("\n") for _, text in own)]
    texts = [above.strip("\n"), f"{BEGIN}\n{our_part.strip(chr(10))}\n{END}", *after]
    body = "\n\n".join(text for text in texts if text.strip()) + "\n"
    if (head, body) == (their_head, their_body):
        return MergedCard(theirs, kept)
    return MergedCard(f"---\n{dumped(head)}\n---\n{body}", kept)


def parsed(card: str, place: str) -> tuple[dict[str, Any], str]:
    """A card's head and text. Raises InputError for a head that is no YAML mapping."""
    match = HEAD.match(card)
    if match is None:
        return {}, card
    try:
        head = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        what = " ".join(str(error).split())[:200]
        raise InputError(f"the head of {place} is no YAML ({what}); mend it, or write over it with --force") from error
    if head is not None and not isinstance(head, dict):
        raise InputError(f"the head of {place} is no YAML mapping; mend it, or write over it with --force")
    return head or {}, card[match.end() :]


def dumped(head: Mapping[str, Any]) -> str:
    """A head as `huggingface_hub` writes it."""
    return yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True).strip()


def around_marks(body: str) -> tuple[str, str, str]:
    """The text above our part, our part, and the text below; all of it is ours where there are no marks."""
    above, begin, rest = body.partition(BEGIN)
    part, end, below = rest.partition(END)
    return (above, part, below) if begin and end else ("", body.replace(BEGIN, "").replace(END, ""), "")


def sections(body: str) -> Iterator[tuple[str, str]]:
    """(heading, text with its heading); the text before the first heading has an empty one."""
    title, lines, fenced = "", list[str](), False
    for line in body.splitlines(keepends=True):
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        if not fenced and re.match(r"#{1,2} ", line):
            if "".join(lines).strip():
                yield title, "".join(lines)
            title, lines = line.strip(), []
        lines.append(line)
    if "".join(lines).strip():
        yield title, "".join(lines)


def own_sections(part: str, our_part: str, hashes: Mapping[str, str] | None) -> tuple[list[tuple[str, str]], list[str]]:
    """Of what stands where we wrote: the owner's sections, and the headings of ours that were changed.

    hashes: of the sections that we wrote; where these are not known, what has one of our headings counts as ours.
    """
    theirs = list(sections(part))
    if hashes is None:
        known = {*TITLES, *(title for title, _ in sections(our_part))}
        return [(title, text) for title, text in theirs if title not in known], []
    own = [(title, text) for title, text in theirs if title not in hashes]
    changed = [title for title, text in theirs if title in hashes and content_hash(text.strip()) != hashes[title]]
    top = next((title for title in hashes if title.startswith("# ")), None)
    if top and top not in dict(theirs) and any(title.startswith("# ") for title, _ in own):
        changed.append(top)  # it was given another title: what stands under it is ours
    return own, changed


def merged_head(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], before: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The head's keys: what the owner changed since we wrote it, what only the owner has, else ours."""
    written = before.get("metadata")
    head: dict[str, Any] = {}
    kept: list[str] = []
    license_is_theirs = any(is_theirs(name, ours, theirs, written) for name in LICENSE)
    for name in dict.fromkeys([*ours, *theirs]):
        if name in NAMED:
            names = before.get("configs") or config_names((written or {}).get(name))
            head[name] = merged_configs(ours.get(name), theirs.get(name), names)
            own = sorted(set(config_names(head[name])) - set(config_names(ours.get(name))))
            kept += [f"{name} of {config}" for config in own]
            continue
        if not (license_is_theirs if name in LICENSE else is_theirs(name, ours, theirs, written)):
            if name in ours:
                head[name] = ours[name]
            continue
        if name in theirs:
            head[name] = merged_value(ours.get(name), theirs[name], (written or {}).get(name))
        if head.get(name) != ours.get(name):
            kept.append(f"{name}: {in_words(head[name])}" if name in head else f"no {name}")
    return {name: value for name, value in head.items() if value not in (None, [])}, kept


def is_theirs(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], written: Mapping[str, Any] | None) -> bool:
    """Whether the owner has changed a key; where it is not known what we wrote, whether there is another value."""
    if written is None:
        return name in theirs and name not in OURS_ALONE and theirs[name] != ours.get(name)
    return bool(theirs.get(name) != written.get(name))


def merged_value(ours: Any, theirs: Any, written: Any) -> Any:
    """The owner's value; of lists, with what we would add by now, without what we would leave out."""
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return theirs
    earlier = written if isinstance(written, list) else []
    new = [value for value in ours if value not in earlier and value not in theirs]
    return [value for value in theirs if value in ours or value not in earlier] + new


def entries(configs: Any) -> list[dict[str, Any]]:
    """A list of configurations as a head has it: one may stand there without a list."""
    listed = configs if isinstance(configs, list) else [configs]
    return [entry for entry in listed if isinstance(entry, dict)]


def config_names(configs: Any) -> list[str]:
    return [str(entry.get("config_name", "default")) for entry in entries(configs)]


def merged_configs(ours: Any, theirs: Any, earlier: Sequence[str]) -> Any:
    """Our configurations, then the owner's: those that we never wrote. The owner's default stays the default."""
    names = {*config_names(ours), *earlier}
    own = [entry for name, entry in zip(config_names(theirs), entries(theirs), strict=True) if name not in names]
    if not own:
        return ours
    default = any(entry.get("default") for entry in own)
    return [{k: v for k, v in entry.items() if not (default and k == "default")} for entry in entries(ours)] + own


def in_words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
