"""How answers are asked for in batches, which providers sell at a lower price and deliver within a day."""

from pathlib import Path
from typing import Any

from pydantic import Field, GetJsonSchemaHandler, model_validator

from synthmill.schemas.calls import Frozen


class BatchSettings(Frozen):
    """May be written as `true`. 50,000 requests and 200 MB are what OpenAI takes in one file."""

    wait: bool = Field(
        True,
        description="false: submit, then end the run; the same command, later, collects what is done and goes on",
    )
    requests: int = Field(50_000, ge=1, description="at most in one batch")
    megabytes: float = Field(200, gt=0, description="the largest file of requests, in units of 1,000,000 bytes")
    window: int = Field(
        100_000, ge=1, description="answers waited for at once; limits of tokens and money are exceeded by them at most"
    )
    poll_s: float = Field(60, gt=0, description="between two looks at a batch; the first ones follow faster")
    tries: int = Field(3, ge=1, description="batches that a request goes into, where it expires or the server fails")
    file: Path | None = Field(
        None, description="write the requests here, for `vllm run-batch` or by hand, instead of submitting them"
    )

    @model_validator(mode="before")
    @classmethod
    def switched(cls, value: Any) -> Any:
        return {} if value is True else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "boolean"}, handler(core)]}
