"""Rows that teach a model to behave as if an application's prompt were there, from dialogues with swapped roles.

Source: docs/papers.md#genpi.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, chain, rows_source
from synthmill.schemas.applications import Application, tool_names
from synthmill.schemas.artifacts import Manifest
from synthmill.schemas.dialogue_settings import DialogueSettings
from synthmill.schemas.dialogues import SignedDialogue
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings import EngineSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.applications import read_application
from synthmill.storage.published.configurations import Dataset, Figure, Table
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import KEPT, REASONING, preference_rows, read_frame, stream_of, thinks
from synthmill.tasks.dedup.contamination import CleanInputs, CleanPairs
from synthmill.tasks.dedup.duplicates import UniquePairs
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.engines.token_estimates import USUAL_CHARS_PER_TOKEN
from synthmill.tasks.engines.worlds import load_world
from synthmill.tasks.frames import RunContext
from synthmill.tasks.generators.dialogues.openings import Openings
from synthmill.tasks.generators.dialogues.pseudo_inputs import DraftInputs, PseudoInputs
from synthmill.tasks.generators.dialogues.role_swap import RoleSwap
from synthmill.tasks.generators.dialogues.signs import DialogueSigns
from synthmill.tasks.generators.dialogues.single_turn import Outputs, Reasons
from synthmill.tasks.generators.dialogues.teacher_pairs import AnswerPools, TeacherPairs
from synthmill.tasks.generators.dialogues.training_rows import TrainingRows
from synthmill.tasks.running.job import Stage
from synthmill.tasks.scorers.r3 import R3
from synthmill.tasks.texts.tokens import load_tokenizer

APPLICATIONS = "applications"
WORLDS_AT_ONCE = 16


def plan(settings: DialogueSettings) -> Plan:
    """Read the applications, resolve engines and keys. Raises InputError, StoreError or EngineError."""
    applications, worlds = read_applications(settings)
    if settings.tokenizer:
        load_tokenizer(settings.tokenizer)
    store = open_checked_store(settings)
    check_tool_calls(settings, applications)
    played = ("author", "student", "teacher", "environment", "judge")
    roles = {role: resolve(settings.engine(role), store) for role in played}
    settings = settings.model_copy(update={"engines": roles})
    playing = {**roles, "world": world_engine(settings, worlds)}
    context = RunContext(settings.embedder)
    looks = "\n".join(map(look_at_application, applications))
    identity = {application.name: application.id for application in applications}
    source = rows_source(store, APPLICATIONS, applications, looks, applications=identity)
    first = chain(playing, source.key, *input_stages(settings), context=context)
    cleaning = clean("dialogues", settings, store, first[-1].key, Comparison(CleanInputs, None))
    first += cleaning.stages
    first += chain(
        playing, cleaning.key, Outputs(sampling=settings.sampling(settings.outputs), tool_calls=settings.tool_calls)
    )
    taught = chain(playing, first[-1].key, *dialogue_stages(settings, applications, worlds))
    compared = chain(playing, first[-1].key, AnswerPools(), R3(), TeacherPairs(), context=context)
    # by meaning, inputs were compared when they were made; here they stand in an application's words
    comparison = Comparison(CleanPairs, UniquePairs, score="chosen_reward", layers=("exact",))
    again = clean("dialogues", settings, store, compared[-1].key, comparison)
    return Plan(
        "dialogues",
        settings,
        store,
        source,
        [*first, *taught, *compared, *again.stages],
        lambda manifests: dialogue_dataset(store, manifests, settings),
        trunk="training_rows",
        others=[*cleaning.sources, *again.sources],
    )


def world_engine(settings: DialogueSettings, worlds: dict[str, str]) -> EngineSettings:
    """The engine that answers for the applications' worlds; worlds: name -> FILE.py:CLASS."""
    return EngineSettings(
        kind="worlds",
        model="worlds",
        options=worlds,
        concurrency=WORLDS_AT_ONCE,
        timeout_s=settings.dialogues.world_timeout_s,
    )


def input_stages(settings: DialogueSettings) -> tuple[Stage, ...]:
    """Users' inputs: drafts of them, then those that differ."""
    inputs = settings.inputs
    drafts = inputs.model_dump(include={"overgenerate", "per_call"})
    return (
        DraftInputs(sampling=settings.sampling(inputs), wanted=inputs.count, **drafts),
        PseudoInputs(
            wanted=inputs.count,
            threshold=None if settings.preset == "paper" else inputs.threshold,
            rows_per_part=settings.rows_per_part,
        ),
    )


