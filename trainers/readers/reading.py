"""What every reader shares. A reader is a script that runs in its trainer's own environment, where nothing of ours is:

    .trainers/NAME/bin/python trainers/readers/read_NAME.py TOKENIZER JOBS

TOKENIZER: the folder of a tokenizer. JOBS: a file, a JSON list of {"export", "table", "kind"}: what to read, in which
folder that was written for the trainer, by the trainer's own functions. Out come JSON lines on stdout, one a job:

    {"table", "kind", "rows": [...]}  or  {"table", "kind", "error": "..."}

A row is what the trainer is about to train on, decoded: {"text", "trained": [spans under the loss]} for a chat, the
same as "chosen" and "rejected" for a pair, with "label" for KTO, "text" and "columns" for a prompt ("rewards" of the
reference answer and of another one, where the reader calculates them), texts for triplets. What the libraries print
goes to stderr.
"""

import json
import os
import shlex
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from itertools import takewhile
from pathlib import Path
from typing import Any

os.environ.update(
    {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", "DO_NOT_TRACK": "1"}
)

Row = dict[str, Any]
Read = Callable[[Path, Any, dict[str, Any]], Iterable[Row]]


def absent(*names: str) -> None:
    """Stand-ins for modules that a data module imports and that no text needs (sound, pictures, kernels)."""
    for name in names:
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        module.__getattr__ = lambda attribute: type(attribute, (), {})  # type: ignore[method-assign]
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, module)


def decoded(tokenizer: Any, tokens: Sequence[int], trained: Sequence[bool]) -> Row:
    """A chat's text, and its stretches of tokens that the loss sees."""
    spans: list[list[int]] = []
    before = False
    for token, counts in zip(tokens, trained, strict=True):
        if counts:
            if not before:
                spans.append([])
            spans[-1].append(int(token))
        before = bool(counts)
    decode = tokenizer.decode
    return {"text": decode([int(token) for token in tokens]), "trained": [decode(span) for span in spans]}


def by_labels(tokenizer: Any, tokens: Sequence[int], labels: Sequence[int], ignored: int = -100) -> Row:
    return decoded(tokenizer, tokens, [label != ignored for label in labels])


def command(export: Path, table: str) -> dict[str, str]:
    """The options of a table's command in train.sh: {"--name": values, with a space between}, or {"name": value} of
    name=value.
    """
    lines = (export / "train.sh").read_text().splitlines()
    words = shlex.split(lines[lines.index(f"# {table}") + 1])
    options: dict[str, str] = {}
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            values = takewhile(lambda value: not value.startswith("--"), words[place + 1 :])
            options[word] = " ".join(values)
        elif equals:
            options[name] = value
    return options


def functions_of(file: Path) -> dict[str, Any]:
    """What a Python file of an export defines."""
    spec = spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return vars(module)


def settings(export: Path, table: str) -> dict[str, Any]:
    """A table's settings, TABLE.yaml."""
    import yaml

    return dict(yaml.safe_load((export / f"{table}.yaml").read_text()))


def main(read: Read, tokenizer: Callable[[str], Any] | None = None) -> None:
    """Read every job and print what came out."""
    folder, jobs = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    with redirect_stdout(sys.stderr):
        if tokenizer is None:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained
        loaded = tokenizer(folder)
    for job in jobs:
        with redirect_stdout(sys.stderr):
            try:
                answer: Row = {"rows": list(read(Path(job["export"]), loaded, job))}
            except Exception as error:
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps({"table": job["table"], "kind": job["kind"], **answer}, ensure_ascii=False), flush=True)
