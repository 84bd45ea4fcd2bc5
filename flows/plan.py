"""The plan of a run: its stages with their keys, known before a token is spent, and what can be checked by then."""

from dataclasses import dataclass
from pathlib import Path

from schemas.calls import Sampling
from schemas.settings import StageSampling, SynthesizeSettings
from storage.artifacts import Store, sealed_artifact
from tasks.answers import Answers
from tasks.cuts import MaxMinPairs
from tasks.dedup import ExactDuplicates
from tasks.engines.engine import resolve
from tasks.multifaceted import PreferenceSets, SystemMessages
from tasks.rewards import R3
from tasks.stages import INSTRUCTIONS, Planned, source_key
from tasks.worker import Stage


@dataclass(frozen=True)
class Plan:
    """What a run will do. settings: with every engine's model resolved."""

    settings: SynthesizeSettings
    store: Store
    source_key: str
    stages: list[Planned]

    @property
    def dataset(self) -> Path:
        return self.store.root / "datasets" / f"synthesize-{self.stages[-1].key[:8]}"

    def is_done(self) -> bool:
        """Whether every artifact is there, whole and made from its source as it is now, and the dataset was written."""
        source = sealed_artifact(self.store, INSTRUCTIONS, self.source_key, {})
        for step in self.stages:
            if source is None:
                return False
            source = step.sealed(self.store, source)
        return source is not None and any((self.dataset / "data").glob("*.parquet"))


def stages_of(settings: SynthesizeSettings) -> list[Stage]:
    """The flow's stages in order."""

    def sampling(given: StageSampling) -> Sampling:
        return Sampling(
            temperature=given.temperature, top_p=given.top_p, max_tokens=given.max_tokens, seed=settings.seed
        )

    answers = settings.answers
    drawn = Sampling(
        temperature=answers.temperature, top_p=answers.top_p, max_tokens=answers.max_tokens, seed=settings.seed
    )
    return [
        PreferenceSets(sampling=sampling(settings.preference_sets)),
        SystemMessages(sampling=sampling(settings.system_messages)),
        Answers(sampling=drawn, count=answers.count, min_answers=answers.min_answers),
        R3.with_embedder(settings.embedder),
        MaxMinPairs(),
        ExactDuplicates(),
    ]


def plan(settings: SynthesizeSettings) -> Plan:
    """Resolve engines and keys. Raises InputError, StoreError or EngineError before anything is made."""
    store = Store(Path(settings.store).expanduser().resolve())
    store.prepare()
    roles = {role: resolve(settings.engine(role)) for role in ("teacher", "student")}
    settings = settings.model_copy(update={"engines": roles})
    first = source_key(settings.source, settings.rows_per_part)
    key, planned = first, []
    for stage in stages_of(settings):
        planned.append(Planned(stage, roles, key))
        key = planned[-1].key
    return Plan(settings, store, first, planned)
