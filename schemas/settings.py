"""Settings: one frozen model is at once a flow's parameter, its YAML file, the command line and Prefect's form."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from synthmill.schemas.batch_settings import BatchSettings
from synthmill.schemas.budget import BudgetSettings
from synthmill.schemas.calls import Frozen, MaxTokens, Sampling, Temperature, TopP
from synthmill.schemas.errors import InputError
from synthmill.schemas.local_paths import LocalPath, NamesFile
from synthmill.schemas.secrecy import check_endpoint, secret_in
from synthmill.schemas.spelled import Spelled
from synthmill.schemas.thinking_settings import ThinkingSettings

EMBEDDED = "llamacpp:smollm2"


ADDRESS = re.compile(r"@([a-z]+://|localhost|[\w.-]+:\d+|.*/)", re.I)
"""What follows the model and looks like an address: without http:// it would be part of the model's name."""


PROVIDERS = ("anthropic", "gemini", "bedrock")
REMOTE = ("openai", *PROVIDERS)
VARIABLES = {
    "anthropic": {"api_key_env": "ANTHROPIC_API_KEY", "base_url_env": "ANTHROPIC_BASE_URL"},
    "gemini": {"api_key_env": "GEMINI_API_KEY", "base_url_env": "GOOGLE_GEMINI_BASE_URL"},
    "bedrock": {"api_key_env": "AWS_BEARER_TOKEN_BEDROCK", "base_url_env": "AWS_ENDPOINT_URL_BEDROCK_RUNTIME"},
}
"""The environment variables that a kind reads where its settings name none."""
HEADER = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
Structure = Literal["json_schema", "json_object", "tool", "none"]
Learned = Literal["auto:json_object", "auto:tool", "auto:none"]
"""What refusals taught, where the setting is auto."""

ENGINE_FIELDS = {
    "base_url": REMOTE,
    "base_url_env": REMOTE,
    "api_key_env": REMOTE,
    "revision": ("openai", "vllm"),
    "samples_per_call": ("openai", "vllm"),
    "timeout_s": (*REMOTE, "worlds"),
    "retries": REMOTE,
    "cache": ("anthropic",),
    "structure": REMOTE,
    "auto_drop": REMOTE,
    "stream": ("openai",),
    "user_turn": ("openai",),
    "headers": ("openai", "anthropic", "gemini"),
    "query": ("openai", "anthropic"),
    "replicas": ("vllm", "llamacpp"),
    "batch": ("openai", "anthropic"),
}
"""Settings that only some kinds of engines know."""


