"""The rules that make pairs of pools. Each file is one: its settings, and which answers it pairs.

A file is called as its rule, with _ for -. The first line of its docstring says in help what is paired.
"""

import ast
from pathlib import Path


def rules() -> dict[str, str]:
    """Every rule with its line for help. The files are read, not imported, so that help is there at once."""
    lines = {}
    for path in sorted(path for folder in map(Path, __path__) for path in folder.glob("[!_]*.py")):
        about = ast.get_docstring(ast.parse(path.read_bytes())) or ""
        lines[path.stem.replace("_", "-")] = about.partition("\n")[0].rstrip(".")
    return lines
