"""What a dataset was made from: its sources with their licences, and the settings without private parts."""

import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import orjson

from synthmill.schemas.licenses import UNKNOWN, most_restrictive
from synthmill.schemas.local_paths import path_settings
from synthmill.schemas.settings import FileSettings, RunSettings
from synthmill.storage.plain_files.lines import HUB

PRIVATE = ("store", "workers", "ray_address", "license")
ADDRESS = ("url", "base_url", "base_url_env", "api_key_env")
ABSOLUTE = re.compile(r"(~|/[^/\s]+)/\S+")
"""A path, whatever the setting is called: of a settings class that is not loaded, nobody knows the types."""
CARDS_ABOVE = 2  # folders: data/train.parquet lies two below its card


class DatasetSource(NamedTuple):
    """A source's public name and licence."""

    name: str
    license: str


def sources_of(settings: Mapping[str, Any]) -> Iterator[DatasetSource]:
    """The sources of a run, each with its licence. settings: as the run's record holds them, of whatever version."""
    names = path_settings(rows=True)
    for name, value in settings.items():
        several = value.values() if name == "sources" and isinstance(value, Mapping) else ()
        for source in (value, *several):  # also of a class not loaded
            if isinstance(source, Mapping) and isinstance(path := source.get("path"), str) and path:
                yield DatasetSource(public_path(path), source.get("license") or license_beside(path))
        for path in [value] if isinstance(value, str) else value if isinstance(value, list) else ():
            if name in names and isinstance(path, str):
                yield DatasetSource(public_path(path), license_beside(path))


def stated_licenses(settings: RunSettings) -> list[str]:
    """The licences that the settings state; a dataset whose settings state others is another dataset."""
    stated = [file.license for _, file in settings if isinstance(file, FileSettings)]
    return [name for name in (getattr(settings, "license", ""), *stated) if name]


def license_beside(path: str) -> str:
    """The licence in the source's own card: the Hub's, or a README.md beside the file or above its folder."""
    from huggingface_hub import DatasetCard, HfApi

    try:
        if path.startswith(HUB):
            name, _, revision = path.removeprefix(HUB).partition("#")[0].partition("@")
            data = HfApi().dataset_info(name, revision=revision or None).card_data
            return license_in_card(data.get("license")) if data else UNKNOWN
        place = Path(path).expanduser().resolve()
        folder = place if place.is_dir() else place.parent
        for above in [folder, *folder.parents][: CARDS_ABOVE + 1]:
            if (card := above / "README.md").is_file() and card.read_text(errors="replace").startswith("---\n"):
                return license_in_card(DatasetCard.load(card).data.get("license"))
    except Exception:  # a foreign card may hold anything; its licence is then unknown
        return UNKNOWN
    return UNKNOWN


def license_in_card(license: Any) -> str:
    """The licence that a card names; of several the most restrictive."""
    return most_restrictive(license if isinstance(license, list) else [str(license or UNKNOWN)])


def public_path(path: str) -> str:
    """A path without this machine's folders: a relative path as it is, else the file's name."""
    return PurePath(path).name if path.startswith(("/", "~")) else path


def public_engine(name: str) -> str:
    """An engine's name; a server may call its model by a folder."""
    kind, colon, model = name.partition(":")
    return f"{kind}{colon}{public_path(model)}" if colon else public_path(name)


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that differ from the defaults, without folders, servers and names of variables of this machine."""
    return {name: value for name, value in strip_private(dict(settings)).items() if name not in PRIVATE}


def public_file(name: str, data: bytes) -> bytes:
    """The published form of a file that lies beside a dataset."""
    if not name.endswith(".json"):
        return data
    return orjson.dumps(strip_private(orjson.loads(data)), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def strip_private(value: Any, name: str = "", paths: Container[str] | None = None) -> Any:
    """Settings as plain values, without what belongs to this machine. name: the setting that holds the value; paths:
    the settings that name files, default: those whose type says so.
    """
    if paths is None:
        paths = path_settings() | {"spec"}
    if isinstance(value, dict):
        return {key: strip_private(member, key, paths) for key, member in value.items() if key not in ADDRESS}
    if isinstance(value, list):
        return [strip_private(member, name, paths) for member in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        is_path = name in paths or ABSOLUTE.fullmatch(value) or Path(value).expanduser().exists()
        return public_path(value) if is_path else value
    return value
