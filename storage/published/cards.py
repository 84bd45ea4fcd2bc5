"""Merge a card that its owner edits: our part is replaced, everything else stays.

Our part of the text lies between two marks; our part of the head is the keys that we write. The marker remembers what
we wrote (`outline`), so that the owner's changes differ from our own earlier text.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import content_hash

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
OF_OUR_ROWS = ("config_name", "data_files", "features", "splits", "download_size", "dataset_size")
TITLES = (
    "## How it was made",
    "## Duplicates and contamination",
    "## Sources and licence",
    "## Known limits",
    "## How to make it again",
)
"""Our sections in cards from before there were marks."""


class MergedCard(NamedTuple):
    """The text to write, and descriptions of the owner's parts that stay in it."""

    text: str
    kept: list[str]


def outline(card: str) -> dict[str, Any]:
    """What the marker stores of a card that we wrote: the head, and a hash of each section."""
    head, body = parse_card(card, "our own card")
    _, part, _ = split_at_marks(body)
    return {"metadata": head, "sections": {title: content_hash(text.strip()) for title, text in sections(part)}}


def outline_of(marker: Mapping[str, Any] | None) -> dict[str, Any]:
    """The outline in a marker: empty in a foreign folder, only configurations in one of an earlier synthmill."""
    written = (marker or {}).get("card")
    if isinstance(written, dict) and all(isinstance(value, dict | list) for value in written.values()):
        return written
    configs = (marker or {}).get("configs")
    return {"configs": list(configs)} if isinstance(configs, dict) else {}


def merged_card(ours: str, theirs: str, before: Mapping[str, Any], place: str, *, force: bool = False) -> MergedCard:
    """Our card with all that the owner wrote into an earlier one. before: `outline_of` the earlier one's marker.

    Raises InputError where the owner changed our sections, or the head cannot be read; with `force`, both are replaced.
    """
    if not theirs.strip() or theirs == ours:
        return MergedCard(ours, [])
    our_head, our_body = parse_card(ours, "our own card")
    try:
        their_head, their_body = parse_card(theirs, place)
    except InputError:
        if not force:
            raise
        their_head, their_body = {}, HEAD.sub("", theirs, count=1)
        before = {**before, "metadata": None}
    head, kept, lost = merged_head(our_head, their_head, before)
    above, part, below = split_at_marks(their_body)
    _, our_part, _ = split_at_marks(our_body)
    own, changed = own_sections(part, our_part, before.get("sections"))
    if (changed or lost) and not force:
        raise InputError(
            f"{place} was changed where synthmill writes ({', '.join([*changed, *lost])}), and this export would write "
            "over it; move your text above or below the marks of that part, or give it up with --force"
        )
    kept += [f"the text {side} our part" for side, text in (("above", above), ("below", below)) if text.strip()]
    kept += [f"the section {title.lstrip('# ') or 'without a title'!r}" for title, _ in own]
    if not kept:
        return MergedCard(ours, [])
    after = [below.strip("\n"), *(text.strip("\n") for _, text in own)]
    texts = [above.strip("\n"), f"{BEGIN}\n{our_part.strip(chr(10))}\n{END}", *after]
    body = "\n\n".join(text for text in texts if text.strip()) + "\n"
    if (head, body) == (their_head, their_body):
        return MergedCard(theirs, kept)
    return MergedCard(f"---\n{dump_head(head)}\n---\n{body}", kept)


def parse_card(card: str, place: str) -> tuple[dict[str, Any], str]:
    """A card's head and text. Raises InputError for a head that is no YAML mapping."""
    match = HEAD.match(card)
    if match is None:
        return {}, card
    try:
        head = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the head of {place} is no YAML ({reason}); mend it, or write over it with --force"
        ) from error
    if head is not None and not isinstance(head, dict):
        raise InputError(f"the head of {place} is no YAML mapping; mend it, or write over it with --force")
    return head or {}, card[match.end() :]


def dump_head(head: Mapping[str, Any]) -> str:
    """A head as `huggingface_hub` writes it."""
    return yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True).strip()


def split_at_marks(body: str) -> tuple[str, str, str]:
    """(text above our part, our part, text below); without marks all of it is our part."""
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
    """In our part of an edited card: the owner's sections, and the headings of our sections that were changed.

    hashes: of the sections that we wrote; where unknown, a section with one of our headings counts as ours.
    """
    theirs = list(sections(part))
    if hashes is None:
        our_titles = {*TITLES, *(title for title, _ in sections(our_part))}
        return [(title, text) for title, text in theirs if title not in our_titles], []
    own = [(title, text) for title, text in theirs if title not in hashes]
    changed = [title for title, text in theirs if title in hashes and content_hash(text.strip()) != hashes[title]]
    top = next((title for title in hashes if title.startswith("# ")), None)
    if top and top not in dict(theirs) and any(title.startswith("# ") for title, _ in own):
        changed.append(top)  # the owner renamed it: the text under it is ours
    return own, changed


