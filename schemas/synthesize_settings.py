"""Settings of `synthesize`."""

from typing import Literal

from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.settings import (
    ENGINES,
    AnswerSettings,
    EngineSettings,
    SourceSettings,
    StageSampling,
    SystemMessageSampling,
)


class SynthesizeSettings(PublishSettings):
    """One run of `synthesize`: instructions -> preference sets -> system messages -> answers -> pairs -> dataset."""

    source: SourceSettings
    engines: dict[Literal["teacher", "student"], EngineSettings] = ENGINES
    preference_sets: StageSampling = StageSampling()
    system_messages: SystemMessageSampling = SystemMessageSampling()
    answers: AnswerSettings = AnswerSettings()