class EngineSettings(Spelled):
    """Which model answers, and how hard it may be driven. May be written as one string:

    openai:MODEL, openai:MODEL@http://HOST:PORT/v1, anthropic:MODEL, gemini:MODEL, bedrock:MODEL (each of them may have
    @URL), vllm:HUB_ID, vllm:/folder, llamacpp:/file.gguf, llamacpp:smollm2 (embedded), replay:/recording; or just a Hub
    id (vllm), a .gguf file (llamacpp), or http://HOST:PORT/v1 (a server with one model). With more settings beside it:
    {spec: "openai:MODEL", concurrency: 128}.
    """

    kind: Literal["openai", "anthropic", "gemini", "bedrock", "vllm", "llamacpp", "replay", "worlds"]
    model: LocalPath = Field(description="the server's name for it, a Hub id, a folder or a file")
    base_url: str | None = Field(
        None, description="the server; default: what base_url_env holds, else the provider's own (openai: OpenAI's)"
    )
    base_url_env: str = Field(
        "OPENAI_BASE_URL",
        description="the environment variable that holds the server's address; other kinds have defaults of their own: "
        + ", ".join(names["base_url_env"] for names in VARIABLES.values()),
    )
    api_key_env: str = Field(
        "OPENAI_API_KEY",
        description="the environment variable that holds the key, never the key itself; other kinds have defaults of "
        "their own: " + ", ".join(names["api_key_env"] for names in VARIABLES.values()),
    )
    revision: str | None = Field(
        None,
        description="which checkpoint. vllm: a Hub revision (default: the commit that the local cache has); openai: "
        "any text that tells it from others of that name (default: what the server says of its weights)",
    )
    concurrency: int = Field(64, ge=1, description="requests in flight, all workers together")
    samples_per_call: int = Field(
        1, ge=1, description="answers to one prompt asked for in one call (n), where the engine has it"
    )
    timeout_s: float = Field(600, gt=0, description="one attempt, from sending to the last byte")
    retries: int = Field(6, ge=0, description="further attempts after 429, 5xx or no answer; two after time-outs")
    replicas: int = Field(1, ge=1, description="vllm, llamacpp: copies of the model, one per worker")
    thinking: ThinkingSettings = ThinkingSettings()
    cache: bool = Field(
        False, description="anthropic: mark what requests begin with, so that it costs less the second time"
    )
    structure: Literal["auto"] | Structure | Learned = Field(
        "auto",
        description="how an answer's form is asked for: json_schema; json_object, with the schema told in the prompt; "
        "tool, a forced function call; none, told in the prompt only; auto: json_schema, or what a refusal teaches",
    )
    auto_drop: bool = Field(
        False, description="leave out fields that the server refuses; the engine's name says so in this store"
    )
    stream: bool = Field(False, description="ask for server-sent events and put them together")
    user_turn: str = Field(
        "",
        description="what the model's chat template writes before a user's text, {system} in it where the system "
        "message goes; for methods that let the model write that text (magpie), by the server's raw completions",
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        description="header -> environment variable that holds its value, such as {api-key: AZURE_KEY}; with any of "
        "them, api_key_env counts only where it is not OPENAI_API_KEY",
    )
    query: dict[str, str] = Field(default_factory=dict, description="of the address, such as {api-version: ...}")
    batch: BatchSettings | Literal[False] | None = Field(
        None, description="ask in batches: cheaper, within a day; may be true"
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="passed on: vllm's engine arguments, llama.cpp's parameters, fields of the request, which win over "
        "our own; null leaves a field out",
    )

    @classmethod
    def read_spec(cls, spec: str) -> dict[str, Any]:
        return parse_engine(spec)

    @classmethod
    def without_spec(cls, value: Any) -> Any:
        value = super().without_spec(value)
        return {**VARIABLES.get(str(value.get("kind")), {}), **value} if isinstance(value, Mapping) else value

    @field_validator("base_url")
    @classmethod
    def no_secrets(cls, url: str | None) -> str | None:
        return check_endpoint(url).rstrip("/") if url else url

    @field_validator("options")
    @classmethod
    def no_secret_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        if place := secret_in(options):
            raise ValueError(
                f"the option {place} holds a secret; settings are written down, so put it in the environment"
            )
        return options

    @field_validator("headers")
    @classmethod
    def names_of_variables(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, variable in headers.items():
            if not HEADER.fullmatch(name):
                raise ValueError(f"{name!r:.40} is no name of a header")
            if not VARIABLE.fullmatch(variable):
                raise ValueError(f"{name} must name the environment variable with its value, which may be a secret")
        return headers

    @field_validator("query", mode="before")
    @classmethod
    def as_texts(cls, query: Any) -> Any:
        """YAML reads a version such as 2024-10-21 as a date."""
        return {name: str(value) for name, value in query.items()} if isinstance(query, Mapping) else query

    @field_validator("query")
    @classmethod
    def no_secret_query(cls, query: dict[str, str]) -> dict[str, str]:
        if place := secret_in(query):
            raise ValueError(f"{place} looks like a secret; put it in the environment and name it in headers")
        return query

    @model_validator(mode="after")
    def its_own(self) -> "EngineSettings":
        only_its_own(self, self.kind, ENGINE_FIELDS)
        if self.kind == "replay" and self.options:
            raise ValueError("options mean nothing to replay: a recording answers as it was answered")
        if self.kind == "vllm" and self.revision and Path(self.model).expanduser().is_dir():
            raise ValueError(f"revision means nothing to the folder {self.model}: its files say which weights it holds")
        if self.kind == "anthropic":
            check_anthropic(self.thinking)
        if self.kind == "bedrock" and self.api_key_env != VARIABLES["bedrock"]["api_key_env"]:
            raise ValueError("bedrock's client reads AWS_BEARER_TOKEN_BEDROCK, or AWS's own variables; leave it out")
        return self

    @property
    def in_process(self) -> bool:
        return self.kind in ("vllm", "llamacpp")

    @property
    def spec(self) -> str:
        """The short form, for people."""
        return f"{self.kind}:{self.model}" + (f"@{self.base_url}" if self.base_url else "")


def parse_engine(spec: str) -> dict[str, Any]:
    """Read an engine's short form; raises ValueError that says what was expected."""
    kind, colon, rest = spec.partition(":")
    if kind in (*REMOTE, "vllm", "llamacpp", "replay") and colon and rest:
        if kind in REMOTE:
            model, _, url = rest.partition("@http")
            if not url and ADDRESS.search(rest):
                raise ValueError(
                    f"{spec!r} has an address without http:// or https://; expected {kind}:MODEL@http://HOST:PORT/v1"
                )
            return {"kind": kind, "model": model, "base_url": f"http{url}" if url else None}
        return {"kind": kind, "model": rest}
    if spec.startswith(("http://", "https://")):
        return {"kind": "openai", "model": "", "base_url": spec}
    if spec.endswith(".gguf"):
        return {"kind": "llamacpp", "model": spec}
    if (spec and Path(spec).expanduser().is_dir()) or re.fullmatch(r"[\w.-]+/[\w.-]+", spec):
        return {"kind": "vllm", "model": spec}
    raise ValueError(
        f"no engine is called {spec!r}; expected openai:MODEL[@URL], anthropic:MODEL, gemini:MODEL, bedrock:MODEL, "
        f"vllm:HUB_ID_OR_FOLDER, llamacpp:FILE.gguf, {EMBEDDED} (embedded), replay:RECORDING, a Hub id, a .gguf file, "
        "or http://HOST:PORT/v1"
    )


def check_anthropic(thinking: ThinkingSettings) -> None:
    """Raises ValueError for thinking that Anthropic's API does not know."""
    if thinking.tokens and thinking.tokens < 1024:
        raise ValueError(f"thinking.tokens is {thinking.tokens}; anthropic takes 1024 or more")
    if thinking.effort == "minimal":
        raise ValueError("anthropic knows no thinking.effort minimal; expected low, medium or high")


def only_its_own(settings: Frozen, kind: str, fields_of: Mapping[str, tuple[str, ...]]) -> None:
    """Raises ValueError for a setting that means nothing to the kind that was chosen; fields_of: setting -> kinds."""
    for name, kinds in fields_of.items():
        default = type(settings).model_fields[name].get_default(call_default_factory=True)
        if kind not in kinds and getattr(settings, name) != default:
            raise ValueError(f"{name} means nothing to {kind}; it belongs to {', '.join(kinds)}")


class FileSettings(Spelled):
    """A file of rows, a folder of such files, a .sql file (a DuckDB query's rows), or hf://datasets/OWNER/NAME[@REV][#SPLIT]."""

    names_file: ClassVar = NamesFile(rows=True)

    path: LocalPath
    limit: int | None = Field(None, ge=1, lt=1 << 63, description="the first rows only")
    license: str = Field("", description="as the Hub names it (cc-by-4.0); default: what a card beside the file says")

    @classmethod
    def read_spec(cls, spec: str) -> dict[str, Any]:
        return {"path": spec}


class SourceSettings(FileSettings):
    """Where instructions come from: a JSONL, JSON, CSV, TSV or Parquet file, a folder of such files, a DuckDB query
    (.sql), or hf://datasets/OWNER/NAME[@REV][#SPLIT].
    """

    prompt_column: str = "prompt"
    id_column: str = Field("id", description="optional in the file; ids are content hashes without it")
    system_column: str = Field("system", description="optional in the file")
    max_prompt_chars: int = Field(200_000, ge=1, description="longer prompts are dropped")


class QuestionSettings(SourceSettings):
    """Where prompts come from; with `policies: []`, rows that bring answers, and perhaps scores."""

    reference_column: str = Field("reference", description="a reference answer; optional in the file")


class TableSettings(FileSettings):
    """Any file of rows; every column is kept, under its name and with its type."""

    id_column: str = Field("id", description="optional in the file; ids are content hashes without it")


class StageSampling(Frozen):
    """How one stage draws its answers; 1.0, 0.9 and 1024 are Janus's values (docs/papers.md#multifaceted)."""

    temperature: Temperature = 1.0
    top_p: TopP = 0.9
    max_tokens: MaxTokens = 1024


class SystemMessageSampling(StageSampling):
    """System messages are short."""

    max_tokens: MaxTokens = 512


class AnswerSettings(Frozen):
    """N answers per prompt; temperature 0.8 and top_p 0.95 are RIP's (docs/papers.md#rip)."""

    count: int = Field(4, ge=1, le=4096)
    min_answers: int = Field(2, ge=1, description="a prompt that lost answers keeps its pool if at least so many came")
    temperature: Temperature = 0.8
    top_p: TopP = 0.95
    max_tokens: MaxTokens = 1024

    @model_validator(mode="after")
    def enough(self) -> "AnswerSettings":
        if self.min_answers > self.count:
            raise ValueError(
                f"min_answers is {self.min_answers}, but only {self.count} answers are asked for; lower it"
            )
        return self


ENGINES: Any = Field(
    default={"teacher": EngineSettings.model_validate(EMBEDDED)},
    description="role -> engine; a role that is not named is played by the teacher",
)


class RunSettings(Frozen):
    """What every flow has: where things are kept, who answers, how work is spread."""

    previewed: ClassVar[str] = "source.limit"
    """The setting that a preview of N rows sets to N."""

    store: str = Field("store", description="the folder that holds everything; safe to share, safe to kill")
    engines: dict[Any, EngineSettings] = ENGINES
    embedder: LocalPath = Field(
        "minilm", description="minilm (embedded), a Hub id or a folder of sentence-transformers"
    )
    seed: int = Field(0, ge=0, lt=1 << 63)
    workers: int | None = Field(
        None, ge=0, description="Ray actors; 0 runs in this process; default: what the engines need"
    )
    rows_per_part: int = Field(256, ge=1, description="one part is the unit of work and of reuse")
    ray_address: str | None = Field(None, description="a running cluster; default: a local Ray")
    budget: BudgetSettings = BudgetSettings()
    drop_limit: float = Field(
        0.2, ge=0, le=1, description="share of a stage's rows that may be dropped before the run stops, resumably"
    )

    retry_lost: bool = Field(
        False, description="ask again for answers that failing engines lost in two runs, and that count as settled"
    )
    batch: BatchSettings | None = Field(
        None, description="every server asks in batches, where engines.ROLE.batch says nothing else; may be true"
    )

    @field_validator("batch", mode="before")
    @classmethod
    def batch_or_none(cls, batch: Any) -> Any:
        return None if batch is False else batch

    @model_validator(mode="after")
    def batch_has_servers(self) -> "RunSettings":
        if self.batch and not any(engine.kind in ENGINE_FIELDS["batch"] for engine in self.engines.values()):
            engines = ", ".join(f"{role}: {engine.spec}" for role, engine in self.engines.items())
            raise ValueError(f"batch means nothing to {engines}; it belongs to {', '.join(ENGINE_FIELDS['batch'])}")
        return self

    def engine(self, role: str) -> EngineSettings:
        """The engine of a role; raises InputError when neither it nor a teacher is named."""
        for name in (role, "teacher"):
            if name in self.engines:
                engine = self.engines[name]
                takes_ours = engine.batch is None and engine.kind in ENGINE_FIELDS["batch"]
                return engine.model_copy(update={"batch": self.batch}) if takes_ours else engine
        named = f"; engines names {', '.join(self.engines)}" if self.engines else ""
        raise InputError(
            f"no engine is given for the role {role}{named}; expected engines.{role}=..., for instance {EMBEDDED}"
        )

    def sampling(self, stage: "StageSampling | AnswerSettings") -> Sampling:
        """How a stage draws its answers, with the run's seed."""
        return Sampling(temperature=stage.temperature, top_p=stage.top_p, max_tokens=stage.max_tokens, seed=self.seed)
