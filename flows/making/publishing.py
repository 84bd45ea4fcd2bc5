"""A session's rows as a dataset: written into its store, as a flow's are, then exported."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from synthmill.flows.making.made import Made
from synthmill.flows.making.open_run import OpenRun
from synthmill.flows.pages.card import CONFIG, config_file, with_card
from synthmill.flows.pages.exporting import export_run
from synthmill.schemas.errors import InputError
from synthmill.schemas.export_settings import ExportSettings
from synthmill.schemas.hashing import content_hash
from synthmill.schemas.settings_files import read_settings
from synthmill.storage.plain_files.lines import HUB
from synthmill.storage.published.by_columns import AS_IT_IS, table_of
from synthmill.storage.published.configurations import Dataset
from synthmill.storage.published.folder import write_dataset
from synthmill.storage.runs import manifests_of, write_run

TITLES = {
    "preferences": "Preference pairs",
    "conversations": "Conversations",
    "completions": "Prompts and completions",
    "labelled": "Labelled completions",
    "triplets": "Triplets",
    "rl": "Prompts with verifiers",
    "distillation": "Prompts with contexts",
    "prompts": "Prompts",
    "other": "Rows",
}


def publish_tables(run: OpenRun, to: str, tables: Mapping[str, Made], options: Mapping[str, Any]) -> Path | str:
    """Write tables as a dataset of the run's, then to a folder or the Hub: the folder, or the Hub's address. options:
    tables by name, too; title, intro, and the settings of an export. Raises InputError before anything is written.
    """
    named = {**tables, **{name: value for name, value in options.items() if isinstance(value, Made)}}
    others = {name: value for name, value in options.items() if not isinstance(value, Made)}
    title, intro = others.pop("title", ""), others.pop("intro", "")
    export = read_settings(ExportSettings, None, {**others, "store": str(run.store.root), "to": to})
    if not named:
        raise InputError(
            "there is nothing to publish; expected rows by name, for instance publish(to, preference=pairs)"
        )
    if empty := [name for name, made in named.items() if not made.rows]:
        raise InputError(f"{empty[0]} has no rows, and a dataset without rows cannot be loaded; leave it out")
    published = {name: table_of(made.stream(), made.carried, made.form) for name, made in named.items()}
    kinds = [table.kind for table in published.values()]
    steps = ", ".join(dict.fromkeys(made.step for made in named.values()))
    dataset = Dataset(title or TITLES[kinds[0]], intro or f"Rows of the steps {steps} of a Python session.", published)
    forms = {name: made.form.model_dump() for name, made in named.items() if made.form != AS_IT_IS}
    identity = [{name: made.key for name, made in named.items()}, dataset.title, dataset.intro, *filter(None, [forms])]
    key = content_hash(identity)[:8]
    folder = run.store.root / "datasets" / f"{run.name}-{key}"
    record = run.present()
    dataset, card = with_card(
        run.store,
        run.name,
        replace(dataset, files={CONFIG: config_file(record.settings)}),
        manifests_of(run.store, record),
        record.settings,
    )
    write_dataset(folder, dataset, card)
    run.dataset = str(folder)
    record = write_run(run.store, run.present())
    export_run(run.store, record, export.model_copy(update={"run": record.id}), quiet=True)
    return to if to.startswith(HUB) else Path(to)
