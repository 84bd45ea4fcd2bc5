"""The flows: which stages each has, in which order, and what each of them is made from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.making.plan import Plan, Source, chain, file_source
from flows.methods.cleaning import clean, open_checked_store
from flows.multifaceted_plans import plan_judge, plan_multifaceted
from flows.preference_plans import plan_preferences, plan_self_rip
from flows.preference_settings import PreferencesSettings, SelfRipSettings
from flows.retpo_plans import plan_retpo
from flows.retpo_settings import RetpoSettings
from schemas.applications import Application, tool_names
from schemas.dialogue_settings import DialogueSettings
from schemas.errors import InputError
from schemas.hashing import content_hash
from schemas.multifaceted_settings import JudgeSettings, MultifacetedSettings
from schemas.settings import EngineSettings, RunSettings
from schemas.synthesize_settings import SynthesizeSettings
from storage.plain_files.applications import read_application
from storage.plain_files.taxonomies import read_taxonomy
from storage.published.rows import dialogue_dataset, preference_dataset
from tasks.cuts.max_min import MaxMinPairs
from tasks.dedup.contamination import CleanInputs, CleanPairs
from tasks.dedup.duplicates import UniquePairs
from tasks.engines.engine import resolve
from tasks.engines.worlds import load_world
from tasks.generators.answers import Answers
from tasks.generators.dialogues.openings import Openings
from tasks.generators.dialogues.pseudo_inputs import DraftInputs, PseudoInputs
from tasks.generators.dialogues.role_swap import RoleSwap
from tasks.generators.dialogues.signs import DialogueSigns
from tasks.generators.dialogues.single_turn import Outputs, Reasons
from tasks.generators.dialogues.teacher_pairs import AnswerPools, TeacherPairs
from tasks.generators.dialogues.training_rows import TrainingRows
from tasks.generators.multifaceted.preference_sets import PreferenceSets
from tasks.generators.multifaceted.splits import Variants
from tasks.generators.multifaceted.system_messages import SystemMessages
from tasks.running.stages import APPLICATIONS, ingest_applications
from tasks.scorers.r3 import R3
from tasks.texts.tokens import USUAL_CHARS_PER_TOKEN, load_tokenizer

WORLDS_AT_ONCE = 16


def plan_synthesize(settings: SynthesizeSettings) -> Plan:
    """Resolve engines and keys. Raises InputError, StoreError or EngineError before anything is made."""
    store = open_checked_store(settings)
    roles = {role: resolve(settings.engine(role), store) for role in ("teacher", "student")}
    settings = settings.model_copy(update={"engines": roles})
    answers = settings.answers
    source = file_source(store, settings.source, settings.rows_per_part)
    stages = chain(
        roles,
        source.key,
        PreferenceSets(sampling=settings.sampling(settings.preference_sets), count=1, taxonomy=read_taxonomy("")),
        SystemMessages(sampling=settings.sampling(settings.system_messages), sets=1),
        Variants(seed=settings.seed, sets=1),
        Answers(sampling=settings.sampling(answers), count=answers.count, min_answers=answers.min_answers),
        R3.with_embedder(settings.embedder),
        MaxMinPairs(),
    )
    cleaning = clean("synthesize", settings, store, stages[-1].key, CleanPairs, UniquePairs, score="chosen_reward")
    return Plan(
        "synthesize",
        settings,
        store,
        source,
        [*stages, *cleaning.stages],
        lambda made: preference_dataset(store, made),
        trunk="unique_pairs",
        others=cleaning.sources,
    )


def plan_dialogues(settings: DialogueSettings) -> Plan:
    """Read the applications, resolve engines and keys. Raises InputError, StoreError or EngineError."""
    applications, worlds = read_applications(settings)
    if settings.tokenizer:
        load_tokenizer(settings.tokenizer)
    store = open_checked_store(settings)
    played = ("author", "student", "teacher", "environment", "judge")
    roles = {role: resolve(settings.engine(role), store) for role in played}
    settings = settings.model_copy(update={"engines": roles})
    talk, inputs, paper = settings.dialogues, settings.inputs, settings.preset == "paper"
    world = EngineSettings(
        kind="worlds", model="worlds", options=worlds, concurrency=WORLDS_AT_ONCE, timeout_s=talk.world_timeout_s
    )
    playing = {**roles, "world": world}
    key = content_hash([APPLICATIONS, [application.id for application in applications]])
    first = chain(
        playing,
        key,
        DraftInputs(
            sampling=settings.sampling(inputs),
            wanted=inputs.count,
            overgenerate=inputs.overgenerate,
            per_call=inputs.per_call,
        ),
        PseudoInputs.with_embedder(
            settings.embedder,
            wanted=inputs.count,
            threshold=None if paper else inputs.threshold,
            rows_per_part=settings.rows_per_part,
        ),
    )
    cleaning = clean("dialogues", settings, store, first[-1].key, CleanInputs, None)
    first += cleaning.stages
    first += chain(playing, cleaning.key, Outputs(sampling=settings.sampling(settings.outputs)))
    taught = chain(
        playing,
        first[-1].key,
        Reasons(sampling=settings.sampling(settings.reasons)),
        Openings(branches=talk.branches, seed=settings.seed, worlds=worlds, timeout_s=talk.world_timeout_s),
        RoleSwap(
            sampling=settings.sampling(talk),
            preset=settings.preset,
            most_turns=max(application.limits.max_turns for application in applications),
            **talk.model_dump(include={"environment", "planner", "judge", "max_turns", "max_repeats", "attempts"}),
        ),
        DialogueSigns(limits=settings.cut),
        TrainingRows(joint_ratio=settings.joint_ratio, tokenizer=settings.tokenizer),
    )
    compared = chain(playing, first[-1].key, AnswerPools(), R3.with_embedder(settings.embedder), TeacherPairs())
    again = clean(  # by meaning, inputs were compared when they were made; here they stand in an application's words
        "dialogues",
        settings,
        store,
        compared[-1].key,
        CleanPairs,
        UniquePairs,
        score="chosen_reward",
        layers=("exact",),
    )
    return Plan(
        "dialogues",
        settings,
        store,
        Source(
            APPLICATIONS,
            key,
            lambda run: ingest_applications(store, applications, key, run),
            lambda: (len(applications), "\n".join(look_at_application(one) for one in applications)),
        ),
        [*first, *taught, *compared, *again.stages],
        lambda made: dialogue_dataset(store, made),
        trunk="training_rows",
        others=[*cleaning.sources, *again.sources],
    )


def read_applications(settings: DialogueSettings) -> tuple[list[Application], dict[str, str]]:
    """The applications and where their worlds are. Raises InputError, also for what does not go together."""
    applications: list[Application] = []
    worlds: dict[str, str] = {}
    for path in settings.applications:
        application, found = read_application(Path(path))
        if application.name in {other.name for other in applications}:
            raise InputError(f"{path}: another application is called {application.name}, too; give it another name")
        if settings.dialogues.environment != "simulated" and not application.environment.world:
            raise InputError(
                f"{path} has no environment.world, so dialogues.environment cannot be "
                f"{settings.dialogues.environment}; expected FILE.py:CLASS there, or simulated here"
            )
        applications.append(application)
        worlds |= found
    for name, file in worlds.items():
        load_world(file, name)
    return applications, worlds


def look_at_application(application: Application) -> str:
    """One line: the prompt's turns and length, and what the application brings."""
    chars, world = len(application.context), application.environment.world
    demos, tools = len(application.inputs.demos), len(tool_names(application.tools))
    return (
        f"{application.name}: {len(application.turns)} turns, {chars:,} characters (about "
        f"{chars // USUAL_CHARS_PER_TOKEN:,} tokens), {demos} demos, {tools} tools, "
        + (f"world {world}" if world else "no world")
    )


FLOWS: dict[str, tuple[type[RunSettings], Callable[[Any], Plan]]] = {
    "synthesize": (SynthesizeSettings, plan_synthesize),
    "dialogues": (DialogueSettings, plan_dialogues),
    "multifaceted": (MultifacetedSettings, plan_multifaceted),
    "judge": (JudgeSettings, plan_judge),
    "retpo": (RetpoSettings, plan_retpo),
    "preferences": (PreferencesSettings, plan_preferences),
    "self-rip": (SelfRipSettings, plan_self_rip),
}
"""Name -> (its settings, how it is planned). Each has a Prefect flow of that name in flows/<name>.py (a dash is an
underscore there).
"""