def dialogue_stages(
    settings: DialogueSettings, applications: Sequence[Application], worlds: dict[str, str]
) -> tuple[Stage, ...]:
    """From outputs with and without the prompt to training rows."""
    talk = settings.dialogues
    return (
        Reasons(sampling=settings.sampling(settings.reasons)),
        Openings(branches=talk.branches, seed=settings.seed, worlds=worlds, timeout_s=talk.world_timeout_s),
        RoleSwap(
            sampling=settings.sampling(talk),
            preset=settings.preset,
            tool_calls=settings.tool_calls,
            most_turns=max(application.limits.max_turns for application in applications),
            **talk.model_dump(
                include={"environment", "planner", "judge", "max_turns", "max_repeats", "attempts", "sends_thinking"}
            ),
        ),
        DialogueSigns(limits=settings.cut),
        TrainingRows(joint_ratio=settings.joint_ratio, tokenizer=settings.tokenizer),
    )


def read_applications(settings: DialogueSettings) -> tuple[list[Application], dict[str, str]]:
    """The applications and where their worlds are. Raises InputError, also for what does not go together."""
    applications: list[Application] = []
    worlds: dict[str, str] = {}
    for path in settings.applications:
        application, own_worlds = read_application(Path(path))
        if application.name in {other.name for other in applications}:
            raise InputError(f"{path}: another application is called {application.name}, too; give it another name")
        if settings.dialogues.environment != "simulated" and not application.environment.world:
            raise InputError(
                f"{path} has no environment.world, so dialogues.environment cannot be "
                f"{settings.dialogues.environment}; expected FILE.py:CLASS there, or simulated here"
            )
        applications.append(application)
        worlds |= own_worlds
    for name, file in worlds.items():
        load_world(file, name)
    return applications, worlds


def check_tool_calls(settings: DialogueSettings, applications: Sequence[Application]) -> None:
    """Raises InputError where native tool calls are asked of an engine that has none."""
    teacher, has_tools = settings.engine("teacher"), any(application.tools for application in applications)
    if settings.tool_calls == "native" and teacher.in_process and has_tools:
        raise InputError(
            f"tool_calls is native, and {teacher.spec} answers in this process, where no server reads tool calls; "
            "leave it out (schema works on every engine), or name a server as the teacher"
        )


def look_at_application(application: Application) -> str:
    """One line: the prompt's turns and length, and what the application brings."""
    chars, world = len(application.context), application.environment.world
    demos, tools = len(application.inputs.demos), len(tool_names(application.tools))
    return (
        f"{application.name}: {len(application.turns)} turns, {chars:,} characters (about "
        f"{chars // USUAL_CHARS_PER_TOKEN:,} tokens), {demos} demos, {tools} tools, "
        + (f"world {world}" if world else "no world")
    )


def plain_messages(column: str, schema: pl.Schema) -> pl.Expr:
    """Turns as lists of {role, content}, where none of them calls a tool; with reasoning_content, where any thought."""
    fields = {"role": "role", "content": "content"} | ({REASONING: "reasoning"} if thinks(schema[column]) else {})
    return pl.col(column).list.eval(pl.struct(pl.element().struct.field(of).alias(name) for name, of in fields.items()))


def training_rows(rows: RowStream, kind: str) -> RowStream:
    """One kind of training row in TRL's conversational format; where an application has tools, with their calls."""
    chosen = rows.filter(pl.col("kind") == kind)
    without_tools = all((batch["tools"] == "").all() for batch in chosen.batches(["tools"]))

    def chats(batch: pl.DataFrame) -> pl.DataFrame:
        batch = batch.drop("kind", "calls", strict=False)
        if without_tools:
            return batch.with_columns(plain_messages("messages", batch.schema)).drop("tools")
        tools = pl.when(pl.col("tools") != "").then("tools")
        return batch.with_columns(messages_with_calls("messages", batch.schema), tools=tools)

    return chosen.map(chats)


def messages_with_calls(column: str, schema: pl.Schema) -> pl.Expr:
    """Turns as messages with their calls and the calls that they answer, null where there is none."""
    plain = ("role", "content", *((REASONING,) if thinks(schema[column]) else ()))
    fields = {REASONING: "reasoning"}
    calls, call_id = (pl.element().struct.field(name) for name in ("tool_calls", "tool_call_id"))
    return pl.col(column).list.eval(
        pl.struct(
            *(pl.element().struct.field(fields.get(name, name)).alias(name) for name in plain),
            tool_calls=pl.when(calls.list.len() > 0).then(calls),
            tool_call_id=pl.when(call_id != "").then(call_id),
        )
    )


