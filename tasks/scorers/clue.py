"""CLUE: whether a trace is right, by what reading it does to a model's hidden states. Source: docs/papers.md#clue."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from synthmill.schemas.errors import InputError
from synthmill.schemas.local_paths import LocalPath
from synthmill.tasks.cores import Array
from synthmill.tasks.frames import even_parts
from synthmill.tasks.scorers.calibrated import ROWS_PER_PART, Folds, Label, Passing, score_values
from synthmill.tasks.scorers.reward_models import Tokens, identity
from synthmill.tasks.scorers.scoring import FrameScorer, Pool, ScorerSettings, ScoringContext

Layer = Annotated[
    int | None, Field(description="a hidden layer, 0: embeddings, -1: the last; default: all, their distances averaged")
]
Read = Annotated[
    Literal["last", "mean"], Field(description="the state after a trace: that of its last token, or the mean of all")
]
MaxLength = Annotated[int, Field(ge=8, description="tokens; of a longer prompt the beginning is left out")]


class ClueScores(FrameScorer):
    """Pools -> the same with how much nearer each trace's delta lies to the centroid of right ones than to that of
    wrong ones: above 0, it is called right. Centroids are means over prompts of other folds, by the labels `by`;
    prompts without labels have those of all.

    A delta: the model's hidden states after a trace less those before it, at the prompt's end. A trace is an answer's
    thinking, or, without, its text. An empty or too long one has no score. Raises InputError where nothing is labelled
    right, or nothing wrong.
    """

    name: ClassVar = "clue_scores"
    version: ClassVar = "1"
    whole: ClassVar = True
    embeds: ClassVar = True

    label: str = "clue"
    model: LocalPath = Field(exclude=True)
    identity_of_model: str = Field("", description="filled in: a folder's name and fingerprint, or the Hub id")
    revision: str | None = Field(None, exclude=True)
    by: Label
    passing: Passing = 1.0
    layer: Layer = None
    read: Read = "last"
    folds: Folds = 5
    max_length: MaxLength = 4096

    @model_validator(mode="before")
    @classmethod
    def identified(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("model") and not fields.get("identity_of_model"):
            return {**fields, "identity_of_model": identity(fields["model"], fields.get("revision"))}
        return fields

    def parts_begin(self, table: pa.Table) -> list[int]:
        return even_parts(table, ROWS_PER_PART)

    def score(self, pools: Sequence[Pool], store: Path) -> Iterable[Sequence[Any]]:
        if not pools:
            return []
        labels = score_values(pools, self.by, self.label)
        right = [[None if value is None else value >= self.passing for value in values] for values in labels]
        if not {True, False} <= {verdict for values in right for verdict in values}:
            raise InputError(f"{self.label} learns from right and wrong answers; {self.by} has not both of them")
        deltas = [[self.delta(pool, answer) for answer in pool["answers"]] for pool in pools]
        labelled = [place for place, values in enumerate(right) if any(value is not None for value in values)]
        fold_of = {place: n % self.folds for n, place in enumerate(labelled)}
        scores: list[list[float | None]] = [[] for _ in pools]
        for fold in (*range(self.folds), -1):
            centroids = [
                mean_of(
                    delta
                    for place in labelled
                    if fold_of[place] != fold
                    for delta, verdict in zip(deltas[place], right[place], strict=True)
                    if verdict is side
                )
                for side in (False, True)
            ]
            for place in range(len(pools)):
                if fold_of.get(place, -1) == fold:
                    scores[place] = [nearness(delta, *centroids) for delta in deltas[place]]
        return scores

    def delta(self, pool: Pool, answer: Pool) -> Array | None:
        """(layers, dimensions) float32; None for an empty trace, and for one that does not fit."""
        tokenizer, states_of, longest = open_model(self.model, self.revision)
        messages = [{"role": "system", "content": pool["system"]}] if pool["system"] else []
        messages.append({"role": "user", "content": pool["prompt"]})
        before: Tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        trace: Tokens = tokenizer.encode(answer.get("reasoning") or answer["text"], add_special_tokens=False)
        room = min(self.max_length, longest) - len(trace)
        if not trace or room < 1:
            return None
        states: Array = states_of(before[-room:] + trace)
        if self.layer is not None:
            if not -len(states) <= self.layer < len(states):
                raise InputError(f"{self.model} has no layer {self.layer}; expected 0 to {len(states) - 1}")
            states = states[self.layer][None]
        own = states[:, -len(trace) :]
        return (own[:, -1] if self.read == "last" else own.mean(1)) - states[:, -len(trace) - 1]


class ClueSettings(ScorerSettings):
    """CLUE: hidden states of a local model, by centroids of right and of wrong answers."""

    kind: Literal["clue"] = "clue"
    model: LocalPath = Field(description="a Hub id or a folder, a causal model: best the one that wrote the answers")
    revision: str | None = Field(None, description="the Hub revision")
    by: Label
    passing: Passing = 1.0
    layer: Layer = None
    read: Read = "last"
    folds: Folds = 5
    max_length: MaxLength = 4096

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.by,)

    def stage(self, context: ScoringContext) -> ClueScores:
        """Raises InputError when there is no such folder."""
        return ClueScores(label=self.label, **self.model_dump(exclude={"kind", "name"}))


def mean_of(deltas: Iterable[Array | None]) -> Array | None:
    present = [delta for delta in deltas if delta is not None]
    return np.mean(present, axis=0) if present else None


def nearness(delta: Array | None, wrong: Array | None, right: Array | None) -> float | None:
    """How much farther a delta is from wrong than from right: Euclidean distances, averaged over layers."""
    if delta is None or wrong is None or right is None:
        return None
    of_wrong, of_right = (np.linalg.norm(delta - centroid, axis=1).mean() for centroid in (wrong, right))
    return float(of_wrong - of_right)


@lru_cache(maxsize=1)
def open_model(name: str, revision: str | None) -> tuple[Any, Any, int]:
    """(tokenizer, tokens -> states (layers + 1, tokens, dimensions) float32, the most tokens), once per process; in
    bfloat16 on a GPU where there is one. Raises InputError.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = Path(name).expanduser()
    path, options = (str(folder), {"local_files_only": True}) if folder.is_dir() else (name, {"revision": revision})
    on_gpu = torch.cuda.is_available()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        model = AutoModel.from_pretrained(path, dtype=torch.bfloat16 if on_gpu else torch.float32, **options)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load the model {name}: {' '.join(str(error).split())[:300]}") from error
    if not tokenizer.chat_template:
        raise InputError(f"the model {name} has no chat template; expected one that reads conversations")
    model = model.eval().to("cuda" if on_gpu else "cpu")

    def states_of(tokens: Tokens) -> Array:
        with torch.inference_mode():
            output = model(torch.tensor([tokens], device=model.device), output_hidden_states=True, use_cache=False)
        states: Array = torch.cat(output.hidden_states).float().cpu().numpy()
        return states

    return tokenizer, states_of, int(getattr(model.config, "max_position_embeddings", 1 << 20))
