"""What a dataset was made of: its sources, under which licence each is, and the settings as anyone may see them."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import orjson

from schemas.licenses import UNKNOWN, most_restrictive
from schemas.settings import FileSettings, RunSettings
from storage.plain_files.lines import HUB

READ = ("source", "corpus")
"""Settings of files whose rows end up in the dataset; benchmarks and earlier rows are only compared with."""
PRIVATE = ("store", "workers", "ray_address", "license")
ADDRESS = ("url", "base_url", "base_url_env", "api_key_env")
PATHS = (
    *("path", "model", "embedder", "tokenizer", "taxonomy", "thresholds", "function", "applications", "qrels"),
    *("source", "corpus", "benchmarks", "against", "spec"),
)
"""Settings that name files or folders."""
CARDS_ABOVE = 2  # folders: data/train.parquet lies two below its card


class MadeFrom(NamedTuple):
    """One source, as people know it."""

    name: str
    license: str


def made_from(settings: Mapping[str, Any]) -> Iterator[MadeFrom]:
    """The sources of a run, each with its licence. settings: as the run's record holds them, of whatever version."""
    for name in READ:
        file = settings.get(name)
        if isinstance(file, Mapping) and isinstance(path := file.get("path"), str):
            yield MadeFrom(public_path(path), file.get("license") or license_beside(path))
    for path in settings.get("applications") or ():
        yield MadeFrom(public_path(str(path)), license_beside(str(path)))


def stated_licenses(settings: RunSettings) -> list[str]:
    """What the settings say of licences: a dataset whose settings say otherwise is another one."""
    files = [getattr(settings, name, None) for name in READ]
    stated = [file.license for file in files if isinstance(file, FileSettings)]
    return [one for one in (getattr(settings, "license", ""), *stated) if one]


def license_beside(path: str) -> str:
    """What the source's own card says: the Hub's, or a README.md beside the file or above its folder."""
    from huggingface_hub import DatasetCard, HfApi

    try:
        if path.startswith(HUB):
            name, _, revision = path.removeprefix(HUB).partition("#")[0].partition("@")
            data = HfApi().dataset_info(name, revision=revision or None).card_data
            return named(data.get("license")) if data else UNKNOWN
        place = Path(path).expanduser().resolve()
        folder = place if place.is_dir() else place.parent
        for above in [folder, *folder.parents][: CARDS_ABOVE + 1]:
            if (card := above / "README.md").is_file() and card.read_text(errors="replace").startswith("---\n"):
                return named(DatasetCard.load(card).data.get("license"))
    except Exception:  # somebody's card may hold anything; what it says is then not known
        return UNKNOWN
    return UNKNOWN


def named(license: Any) -> str:
    """What a card says of its licence: one name, or several, of which the most restrictive."""
    return most_restrictive(license if isinstance(license, list) else [str(license or UNKNOWN)])


def public_path(path: str) -> str:
    """A path without the folders of the machine: as given where that is relative, else the file's name."""
    return PurePath(path).name if path.startswith(("/", "~")) else path


def public_engine(name: str) -> str:
    """An engine's name; a server may call its model by a folder."""
    kind, colon, model = name.partition(":")
    return f"{kind}{colon}{public_path(model)}" if colon else public_path(name)


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that differ from the defaults, without folders, servers and names of variables of this machine."""
    return {name: value for name, value in public(dict(settings)).items() if name not in PRIVATE}


def public_file(name: str, data: bytes) -> bytes:
    """A file that lies beside a dataset, as it is published."""
    if not name.endswith(".json"):
        return data
    return orjson.dumps(public(orjson.loads(data)), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def public(dumped: Any, name: str = "") -> Any:
    """Settings as plain values, without what belongs to this machine; name: of the setting that holds them."""
    if isinstance(dumped, dict):
        return {key: public(value, key) for key, value in dumped.items() if key not in ADDRESS}
    if isinstance(dumped, list):
        return [public(value, name) for value in dumped]
    if isinstance(dumped, str) and dumped.startswith(("/", "~")):
        return public_path(dumped) if name in PATHS or Path(dumped).expanduser().exists() else dumped
    return dumped
