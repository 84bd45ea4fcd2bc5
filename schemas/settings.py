"""Settings: one frozen model is at once a flow's parameter, its YAML file, the command line and Prefect's form."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from synthmill.schemas.batch_settings import BatchSettings
from synthmill.schemas.budget import BudgetSettings
from synthmill.schemas.calls import Frozen, Sampling
from synthmill.schemas.errors import InputError
from synthmill.schemas.local_paths import LocalPath, NamesFile
from synthmill.schemas.secrecy import SECRET_NAME, check_endpoint, secret_in
from synthmill.schemas.spelled import Spelled
from synthmill.schemas.thinking_settings import ThinkingSettings

EMBEDDED = "llamacpp:smollm2"


ADDRESS = re.compile(r"@([a-z]+://|localhost|[\w.-]+:\d+|.*/)", re.I)
"""What follows the model and looks like an address: without http:// it would be part of the model's name."""


ENGINE_FIELDS = {
    "base_url": ("openai",),
    "base_url_env": ("openai",),
    "api_key_env": ("openai",),
    "revision": ("openai", "vllm"),
    "samples_per_call": ("openai", "vllm"),
    "timeout_s": ("openai", "worlds"),
    "retries": ("openai",),
    "replicas": ("vllm", "llamacpp"),
    "batch": ("openai",),
}
"""Settings that only some kinds of engines know."""


class EngineSettings(Spelled):
    """Which model answers, and how hard it may be driven. May be written as one string:

    openai:MODEL, openai:MODEL@http://HOST:PORT/v1, vllm:HUB_ID, vllm:/folder, llamacpp:/file.gguf, llamacpp:smollm2
    (embedded), replay:/recording; or just a Hub id (vllm), a .gguf file (llamacpp), or http://HOST:PORT/v1 (a server
    with one model). With more settings beside it: {spec: "openai:MODEL", concurrency: 128}.
    """

    kind: Literal["openai", "vllm", "llamacpp", "replay", "worlds"]
    model: LocalPath = Field(description="the server's name for it, a Hub id, a folder or a file")
    base_url: str | None = Field(
        None, description="openai: the server; default: what base_url_env holds, else OpenAI's own"
    )
    base_url_env: str = Field("OPENAI_BASE_URL", description="the environment variable that holds the server's address")
    api_key_env: str = Field(
        "OPENAI_API_KEY", description="the environment variable that holds the key; never the key itself"
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
    batch: BatchSettings | Literal[False] | None = Field(
        None, description="ask in batches: cheaper, within a day; may be true"
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="passed on: vllm's engine arguments, llama.cpp's parameters, extra fields of the request",
    )

    @classmethod
    def read_spec(cls, spec: str) -> dict[str, Any]:
        return parse_engine(spec)

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

    @model_validator(mode="after")
    def its_own(self) -> "EngineSettings":
        only_its_own(self, self.kind, ENGINE_FIELDS)
        if self.kind == "replay" and self.options:
            raise ValueError("options mean nothing to replay: a recording answers as it was answered")
        if self.kind == "vllm" and self.revision and Path(self.model).expanduser().is_dir():
            raise ValueError(f"revision means nothing to the folder {self.model}: its files say which weights it holds")
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
    if kind in ("openai", "vllm", "llamacpp", "replay") and colon and rest:
        if kind == "openai":
            model, _, url = rest.partition("@http")
            if not url and ADDRESS.search(rest):
                raise ValueError(
                    f"{spec!r} has an address without http:// or https://; expected openai:MODEL@http://HOST:PORT/v1"
                )
            return {"kind": kind, "model": model, "base_url": f"http{url}" if url else None}
        return {"kind": kind, "model": rest}
    if spec.startswith(("http://", "https://")):
        return {"kind": "openai", "model": "", "base_url": spec}
    if spec.endswith(".gguf"):
        return {"kind": "llamacpp", "model": spec}
    if Path(spec).expanduser().is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+", spec):
        return {"kind": "vllm", "model": spec}
    raise ValueError(
        f"no engine is called {spec!r}; expected openai:MODEL[@URL], vllm:HUB_ID_OR_FOLDER, llamacpp:FILE.gguf, "
        f"{EMBEDDED} (embedded), replay:RECORDING, a Hub id, a .gguf file or http://HOST:PORT/v1"
    )


def only_its_own(settings: Frozen, kind: str, fields_of: Mapping[str, tuple[str, ...]]) -> None:
    """Raises ValueError for a setting that means nothing to the kind that was chosen; fields_of: setting -> kinds."""
    for name, kinds in fields_of.items():
        if kind not in kinds and getattr(settings, name) != type(settings).model_fields[name].default:
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


class TableSettings(FileSettings):
    """Any file of rows; every column is kept, under its name and with its type."""

    id_column: str = Field("id", description="optional in the file; ids are content hashes without it")


class StageSampling(Frozen):
    """How one stage draws its answers; 1.0, 0.9 and 1024 are Janus's values (docs/papers.md#multifaceted)."""

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    max_tokens: int = Field(1024, ge=1, le=1 << 31)


class SystemMessageSampling(StageSampling):
    """System messages are short."""

    max_tokens: int = Field(512, ge=1, le=1 << 31)


class AnswerSettings(Frozen):
    """N answers per prompt; temperature 0.8 and top_p 0.95 are RIP's (docs/papers.md#rip)."""

    count: int = Field(4, ge=1, le=4096)
    min_answers: int = Field(2, ge=1, description="a prompt that lost answers keeps its pool if at least so many came")
    temperature: float = Field(0.8, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(1024, ge=1, le=1 << 31)

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
        raise InputError(
            f"no engine is given for the role {role}; expected engines.{role}=..., for instance {EMBEDDED}"
        )

    def sampling(self, stage: "StageSampling | AnswerSettings") -> Sampling:
        """How a stage draws its answers, with the run's seed."""
        return Sampling(temperature=stage.temperature, top_p=stage.top_p, max_tokens=stage.max_tokens, seed=self.seed)


Settings = TypeVar("Settings", bound=Frozen)


def read_settings(model: type[Settings], file: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """Settings from a YAML file and overrides by dotted name. Raises InputError, one line per fault."""
    values = {} if file is None else read_yaml(file)
    for name, value in overrides.items():
        *path, last = name.split(".")
        place = values
        for step in path:
            if not isinstance(place.get(step), dict):
                place[step] = {} if place.get(step) is None else {"spec": place[step]}
            place = place[step]
        place[last] = value
    try:
        settings = model.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, file)) from error
    if faults := [*booleans_as_numbers(values, settings.model_dump())]:
        raise InputError((f"{file}: " if file else "") + "\n".join(faults))
    return settings


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file of settings. Raises InputError, also for a name that stands twice: the first would be lost."""
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML's own, but for names that stand twice."""

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        names = [loader.construct_object(name) for name, _ in node.value]
        for number, name in enumerate(names):
            if isinstance(name, str) and name != "<<" and name in names[:number]:
                line = node.value[number][0].start_mark.line + 1
                raise ValueError(f"{name} stands twice, the second time in line {line}; rename one of them")
        loader.flatten_mapping(node)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), Loader) or {}
    except FileNotFoundError as error:
        raise InputError(
            f"{file} is not there; expected a YAML file of settings, for instance examples/synthesize.yaml"
        ) from error
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise InputError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(
            f"{file} holds {type(values).__name__}; expected a mapping of settings such as `source: prompts.jsonl`"
        )
    return values


