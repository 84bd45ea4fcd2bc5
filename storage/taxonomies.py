"""Reading taxonomy files: YAML or JSON, `dimensions -> subdimensions -> values`."""

from pathlib import Path

from pydantic import ValidationError

from schemas.errors import InputError
from schemas.settings import explain
from schemas.taxonomy import Taxonomy

DEFAULT = Path(__file__).parent / "taxonomy.yaml"


def read_taxonomy(path: str) -> Taxonomy:
    """Read and check a taxonomy; an empty path is the one that comes with synthmill. Raises InputError."""
    import yaml

    file = Path(path).expanduser() if path else DEFAULT
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file} is not there; expected a taxonomy file such as storage/taxonomy.yaml") from error
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise InputError(f"{file} is not valid YAML or JSON: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise InputError(f"{file} holds {type(given).__name__}; expected a mapping with `dimensions`")
    try:
        return Taxonomy.model_validate(given)
    except ValidationError as error:
        raise InputError(explain(error, file, unknown="no such field")) from error
