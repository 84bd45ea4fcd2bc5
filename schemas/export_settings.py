"""Settings of an export: which run, where to, in which formats. What the command takes, and the flow `publish`."""

from pydantic import Field, field_validator, model_validator

from synthmill.schemas.calls import Frozen
from synthmill.schemas.dedup_settings import listed
from synthmill.schemas.formats import Format, Part, ThinkingPlace, Use


class ExportSettings(Frozen):
    """A run's dataset, for trainers, in a folder or on the Hub (docs/publishing.md)."""

    store: str = Field("store", description="the folder that holds everything")
    run: str = Field(
        "latest", description="an id or its beginning, `latest`, or a flow's name (its latest finished run)"
    )
    to: str = Field(description="a folder, or hf://datasets/OWNER/NAME")
    formats: tuple[Format, ...] = Field(("as-made",), min_length=1)
    trainer: str = Field("", description="write what this trainer reads, instead of formats (docs/publishing.md)")
    uses: tuple[Use, ...] = Field((), description="for a trainer: what to train; default: what each table is made for")
    as_text: tuple[Part, ...] = Field((), description="for a trainer that cannot hold them: what texts shall hold")
    chat_template: str = Field("", description="for a trainer: a tokenizer's folder or a Jinja file to try rows on")
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

    _listed = field_validator("formats", "uses", "as_text", mode="before")(listed)

    @model_validator(mode="after")
    def has_one_of_both(self) -> "ExportSettings":
        if self.trainer and self.formats != ("as-made",):
            raise ValueError("formats and a trainer exclude each other: leave one of them out")
        if not self.trainer and (self.uses or self.as_text or self.chat_template):
            raise ValueError("uses, as_text and chat_template say how a trainer's rows are; name a trainer, too")
        return self