def booleans_as_numbers(value: Any, read: Any, place: str = "") -> Iterator[str]:
    """Where settings say true or false and a number is expected, for which pydantic takes 1 or 0."""
    if isinstance(value, bool) and isinstance(read, int | float) and not isinstance(read, bool):
        yield f"{place}: expected a number (found {str(value).lower()})"
    elif isinstance(value, dict) and isinstance(read, dict):
        for name in value.keys() & read.keys():
            yield from booleans_as_numbers(value[name], read[name], f"{place}.{name}" if place else str(name))
    elif isinstance(value, list) and isinstance(read, list | tuple) and len(value) == len(read):
        for number, item in enumerate(value):
            yield from booleans_as_numbers(item, read[number], f"{place}.{number}")


NO_SETTING = "no such setting; `synthmill run FLOW --settings` lists all"


def explain(error: ValidationError, file: Path | None = None, unknown: str = NO_SETTING) -> str:
    """A validation error in readers' terms: which setting, what was found, what was expected."""
    lines = []
    for fault in error.errors(include_url=False):
        where = ".".join(str(step) for step in fault["loc"] if step != "[key]")
        value = fault.get("input")
        secret = "secret" in fault["msg"] or any(SECRET_NAME.search(str(step)) for step in fault["loc"])
        hidden = secret or fault["type"] == "missing" or isinstance(value, dict | list)
        input_shown = "" if hidden else f" (found {value!r:.80})"
        message = unknown if fault["type"] == "extra_forbidden" else fault["msg"]
        lines.append(f"{where + ': ' if where else ''}{message.removeprefix('Value error, ')}{input_shown}")
    return (f"{file}: " if file else "") + "\n".join(lines)
