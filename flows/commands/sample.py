"""`synthmill sample`: N answers per prompt for a plain file."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synthmill.flows.commands.engine_choice import chosen_engine
from synthmill.flows.making.learning import with_lessons
from synthmill.flows.making.plan import file_source
from synthmill.flows.making.step_maker import step_maker
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.bill import count_text
from synthmill.schemas.calls import Sampling
from synthmill.schemas.errors import EngineError
from synthmill.schemas.settings import EngineSettings, SourceSettings
from synthmill.schemas.settings_files import read_settings
from synthmill.storage.artifacts import Store, read_dropped, read_part
from synthmill.storage.plain_files.outputs import check_out, write_rows
from synthmill.storage.published.rows import endings_in, stream_of, thinks
from synthmill.storage.runs import StageRun, new_run
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.generators.answers import Answers
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.stages import noted_rows

ANSWERS_PER_PART, MOST_ROWS, FEWEST_ROWS = 4096, 256, 8


@dataclass(frozen=True)
class SampleSettings:
    """The options of `synthmill sample`, as the command line has them. engine: KIND:MODEL; count: answers per prompt;
    limit: the first rows only. batch: ask in batches; batch_out: write the requests there instead.
    """

    source: str
    engine: str
    count: int
    concurrency: int
    store: str
    out: Path
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    limit: int | None
    prompt_column: str
    id_column: str
    system_column: str
    workers: int
    ray_address: str | None
    retry_lost: bool
    engine_option: Mapping[str, Any] = field(default_factory=dict)
    auto_drop: bool = False
    thinking: str | None = None
    batch: bool = False
    batch_out: Path | None = None

    def engine_settings(self) -> EngineSettings:
        """Raises InputError."""
        batch = {"batch": {"file": str(self.batch_out)} if self.batch_out else True}
        chosen = {**self.engine_option, **(batch if self.batch or self.batch_out else {})}
        return chosen_engine(self.engine, self.concurrency, chosen, self.auto_drop, self.thinking)

    def source_settings(self) -> SourceSettings:
        return SourceSettings(
            path=self.source,
            prompt_column=self.prompt_column,
            id_column=self.id_column,
            system_column=self.system_column,
            limit=self.limit,
        )

    def sampling(self) -> Sampling:
        """Raises InputError."""
        names = ("temperature", "top_p", "max_tokens", "seed")
        return read_settings(Sampling, None, {name: getattr(self, name) for name in names})


def sample_file(settings: SampleSettings) -> None:
    """Answer every prompt of a file `count` times and write one row per answer to `out`."""
    with_lessons(lambda: draw_answers(settings))


def draw_answers(settings: SampleSettings) -> None:
    """As `sample_file`. Raises EngineLearned where the engine must be named anew."""
    check_out(settings.out, settings.source)
    store = Store(Path(settings.store).expanduser().resolve(), settings.retry_lost)
    engine = settings.engine_settings()
    source = settings.source_settings()
    stage = Answers(sampling=settings.sampling(), count=settings.count)
    store.prepare()
    engine = resolve(engine, store)
    roles = {"student": engine}
    Planned(stage, roles, "")  # names the engine: fails before the file is read
    identity = {"source": settings.source, "engine": engine.spec, "answers": stage.model_dump(mode="json")}
    record = new_run("sample", identity)
    rows_per_part = max(FEWEST_ROWS, min(MOST_ROWS, ANSWERS_PER_PART // settings.count))
    with step_maker(store, record, settings.workers, settings.ray_address) as maker:
        instructions = maker.read(file_source(store, source, rows_per_part))
        pools = maker.make(Planned(stage, roles, instructions.key))
    answers = write_answers(store, pools, settings.out)
    print_summary(store, instructions, pools, maker.steps[-1], answers, settings.out)


ANSWER_COLUMNS = ("id", "answer_index", "prompt", "system", "answer", "finish_reason", "completion_tokens")
WHOLE_NUMBERS = ("answer_index", "completion_tokens")


def answer_rows(table: Any) -> list[dict[str, Any]]:
    """One row per answer of a part of pools; `id` is the input row's."""
    return [
        {
            "id": pool["parent_id"],
            "answer_index": answer["answer_index"],
            "prompt": pool["prompt"],
            "system": pool["system"],
            "answer": answer["text"],
            "finish_reason": answer["finish_reason"],
            "completion_tokens": answer["completion_tokens"],
            **({"reasoning": answer["reasoning"]} if "reasoning" in answer else {}),
        }
        for pool in table.to_pylist()
        for answer in pool["answers"]
    ]


def write_answers(store: Store, pools: Manifest, out: Path) -> int:
    """Write every answer, in the order of the input, part by part: how many."""
    thinking = any(thinks(stream_of(store, pools).schema["answers"]) for _ in pools.parts[:1])
    return write_rows(out, answer_columns(thinking), (answer_rows(read_part(store, seal)) for seal in pools.parts))


def answer_columns(thinking: bool = False) -> Any:
    """The columns of a file of answers; thinking: with what was thought before them."""
    import pyarrow as pa

    names = (*ANSWER_COLUMNS, *(("reasoning",) if thinking else ()))
    return pa.schema([(name, pa.int64() if name in WHOLE_NUMBERS else pa.string()) for name in names])


def print_summary(
    store: Store, instructions: Manifest, pools: Manifest, stage: StageRun, answers: int, out: Path
) -> None:
    """What was dropped, spent and written, in a few lines; raises EngineError when every row failed."""
    if noted := noted_rows(store, instructions):
        print(f"{noted} rows have other turns or messages: the first user turn was used", file=sys.stderr)
    for manifest, what in ((instructions, "read"), (pools, "answered")):
        if manifest.dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items())
            firsts: dict[str, str] = {}
            for row in (row for seal in manifest.parts for row in read_dropped(store, seal)):
                firsts.setdefault(row.reason, row.detail)
            details = [
                f"{reason}: {detail}" if len(firsts) > 1 else detail for reason, detail in firsts.items() if detail
            ]
            example = f"; the first: {'; '.join(details)}" if details else ""
            print(f"{sum(manifest.dropped.values())} rows could not be {what}: {reasons}{example}", file=sys.stderr)
    sent, reused = (stage.total(what) for what in ("sent", "reused"))
    tokens = count_text(stage.counters, "completion_tokens")
    spent = f"{sent:,} calls sent, {tokens} tokens, {reused:,} answers reused, {stage.seconds:.1f} s"
    effort = spent if sent or reused else "0 calls sent: all made before"
    print(f"{answers:,} answers to {pools.rows:,} prompts -> {out} ({effort})", file=sys.stderr)
    ends = endings_in(store, pools)
    for count, what in (
        (ends["length"], "cut at max_tokens"),
        (ends["content_filter"], "broken off by a content filter"),
    ):
        if count:
            print(f"{count:,} of {answers:,} answers were {what}", file=sys.stderr)
    if pools.rows == 0:
        raise EngineError("every row failed; the reasons are above")