def merged_head(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], before: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """(the head, descriptions of the owner's values that stay, and of those that cannot): per key the owner's value
    where the owner changed or added it, else ours.
    """
    written = before.get("metadata")
    head: dict[str, Any] = {}
    kept: list[str] = []
    lost: list[str] = []
    license_is_theirs = any(is_theirs(name, ours, theirs, written) for name in LICENSE)
    for name in dict.fromkeys([*ours, *theirs]):
        if name in NAMED:
            sides = (by_name(ours.get(name)), by_name(theirs.get(name)), by_name((written or {}).get(name)))
            configs = Configs(*sides, ours_before={*sides[2], *before.get("configs", ())})
            head[name] = configs.merged(ours.get(name))
            kept += [f"{name}: {change}" for change in configs.kept()]
            lost += [f"{name}: {change}" for change in configs.lost()]
            continue
        if not (license_is_theirs if name in LICENSE else is_theirs(name, ours, theirs, written)):
            if name in ours:
                head[name] = ours[name]
            continue
        if name in theirs:
            head[name] = merged_value(ours.get(name), theirs[name], (written or {}).get(name))
        if head.get(name) != ours.get(name):
            kept.append(f"{name}: {in_words(head[name])}" if name in head else f"no {name}")
    return {name: value for name, value in head.items() if value not in (None, [])}, kept, lost


def is_theirs(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], written: Mapping[str, Any] | None) -> bool:
    """Whether the owner has changed a key; without a record of what we wrote, whether the values differ."""
    if written is None:
        return name in theirs and name not in OURS_ALONE and theirs[name] != ours.get(name)
    return bool(theirs.get(name) != written.get(name))


def merged_value(ours: Any, theirs: Any, written: Any) -> Any:
    """The owner's value; for lists, with entries that are new in ours and without those that ours dropped."""
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return theirs
    earlier = written if isinstance(written, list) else []
    new = [value for value in ours if value not in earlier and value not in theirs]
    return [value for value in theirs if value in ours or value not in earlier] + new


def by_name(configs: Any) -> dict[str, dict[str, Any]]:
    """Configurations as a head lists them (one may stand there without a list), by name."""
    entries = configs if isinstance(configs, list) else [configs]
    return {str(entry.get("config_name", "default")): entry for entry in entries if isinstance(entry, dict)}


@dataclass(frozen=True)
class Configs:
    """One list of configurations: ours, the owner's, what we wrote before, and the names of what we wrote before."""

    ours: Mapping[str, dict[str, Any]]
    theirs: Mapping[str, dict[str, Any]]
    written: Mapping[str, dict[str, Any]]
    ours_before: set[str]

    def own(self) -> dict[str, dict[str, Any]]:
        """What the owner added."""
        return {n: entry for n, entry in self.theirs.items() if n not in self.ours and n not in self.ours_before}

    def changed(self, name: str) -> dict[str, Any]:
        """The owner's changes to one of ours, empty where what we wrote is unknown; None for a deleted key."""
        if name not in self.theirs or name not in self.written:
            return {}
        entry, before = self.theirs[name], self.written[name]
        return {key: entry.get(key) for key in {**entry, **before} if entry.get(key) != before.get(key)}

    def merged(self, ours: Any) -> Any:
        """Our configurations with the owner's changes, except to keys that our rows decide; then the owner's own."""
        own = self.own()
        rows = []
        for name, entry in self.ours.items():
            changes = {key: value for key, value in self.changed(name).items() if key not in OF_OUR_ROWS}
            row = {key: value for key, value in {**entry, **changes}.items() if value is not None}
            if any(added.get("default") for added in own.values()):  # there can be one only
                row.pop("default", None)
            rows.append(row)
        rows += own.values()
        return rows[0] if isinstance(ours, dict) and len(rows) == 1 else rows

    def kept(self) -> list[str]:
        changes = [f"{key} of {n}" for n in self.ours for key in self.changed(n) if key not in OF_OUR_ROWS]
        return [*self.own(), *changes]

    def lost(self) -> list[str]:
        return [f"{key} of {name}" for name in self.ours for key in self.changed(name) if key in OF_OUR_ROWS]


def in_words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
