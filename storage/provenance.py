"""What a dataset was made of: its sources, under which licence each is, and the settings as anyone may see them."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from pydantic import BaseModel

from schemas.licenses import UNKNOWN
from schemas.settings import EngineSettings, FileSettings, RunSettings
from storage.lines import HUB

READ = ("source", "corpus")
"""Settings of files whose rows end up in the dataset; benchmarks and earlier rows are only compared with."""
PRIVATE = ("store", "workers", "ray_address", "license")
ADDRESS = ("base_url", "base_url_env", "api_key_env")
CARDS_ABOVE = 2  # folders: data/train.parquet lies two below its card


class MadeFrom(NamedTuple):
    """One source, as people know it."""

    name: str
    license: str


def made_from(settings: RunSettings) -> Iterator[MadeFrom]:
    """The sources of a run, each with its licence."""
    for name in READ:
        if isinstance(file := getattr(settings, name, None), FileSettings):
            yield MadeFrom(public_path(file.path), file.license or license_beside(file.path))
    for path in getattr(settings, "applications", ()):
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
            return str(data.get("license") or UNKNOWN) if data else UNKNOWN
        folder = Path(path).expanduser().resolve().parent
        for place in [folder, *folder.parents][: CARDS_ABOVE + 1]:
            if (card := place / "README.md").is_file() and card.read_text(errors="replace").startswith("---\n"):
                return str(DatasetCard.load(card).data.get("license") or UNKNOWN)
    except Exception:  # somebody's card may hold anything; what it says is then not known
        return UNKNOWN
    return UNKNOWN


def public_path(path: str) -> str:
    """A path without the folders of the machine: as given where that is relative, else the file's name."""
    return PurePath(path).name if path.startswith(("/", "~")) else path


def public_settings(settings: RunSettings) -> dict[str, Any]:
    """What differs from the defaults, without folders, servers and names of variables of this machine."""
    made: dict[str, Any] = public(settings, settings.model_dump(mode="json", exclude_defaults=True))
    return {name: value for name, value in made.items() if name not in PRIVATE}


def public(model: Any, dumped: Any) -> Any:
    if isinstance(model, EngineSettings):
        return {name: public("", value) for name, value in dumped.items() if name not in ADDRESS}
    if isinstance(model, BaseModel):
        return {name: public(getattr(model, name, None), value) for name, value in dumped.items()}
    if isinstance(model, Mapping) and isinstance(dumped, dict):
        return {name: public(model.get(name), value) for name, value in dumped.items()}
    if isinstance(dumped, list):
        models = list(model) if isinstance(model, tuple | list) else [None] * len(dumped)
        return [public(one, value) for one, value in zip(models, dumped, strict=True)]
    return public_path(dumped) if isinstance(dumped, str) else dumped