def dialogue_rows(dialogues: RowStream) -> RowStream:
    """Every dialogue, kept or cut, in the paper's columns, then what is known of it and the signs of its quality."""
    applications: dict[str, Application] = {}
    for batch in dialogues.batches(["application"]):
        for row in batch["application"].unique(maintain_order=True):
            if row["id"] not in applications:
                applications[row["id"]] = Application.model_validate(row)
    number = {row_id: place for place, row_id in enumerate(applications)}
    owner = pl.col("application").struct.field("id")
    papers = ("pseudo_input", "teacher_output_single", "student_output_single", "reason")
    first = (*papers, "id", "parent_id", "application", "turns")
    rest = [name for name in SignedDialogue.model_fields if name in dialogues.columns and name not in first]
    plain = not any(application.tools for application in applications.values())
    columns: list[str | pl.Expr] = [
        "id",
        "parent_id",
        owner.replace_strict(number, return_dtype=pl.Int64).alias("context_id"),
        owner.replace_strict({i: a.context for i, a in applications.items()}, return_dtype=pl.String).alias("context"),
        *papers,
        (plain_messages("turns", dialogues.schema) if plain else pl.col("turns")).alias("teacher_output_conv"),
        *rest,
    ]
    return dialogues.map(lambda batch: batch.select(*columns))


def dialogue_dataset(store: Store, manifests: Mapping[str, Manifest], settings: DialogueSettings) -> Dataset:
    """sft, prompt_generation, preference and dialogues; manifests: by stage."""
    rows = stream_of(store, manifests["training_rows"])
    pairs = stream_of(store, manifests["unique_pairs"]).filter(KEPT).map(preference_rows)
    dialogues = stream_of(store, manifests["dialogue_signs"])
    tables = {
        "sft": Table.of(
            training_rows(rows, "sft"),
            "conversations",
            "a dialogue without the prompt; train on the assistant's turns",
        ),
        "prompt_generation": Table.of(
            training_rows(rows, "prompt_generation"),
            "conversations",
            "input, bad and good output -> the prompt and the reason",
        ),
        "preference": Table.of(
            pairs, "preferences", "the teacher's first answer over the student's, with their rewards"
        ),
        "dialogues": Table.of(
            dialogue_rows(dialogues),
            "other",
            "every dialogue, kept or cut, with its context, outputs, reason and quality signs",
        ),
    }
    intro = "Rows that teach a model to behave as if an application's prompt were there."
    notes = [*few_inputs(store, manifests, settings), *long_turns(rows, settings)]
    figures = [Figure.lines("How the dialogues ended", ends_in_words(dialogues))]
    return Dataset("Role-swap dialogues", intro, tables, DIALOGUES, notes=notes, figures=figures)


def few_inputs(store: Store, manifests: Mapping[str, Manifest], settings: DialogueSettings) -> Iterator[str]:
    """The applications that have fewer inputs than were wanted."""
    name_of = dict(read_frame(store, manifests[APPLICATIONS], ("id", "name")).rows())
    application_of = dict(read_frame(store, manifests["drafts"], ("id", "parent_id")).rows())
    inputs = Counter(read_frame(store, manifests["pseudo_inputs"], ("parent_id",))["parent_id"])
    for name, count in sorted((name_of[application_of[draft]], count) for draft, count in inputs.items()):
        if count < settings.inputs.count:
            yield (
                f"{name}: {count} of {settings.inputs.count} inputs wanted; raise inputs.overgenerate "
                f"({settings.inputs.overgenerate:g}), or add demos"
            )


def long_turns(rows: RowStream, settings: DialogueSettings) -> Iterator[str]:
    """The kinds of rows with a turn that a trainer would cut."""
    longest = rows.frame(["kind", "longest_target_tokens"])
    too_long = longest.filter(pl.col("longest_target_tokens") > settings.target_max_len)
    for kind, count in sorted(Counter(too_long["kind"]).items()):
        estimated = "" if settings.tokenizer else "about "
        most = max(too_long.filter(pl.col("kind") == kind)["longest_target_tokens"])
        yield (
            f"{count} {kind} rows have a turn of over {settings.target_max_len} tokens ({estimated}{most} at most): "
            f"a trainer with target_max_len {settings.target_max_len}, the paper's, would cut them"
        )


def ends_in_words(dialogues: RowStream) -> Iterator[str]:
    """How the dialogues ended, what the cut did, and how simulated replies compare with real ones."""
    frame = dialogues.frame(["end_reason", "cut_by", "kept", "realism", "same_outcome"])
    yield "ends: " + ", ".join(f"{count} {reason}" for reason, count in Counter(frame["end_reason"]).most_common())
    cuts = ", ".join(f"{count} {sign}" for sign, count in Counter(frame["cut_by"]).most_common() if sign)
    yield f"kept: {frame['kept'].sum()} of {frame.height}" + (f"; cut by {cuts}" if cuts else "")
    if isinstance(realism := frame["realism"].mean(), float):
        same = frame["same_outcome"].mean()
        agreement = f", the same outcome in {same:.0%}" if isinstance(same, float) else ""
        yield f"simulated against real replies: ROUGE-L {realism:.2f}{agreement}"


DIALOGUES = """## Weights and tools

`weight` is a training row's share in its input's joint loss: `joint_ratio` over an input's SFT rows, the rest on
prompt generation. Where an application has tools, `tools` holds their definitions as JSON and `messages` calls them in
OpenAI's form; whether the student is shown `tools` is your choice.
"""
