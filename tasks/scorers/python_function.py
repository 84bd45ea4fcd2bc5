"""A user's own function as a scorer."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from synthmill.schemas.errors import InputError
from synthmill.schemas.hashing import file_checksum
from synthmill.schemas.local_paths import LocalPath
from synthmill.tasks.python_files import read_python_file
from synthmill.tasks.scorers.scoring import FrameScorer, Pool, ScorerSettings, ScoringContext


class PythonScores(FrameScorer):
    """Pools -> the same, scored by a function of your own: (prompt, answers, reference) -> a number per answer."""

    name: ClassVar = "python_scores"
    version: ClassVar = "1"

    function: str
    content: str = Field("", description="filled in: the file's checksum, so that another version scores again")

    @classmethod
    def of(cls, function: str, label: str) -> "PythonScores":
        """Load the function and note its file's checksum. Raises InputError where it cannot be loaded."""
        file, _, name = function.rpartition(":")
        path = Path(file).expanduser().resolve()
        if not path.is_file():
            raise InputError(f"cannot load {function}: there is no file {path}")
        content = file_checksum(path)
        load_function(f"{path}:{name}", content)
        return cls(label=label, function=f"{path}:{name}", content=content)

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        function = load_function(self.function, self.content)
        for pool in pools:
            texts = [answer["text"] for answer in pool["answers"]]
            try:
                numbers = function(pool["prompt"], texts, pool["reference"])
                if isinstance(numbers, str | bytes | Mapping | set):
                    raise TypeError(f"it returned {type(numbers).__name__}")
                yield list(numbers)
            except (Exception, SystemExit) as error:
                raise InputError(
                    f"{self.function} failed on the prompt {pool['id']}: {type(error).__name__}: {error}; it is called "
                    "with (prompt, answers, reference) and returns a number per answer"
                ) from error


class PythonSettings(ScorerSettings):
    """A function of yours, in a Python file."""

    short_forms: ClassVar = ("python:FILE.py:FUNCTION",)

    kind: Literal["python"] = "python"
    function: LocalPath = Field(description="FILE.py:FUNCTION, called with prompt, answers and reference")

    @classmethod
    def from_spec(cls, spec: str) -> dict[str, Any] | None:
        kind, _, function = spec.partition(":")
        return {"function": function} if kind == "python" and function else None

    @field_validator("function")
    @classmethod
    def names_a_function(cls, function: str) -> str:
        if not re.fullmatch(r".+\.py:\w+", function):
            raise ValueError(f"{function!r} names no function; expected FILE.py:FUNCTION")
        return function

    @property
    def label(self) -> str:
        return self.name or self.function.rpartition(":")[2]

    def stage(self, context: ScoringContext) -> PythonScores:
        return PythonScores.of(self.function, self.label)


@cache
def load_function(function: str, content: str) -> Callable[..., Iterable[Any]]:
    """FILE.py:FUNCTION, once per content of the file; raises InputError when it cannot be loaded."""
    file, _, name = function.rpartition(":")
    try:
        loaded = getattr(read_python_file(Path(file), beside=False).load(), name)
    except (InputError, AttributeError) as error:
        raise InputError(f"cannot load {function}: {error}") from error
    if not callable(loaded):
        raise InputError(f"{function} is no function")
    return loaded  # type: ignore[no-any-return]
