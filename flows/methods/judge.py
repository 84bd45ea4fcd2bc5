"""Scores of a model on a bench that multifaceted made.

Source: docs/papers.md#multifaceted, "judging".
"""

from pathlib import Path

from synthmill.flows.making.plan import Plan, chain, file_source, open_store
from synthmill.flows.pages.templates import Manifests, render, two_places
from synthmill.schemas.multifaceted_settings import JudgeSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.plain_files.rows import BENCH, read_chunks
from synthmill.storage.published.configurations import Dataset, Figure, Table
from synthmill.storage.published.rows import stream_of
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.generators.multifaceted.bench import BenchResult, BenchScores, Judged, bench_results
from synthmill.tasks.scorers.judgements import note_unread

FOLDER = Path(__file__).parent / "multifaceted"
SCORES, FIELDS = ("", "score", "spread over runs", "missing"), ("name", "score", "spread", "missing")


def plan(settings: JudgeSettings) -> Plan:
    """Resolve engines and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_store(settings)
    source = file_source(store, settings.source, settings.rows_per_part, BENCH)
    bench = read_chunks(settings.source, settings.rows_per_part, BENCH)
    roles = {role: resolve(settings.engine(role), store) for role in ("student", "judge")}
    settings = settings.model_copy(update={"engines": roles})
    judged = Judged(
        sampling=settings.sampling(settings.answers),
        judging=settings.sampling(settings.judging),
        runs=settings.runs,
        attempts=settings.attempts,
        rubrics=max((len(row.rubrics) for chunk in bench for row in chunk.rows), default=1),
    )
    stages = chain(roles, source.key, judged, BenchScores())
    return Plan(
        "judge",
        settings,
        store,
        source,
        stages,
        lambda manifests: scores_dataset(store, manifests),
        trunk="bench_scores",
    )


def scores_dataset(store: Store, manifests: Manifests) -> Dataset:
    """The judged rows, and a card with the model's scores."""
    rows = stream_of(store, manifests["bench_scores"])
    results = [in_words(result) for result in bench_results(rows.frame(["preference_set", "scores", "run_scores"]))]
    return Dataset(
        "Scores on a multifaceted bench",
        "Answers of one model to a bench of values, each judged by its rubric.",
        {"scores": Table.of(rows, "other", "a bench row with the model's answers, scores and feedback, run by run")},
        render("scores.md", FOLDER, rows=rows.height, results=results, unread=note_unread(store, manifests["judged"])),
        figures=[Figure("Scores", SCORES, tuple(tuple(result[name] for name in FIELDS) for result in results))],
    )


def in_words(result: BenchResult) -> dict[str, str]:
    return {
        "name": result.name,
        "score": two_places(result.score),
        "spread": two_places(result.spread),
        "runs": ", ".join(map(two_places, result.runs)),
        "missing": f"{result.missing:,}",
    }
