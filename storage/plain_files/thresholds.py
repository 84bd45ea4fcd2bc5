"""RIP's limits in a file: fitted on one set, applied to another."""

from pathlib import Path

from pydantic import ValidationError

from synthmill.schemas.errors import InputError
from synthmill.schemas.rip_limits import LIMITS, Thresholds
from synthmill.schemas.settings_files import explain


def read_thresholds(path: Path) -> Thresholds:
    """Read a file of limits. Raises InputError when it does not exist, or holds no limits."""
    try:
        thresholds = Thresholds.model_validate_json(path.expanduser().read_bytes())
        if all(getattr(thresholds, name) is None for name in LIMITS):
            raise InputError(f"{path} holds no limit; expected rejected_reward, rejected_length or gap")
        return thresholds
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is not there; expected what `synthmill pairs --rule rip --save-thresholds` wrote"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        raise InputError(
            explain(error, path, "no such limit; expected rejected_reward, rejected_length or gap")
        ) from error
