"""A user's own methods: the folders that SYNTHMILL_METHODS names, parted as in PATH.

Each holds `NAME.py` or `NAME/`, and the prompts of its recipes in `prompts/NAME/`.
"""

import os
from pathlib import Path

VARIABLE = "SYNTHMILL_METHODS"


def own_folders() -> list[Path]:
    return [Path(folder).resolve() for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
