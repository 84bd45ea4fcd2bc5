"""Licences ranked by how much they ask of users of the data, to find the most restrictive one of several."""

from collections.abc import Iterable

RANKS: tuple[tuple[str, ...], ...] = (
    ("cc0-1.0", "pddl", "unlicense", "0bsd", "wtfpl"),
    ("mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "zlib", "cdla-permissive-1.0"),
    ("cdla-permissive-2.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "odc-by", "ms-pl", "afl-3.0"),
    ("mpl-2.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "epl-2.0", "cdla-sharing-1.0"),
    ("cc-by-sa-3.0", "cc-by-sa-4.0", "odbl", "gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0", "gfdl"),
    ("cc-by-nd-4.0", "openrail", "bigscience-openrail-m", "llama2", "llama3", "llama3.1", "llama3.2", "gemma"),
    ("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "c-uda"),
    ("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    ("cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
)
"""Public domain, permissive, attribution, weak and strong share-alike, no derivatives and use restrictions, then
non-commercial: the Hub's names, the least restrictive first.
"""
SHARE_ALIKE = (3, 4)
UNKNOWN, OTHER = "unknown", "other"
RANK = {name: place for place, names in enumerate(RANKS) for name in names}


def most_restrictive(licenses: Iterable[str]) -> str:
    """The licence that asks the most; `unknown` where a licence is unknown or there is none. `other` where a person has
    to decide: a licence is not listed here, or a share-alike licence stands beside another strict one.
    """
    names = sorted({name.strip().lower() or UNKNOWN for name in licenses})
    if not names or UNKNOWN in names:
        return UNKNOWN
    if len(names) == 1:
        return names[0]
    if any(name not in RANK for name in names):
        return OTHER
    strict = [name for name in names if RANK[name] >= min(SHARE_ALIKE)]
    alike = any(RANK[name] in SHARE_ALIKE for name in strict)
    if alike and len({name.rsplit("-", 1)[0] for name in strict}) > 1:
        return OTHER
    return max(names, key=lambda name: (RANK[name], name))


def for_hub(license: str) -> dict[str, str]:
    """A card's fields for a licence: the Hub takes names of its own list only, and any other as `license_name`."""
    if license in RANK or license in (UNKNOWN, OTHER):
        return {"license": license}
    return {"license": OTHER, "license_name": license}
