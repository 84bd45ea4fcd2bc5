"""Questions, answers and conversations about documents, each checked: answerable from its passage, and not without it.

Source: docs/papers.md#documents.
"""

from collections.abc import Sequence

from synthmill.flows.making.cleaning import Comparison, clean, open_checked_store
from synthmill.flows.making.plan import Plan, chain, file_source
from synthmill.flows.methods.documents.dataset import documents_dataset
from synthmill.flows.methods.documents.passage_questions import GroundedConversations, QuestionKinds
from synthmill.flows.methods.documents.settings import DocumentsSettings
from synthmill.storage.plain_files.documents import DOCUMENTS
from synthmill.tasks.dedup.contamination import CleanRows
from synthmill.tasks.dedup.duplicates import UniqueRows
from synthmill.tasks.engines.engine import resolve
from synthmill.tasks.running.job import Planned


def plan(settings: DocumentsSettings) -> Plan:
    """Resolve engines and keys. Raises InputError, StoreError or EngineError before anything is asked."""
    store = open_checked_store(settings)
    roles = {role: resolve(settings.engine(role), store) for role in GroundedConversations.roles}
    settings = settings.model_copy(update={"engines": roles})
    source = file_source(store, settings.source, settings.rows_per_part, DOCUMENTS)
    stages = chain(
        roles,
        source.key,
        QuestionKinds(kinds=tuple(settings.kinds), per_passage=settings.per_passage, seed=settings.seed),
        GroundedConversations(
            sampling=settings.sampling(settings.questions),
            kinds=settings.kinds,
            turns=settings.turns,
            checks=settings.checks,
            attempts=settings.attempts,
        ),
    )
    comparison = Comparison(CleanRows, UniqueRows, texts=("prompt", "reference"))
    cleaning = clean("documents", settings, store, stages[-1].key, comparison)
    steps: Sequence[Planned] = [*stages, *cleaning.stages]
    return Plan(
        "documents",
        settings,
        store,
        source,
        steps,
        lambda manifests: documents_dataset(store, manifests, settings.instruction),
        trunk="unique_rows",
        others=cleaning.sources,
        written=(settings.instruction,),
    )
