"""Reading taxonomy files: YAML or JSON, `dimensions -> subdimensions -> values`."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from synthmill.schemas.errors import InputError
from synthmill.schemas.settings_files import explain
from synthmill.schemas.taxonomy import Taxonomy

DEFAULT = Path(__file__).parent / "taxonomy.yaml"


def read_taxonomy(path: str) -> Taxonomy:
    """Read and check a taxonomy; an empty path is the one that comes with synthmill. Raises InputError."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a duplicate key, of which YAML would keep the last."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if duplicate := next((key for place, key in enumerate(keys) if key in keys[:place]), None):
                raise ValueError(f"{duplicate!r} is there twice{node.start_mark}")
            return super().construct_mapping(node, deep)

    file = Path(path).expanduser() if path else DEFAULT
    try:
        document = yaml.load(file.read_text(encoding="utf-8"), Loader)
    except FileNotFoundError as error:
        raise InputError(
            f"{file} is not there; expected a taxonomy file such as storage/plain_files/taxonomy.yaml"
        ) from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}; expected a taxonomy file") from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise InputError(f"{file} is not valid YAML or JSON: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise InputError(f"{file} holds {type(document).__name__}; expected a mapping with `dimensions`")
    try:
        return Taxonomy.model_validate(document)
    except ValidationError as error:
        raise InputError(explain(error, file, unknown="no such field")) from error
