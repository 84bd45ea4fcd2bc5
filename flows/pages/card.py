"""The card of a dataset: what is in it, how it came about, what it may be used for, how to load and to make it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import yaml

from synthmill.flows.pages.own_files import OWN_FACTS, OwnFiles
from synthmill.flows.pages.templates import Manifests, funnel, render
from synthmill.schemas.bill import added_up, tokens_in, tokens_out, wasted
from synthmill.schemas.endings import Ending, ending_of
from synthmill.schemas.licenses import most_restrictive
from synthmill.schemas.settings import RunSettings
from synthmill.storage.artifacts import Store
from synthmill.storage.published.card_metadata import metadata, opens_with
from synthmill.storage.published.cards import BEGIN, END
from synthmill.storage.published.chats import as_message
from synthmill.storage.published.configurations import Dataset, Table
from synthmill.storage.published.provenance import DatasetSource, public_engine, public_settings, sources_of
from synthmill.storage.published.row_streams import RowStream
from synthmill.storage.published.rows import REASONING, compared
from synthmill.storage.published.thinking import thinking_counts
from synthmill.tasks.texts.languages import language_of

CONFIG = "synthmill.yaml"
LANGUAGES_FROM, LANGUAGE_SHARE = 500, 0.05
TEXTS = ("chosen", "messages", "completion", "prompt", "query", "anchor", "conversations", "output")
HERE = "THIS FOLDER"
NO_FILES = OwnFiles()


def publishable(
    store: Store,
    flow: str,
    dataset: Dataset,
    manifests: Manifests,
    settings: RunSettings,
    method: str = "",
    own_files: OwnFiles = NO_FILES,
) -> tuple[Dataset, str]:
    """A run's dataset with its settings and the user's code beside it, and its card. manifests: by stage, in their
    order.
    """
    beside = config_file(own_files.named_in(settings.model_dump(mode="json", exclude_defaults=True)))
    files = {**dataset.files, **own_files.files, CONFIG: beside}
    published = replace(dataset, files=files, facts=own_files.facts)
    return with_card(store, flow, published, manifests, settings.model_dump(mode="json"), method=method)


def config_file(settings: Mapping[str, Any]) -> bytes:
    """What lies beside a dataset: the settings that differ from the defaults."""
    text: str = yaml.safe_dump(public_settings(settings), sort_keys=False, allow_unicode=True, width=110)
    return text.encode()


def with_card(
    store: Store, flow: str, dataset: Dataset, manifests: Manifests, settings: Mapping[str, Any], **card_options: Any
) -> tuple[Dataset, str]:
    """A dataset with its facts, and its card. settings: as the run's record holds them, perhaps another version's;
    card_options: place (where it will be loaded from), run, method (if it is not called as the flow), parted (split by
    prompt), license.
    """
    sources = list(sources_of(settings))
    artifacts = {stage: manifest.key for stage, manifest in manifests.items()}
    facts = {
        "flow": flow,
        "sources": [source.name for source in sources],
        "synthmill": version("synthmill"),
        "artifacts": artifacts,
        **{name: dataset.facts[name] for name in OWN_FACTS if name in dataset.facts},
    }
    published = replace(dataset, facts=facts)
    return published, card(store, flow, published, manifests, settings, sources, **card_options)


def card(
    store: Store,
    flow: str,
    dataset: Dataset,
    manifests: Manifests,
    settings: Mapping[str, Any],
    sources: Sequence[DatasetSource],
    *,
    place: str = HERE,
    run: str = "",
    method: str = "",
    parted: bool = False,
    license: str = "",
) -> str:
    """README.md, YAML metadata first."""
    stated = license or settings.get("license") or ""
    license = stated or most_restrictive(source.license for source in sources)
    filled = dataset.filled()
    name, splits = next(iter(filled.items()))
    return render(
        "card.md",
        begin=BEGIN,
        end=END,
        metadata=metadata(flow, dataset, license, languages(filled)),
        dataset=dataset,
        flow=flow,
        method=method or flow,
        run=run,
        place=place,
        first=(name, next(iter(splits))),
        opens_with=opens_with(dataset),
        parted=parted,
        models=models_of(manifests),
        prompts={name: hash for m in manifests.values() for name, hash in m.identity.get("prompts", {}).items()},
        funnel=funnel(manifests),
        took=took(manifests),
        compared=compared(store, manifests),
        sources=sources,
        license=license,
        stated=bool(stated),
        limits=list(limits(dataset, manifests, settings)),
        version=version("synthmill"),
        seed=settings.get("seed"),
        session=bool(settings.get("session")),
    )


def languages(filled: Mapping[str, Mapping[str, RowStream]]) -> list[str]:
    """The languages of a sample of rows: each that at least a twentieth of them is in."""
    counts: Counter[str] = Counter()
    for splits in filled.values():
        for rows in splits.values():
            column = next((name for name in TEXTS if name in rows.columns), None)
            if column:
                sample = range(0, rows.height, max(1, rows.height // LANGUAGES_FROM))
                texts = map(last_text, rows.take(sample, [column])[column].to_list())
                counts.update(language_of(text) for text in texts if text)
    counts.pop("", None)
    return sorted(name for name, count in counts.items() if count >= LANGUAGE_SHARE * counts.total())


def last_text(value: Any) -> str:
    """A text, or the last text of a chat."""
    if isinstance(value, str):
        return value
    message = value if isinstance(value, dict) else as_message(value[-1]) if value is not None and len(value) else {}
    return str(message.get("content") or message.get("value") or "")


def models_of(manifests: Manifests) -> dict[str, list[str]]:
    """role -> the models that played it, as their answers are kept under."""
    models: dict[str, list[str]] = {}
    for manifest in manifests.values():
        for role, name in manifest.identity.get("engines", {}).items():
            if (model := public_engine(name)) not in models.setdefault(role, []):
                models[role].append(model)
    return models


def took(manifests: Manifests) -> str:
    """What making it took, in one sentence; empty where no model was asked."""
    counters = added_up(numbers for manifest in manifests.values() for numbers in manifest.spent.values())
    if not counters.get("sent"):
        return ""
    waste = f"; of the requests {counts}" if (counts := wasted(counters)) else ""
    estimates = " (~: a server reported no tokens, and they are estimated)" if counters.get("estimated") else ""
    return (
        f"It took {int(counters['sent']):,} requests, {tokens_in(counters)} tokens in and {tokens_out(counters)} "
        f"tokens out{estimates}{waste}."
    )


def limits(dataset: Dataset, manifests: Manifests, settings: Mapping[str, Any]) -> Iterator[str]:
    """What a user should know before training on it."""
    if models_of(manifests):
        yield (
            "The rows were written by models and read by nobody: expect in them what these models get wrong, and their "
            "views."
        )
    kinds = {table.kind for table in dataset.tables.values()}
    if "preferences" in kinds:
        yield "A preference says what the reward or the method prefers, not what is true."
    thinking, answers = thinking_counts(dataset.tables)
    if thinking:
        yield (
            f"{thinking:,} of {answers:,} answers come with what their model thought before them (`{REASONING}` of the "
            "message)."
        )
    ends = endings(dataset.tables)
    if cut := ends["length"]:
        yield f"{cut:,} rows have an answer that was cut at max_tokens (`finish_reason` is `length`)."
    if broken := ends["content_filter"]:
        yield f"{broken:,} rows have an answer that a content filter broke off (`finish_reason` is `content_filter`)."
    dropped = sum(sum(manifest.dropped.values()) for manifest in manifests.values())
    if dropped:
        yield f"{dropped:,} rows were dropped on the way (the table above): what is left is easier than what came in."
    compared_with = settings.get("decontaminate")
    if not isinstance(compared_with, Mapping) or not compared_with.get("benchmarks"):
        yield "It was compared with no benchmark: check it against those you will report."
    yield "Nothing was filtered for personal data or for harm."


def endings(tables: Mapping[str, Table]) -> Counter[Ending]:
    """How many rows have an answer that ended in each way, where rows say it."""
    counts: Counter[Ending] = Counter()
    streams = [rows for table in tables.values() for rows in table.splits.values() if "finish_reason" in rows.columns]
    for batch in (batch for rows in streams for batch in rows.batches(["finish_reason"])):
        for reason, count in batch["finish_reason"].value_counts().iter_rows():
            counts[ending_of(reason)] += count
    return counts
