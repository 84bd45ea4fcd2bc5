"""A file of scored answers as one row per answer: texts, who wrote them, and the numbers of several scores."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from synthmill.schemas.errors import InputError
from synthmill.storage.plain_files.lines import lines_of
from synthmill.storage.plain_files.pool_rows import answer_text, conversation
from synthmill.storage.plain_files.pools import PoolFile

MODELS = ("models", "policies", "generators", "model", "policy", "generator")


class ScoredAnswer(NamedTuple):
    """One answer. place: in its prompt's own list, from 0; model: who wrote it, empty where the file does not say;
    scores: a number each, or None.
    """

    prompt_id: str
    prompt: str
    place: int
    text: str
    model: str
    scores: tuple[float | None, ...]


class ScoredAnswers:
    """Reads the answers of a file of pools. missing: per score, why numbers are missing, counted while it is read.

    scores: columns; model_column: default one of MODELS. Raises InputError for a column that is not there.
    """

    def __init__(self, file: PoolFile, scores: Sequence[str], model_column: str = "") -> None:
        for name in (*scores, *filter(None, [model_column])):
            if name not in file.columns:
                raise InputError(f"{file.path} has no column {name!r}; found {', '.join(sorted(file.columns))}")
        self.file, self.scores = file, tuple(scores)
        self.model = model_column or next((name for name in MODELS if name in file.columns), "")
        self.missing: dict[str, Counter[str]] = {name: Counter() for name in scores}
        self.unused = 0

    def __iter__(self) -> Iterator[ScoredAnswer]:
        places: Counter[str] = Counter()
        for line, pool in zip(lines_of(self.file.path), self.file.ids(), strict=True):
            if line.fields is None or pool is None:
                self.unused += 1
                continue
            prompt = prompt_text(line.fields[self.file.prompt])
            for text, model, scores in self.answers_of(line.fields):
                yield ScoredAnswer(pool, prompt, places[pool], text, model, scores)
                places[pool] += 1

    def answers_of(self, fields: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[float | None, ...]]]:
        """(text, model, scores) of each answer of a row."""
        texts, models = fields[self.file.answer], fields.get(self.model)
        values = [fields.get(name) for name in self.scores]
        if not self.file.wide:
            texts, models, values = [texts], [models], [[value] for value in values]
        count = len(texts)
        models = models if isinstance(models, list) and len(models) == count else [models] * count
        for place, (text, model) in enumerate(zip(texts, models, strict=True)):
            of_answer = [value[place] if isinstance(value, list) and len(value) == count else None for value in values]
            numbers = tuple(map(self.number, self.scores, of_answer))
            yield answer_text(text) or "", model if isinstance(model, str) else "", numbers

    def number(self, name: str, value: Any) -> float | None:
        """A score; None, and the reason counted, for what is no finite number."""
        try:
            number = float("" if isinstance(value, bool) else value)
            reason = "" if math.isfinite(number) else "not_finite"
        except (TypeError, ValueError, OverflowError):
            reason = "missing" if value is None or value == "" else "not_a_number"
        if reason:
            self.missing[name][reason] += 1
            return None
        return number


def prompt_text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(conversation(prompt, None, False)["prompt"])
