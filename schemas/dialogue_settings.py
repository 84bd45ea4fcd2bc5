"""Settings of `dialogues`: from applications to training rows. Defaults are the paper's where it has any
(docs/papers.md#genpi).
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from synthmill.schemas.calls import Frozen, MaxTokens, Temperature, TopP
from synthmill.schemas.dedup_settings import PublishSettings
from synthmill.schemas.dialogues import EndReason
from synthmill.schemas.local_paths import LocalPath, RowsPath
from synthmill.schemas.settings import ENGINES, EngineSettings, StageSampling


class InputSettings(StageSampling):
    """Pseudo user inputs: the paper asks for 1,000, over-generates twice, 10 in a call."""

    temperature: Temperature = 1.0
    top_p: TopP = 0.9
    max_tokens: MaxTokens = Field(2048, description="the paper's 8,192 does not fit small contexts")
    count: int = Field(1000, ge=1, description="inputs wanted, per application")
    overgenerate: float = Field(2.0, ge=1)
    per_call: int = Field(10, ge=1)
    threshold: float = Field(0.9, ge=0, le=1, description="cosine from which two inputs are one; preset paper: off")


class OutputSettings(StageSampling):
    """First answers, without and with the prompt."""

    temperature: Temperature = 0
    top_p: TopP = 1
    max_tokens: MaxTokens = 2048


class ReasonSettings(StageSampling):
    """Why the prompt made the difference."""

    temperature: Temperature = 0.7
    max_tokens: MaxTokens = 512


class TalkSettings(StageSampling):
    """Role-swap dialogues."""

    temperature: Temperature = 0
    top_p: TopP = 1
    max_tokens: MaxTokens = Field(2048, description="of one turn")
    branches: int = Field(1, ge=1, description="dialogues per input, each drawn by itself")
    environment: Literal["simulated", "real", "both"] = Field(
        "simulated", description="real: the application's world answers; both: it answers, too, to measure the model by"
    )
    planner: Literal["facts", "always", "never"] = Field(
        "facts", description="facts: written where the application has none; always: goal and course, too"
    )
    judge: bool = Field(False, description="ask a judge after each agent turn whether the task is done")
    max_turns: int | None = Field(None, ge=1, description="agent turns; default: the application's")
    max_repeats: int = Field(2, ge=2, description="a dialogue ends when the agent says the same so often in a row")
    attempts: int = Field(3, ge=1, le=100, description="for a turn that is empty, early or malformed")
    world_timeout_s: float = Field(60, gt=0, description="one reply of a world")
    sends_thinking: bool = Field(False, description="the agent reads what it thought at its earlier turns")

    @model_validator(mode="after")
    def check_branches(self) -> "TalkSettings":
        if self.branches > 1 and self.temperature == 0:
            raise ValueError(
                f"branches is {self.branches} at temperature 0, where all of them would be equal; set "
                "dialogues.temperature, for instance 0.7"
            )
        return self


class DialogueCutSettings(Frozen):
    """Which dialogues are kept, by their signs (schemas/dialogues.py: SignedDialogue)."""

    ends: tuple[EndReason, ...] = Field(("repetition", "context_overflow"), description="ends that cut a dialogue")
    min_agent_turns: int = Field(1, ge=0)
    min_format_adherence: float = Field(0.5, ge=0, le=1)
    max_repeated_turns: int = Field(1, ge=0)
    max_confused_agent: int = Field(0, ge=0, description="agent turns that speak as the environment")
    max_confused_environment: int = Field(0, ge=0)
    max_cut_turns: int = Field(1, ge=0)
    max_copied_prompt: float = Field(0.3, ge=0, le=1)


class DialogueSettings(PublishSettings):
    """One run of `dialogues`: applications -> inputs -> outputs, reasons -> dialogues -> training rows and pairs."""

    previewed: ClassVar = "inputs.count"

    applications: tuple[RowsPath, ...] = Field(min_length=1, description="application files (YAML or JSON)")
    engines: dict[Literal["author", "student", "teacher", "environment", "judge"], EngineSettings] = ENGINES
    preset: Literal["contract", "paper"] = Field(
        "contract", description="paper: any marker ends, the environment speaks last, no facts, exact duplicates only"
    )
    tool_calls: Literal["schema", "native"] = Field(
        "schema",
        description="how an agent calls tools. schema: in JSON, on any engine; native: the server's own calls",
    )
    inputs: InputSettings = InputSettings()
    outputs: OutputSettings = OutputSettings()
    reasons: ReasonSettings = ReasonSettings()
    dialogues: TalkSettings = TalkSettings()
    cut: DialogueCutSettings = DialogueCutSettings()
    joint_ratio: float | None = Field(None, ge=0, le=1, description="instead of the applications' own")
    tokenizer: LocalPath = Field(
        "", description="the student's, a folder or Hub id, to count targets by; default: estimated"
    )
    target_max_len: int = Field(
        512, ge=1, description="tokens per turn that the trainer will keep; longer are warned of"
    )

    @model_validator(mode="after")
    def check_preset(self) -> "DialogueSettings":
        talk = self.dialogues
        ours = {"environment": talk.environment != "simulated", "judge": talk.judge}
        ours["planner"] = talk.planner == "always"
        if self.preset == "paper" and (conflicts := [f"dialogues.{name}" for name, is_set in ours.items() if is_set]):
            raise ValueError(
                f"the preset paper has no {', '.join(conflicts)}; leave it out, or take the preset contract"
            )
        return self

    @field_validator("applications", mode="before")
    @classmethod
    def one_or_more(cls, applications: Any) -> Any:
        return (applications,) if isinstance(applications, str) else applications
