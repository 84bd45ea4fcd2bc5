"""Settings of an export: which run, where to, in which formats. What the command takes, and the flow `publish`."""

from pydantic import Field, field_validator

from synthmill.schemas.calls import Frozen
from synthmill.schemas.dedup_settings import listed
from synthmill.schemas.formats import Format, ThinkingPlace


class ExportSettings(Frozen):
    """A run's dataset, for trainers, in a folder or on the Hub (docs/publishing.md)."""

    store: str = Field("store", description="the folder that holds everything")
    run: str = Field(
        "latest", description="an id or its beginning, `latest`, or a flow's name (its latest finished run)"
    )
    to: str = Field(description="a folder, or hf://datasets/OWNER/NAME")
    formats: tuple[Format, ...] = Field(("as-made",), min_length=1)
    thinking: ThinkingPlace = Field(
        "",
        description="what models thought before their answers. field: as a message's reasoning_content; text: between "
        "<think> and </think> in its text; drop: left out; default: a field where the format has messages, else text",
    )
    test: float = Field(0, ge=0, lt=1, allow_inf_nan=False, description="share of the prompts for a split `test`")
    shard_bytes: int = Field(256 << 20, ge=1, description="the largest file, before compression")
    license: str = Field("", description="the dataset's; default: the most restrictive one of its sources")
    private: bool = Field(False, description="Hub: a new dataset is private")
    revision: str = Field("", description="Hub: a branch other than main")
    tag: str = Field("", description="Hub: the tag of this version; default: the run's id")
    force: bool = Field(False, description="write over a dataset or folder that this flow did not make")

    _listed = field_validator("formats", mode="before")(listed)
