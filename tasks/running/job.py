"""A stage in its place in a plan, and the parts that it has to make."""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain, count
from types import MappingProxyType

from synthmill.schemas.artifacts import Manifest, PartSeal
from synthmill.schemas.calls import Frozen
from synthmill.schemas.errors import InputError, StoreError
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store, read_manifest, sealed_artifact
from synthmill.tasks.engines.engine import engine_name
from synthmill.tasks.frames import Artifact, FrameStage, RunContext
from synthmill.tasks.recipe import AnyRecipe, Recipe

Stage = AnyRecipe | FrameStage
NO_CONTEXT = RunContext()


class Job(Frozen):
    """One part to make: its key, and the sealed part it is made from."""

    key: str
    source: PartSeal


class Planned:
    """A stage in its place in a flow. Its key hashes names and settings only, so it is known before any work starts.

    step: the step's id within its plan; two steps may share a stage. No key covers it.
    """

    def __init__(
        self,
        stage: Stage,
        roles: Mapping[str, EngineSettings],
        source_key: str,
        step: str = "",
        context: RunContext = NO_CONTEXT,
        carries: Sequence[str] = (),
    ) -> None:
        """carries: columns that go on with the rows though the stage neither reads nor makes them."""
        if isinstance(stage, FrameStage):
            stage = stage.bound(context)
        self.stage = stage
        self.has_own_id = bool(step)
        self.step = step or stage.name
        needed = stage.needs_roles() if isinstance(stage, Recipe) else ()
        if absent := [role for role in needed if role not in roles]:
            raise InputError(f"the stage {stage.name} asks {absent[0]}, a role that its plan gives no engine")
        self.roles = {role: roles[role] for role in needed}
        self.identity = stage.identity({role: engine_name(settings) for role, settings in self.roles.items()})
        if thinking := {role: kept for role, settings in self.roles.items() if (kept := settings.thinking.kept())}:
            self.identity["thinking"] = thinking
        self.carries = tuple(sorted(carries))
        if self.carries:
            self.identity["carries"] = list(self.carries)
        self.source_key = source_key
        self.key = content_hash([self.identity, source_key])

    @property
    def others(self) -> tuple[Artifact, ...]:
        """The artifacts that it reads beside its source."""
        return self.stage.others() if isinstance(self.stage, FrameStage) else ()

    def sources(self, store: Store, source: Manifest) -> dict[str, str]:
        """Artifact key -> content of everything it is made from. Raises StoreError where one of them is not there."""
        others = (read_manifest(store.manifest_path(stage, key)) for stage, key in self.others)
        return {manifest.key: manifest.content for manifest in (source, *others)}

    def sealed(self, store: Store, source: Manifest) -> Manifest | None:
        """The finished artifact, if its sources have not changed since and every part is whole; else None."""
        try:
            sources = self.sources(store, source)
        except StoreError:
            return None
        return sealed_artifact(store, self.stage.name, self.key, sources)

    def jobs(self, source: Manifest, contents: Mapping[str, str] = MappingProxyType({})) -> list[Job]:
        """contents: of the artifacts that it reads beside its source, by key."""
        others = [contents[key] for _, key in self.others]
        return [Job(key=content_hash([self.identity, seal.content, *others]), source=seal) for seal in source.parts]


def step_ids(stages: Sequence[str | Stage]) -> list[str]:
    """An id for each step of a plan; a source is given by its name. The id is the stage's name; where another step has
    that name, the stage's label follows, and a number where that is not enough.
    """
    names = [stage if isinstance(stage, str) else stage.name for stage in stages]
    ids: list[str] = []
    for stage, name in zip(stages, names, strict=True):
        label = getattr(stage, "label", "") if names.count(name) > 1 else ""
        ids.append(unused_id(f"{name}-{label}" if label else name, ids))
    return ids


def unused_id(step: str, taken: Collection[str]) -> str:
    """An id for a step: with a number behind it, from 2, where it is taken."""
    return next(step_id for step_id in chain([step], (f"{step}-{n}" for n in count(2))) if step_id not in taken)
