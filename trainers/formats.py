"""What readers make of `--format`, which is for those who know what they want: a configuration written by hand as each
trainer's documentation shows it, over the Parquet files of an export.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from trainers.compare import compare
from trainers.expected import expected
from trainers.reading_all import Job, Reading, export_with, read


class Cell(NamedTuple):
    """A reader over a format of a table; settings: what its documentation would have a user write."""

    reader: str
    format: str
    use: str
    run: str
    table: str
    settings: Mapping[str, Any] | str = ""

    @property
    def label(self) -> str:
        return f"{self.table}_{self.format.replace('-', '_')}"

    def data(self, folder: Path) -> str:
        """The folder of its Parquet files; an export of one table has them in `data` itself."""
        return f"data/{self.label}" if (folder / "data" / self.label).exists() else "data"


SIDES = {"chosen": "chosen", "rejected": "rejected"}
TOOLS, SYSTEMS = ("dialogues", "sft"), ("multifaceted", "preference")
TAGS = {
    "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
    "observation_tag": "tool", "function_tag": "function_call", "system_tag": "system",
}  # fmt: skip
SHAREGPT = {"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}}
SHAREGPT_PAIRS = {"formatting": "sharegpt", "ranking": True, "columns": {"messages": "conversations", **SIDES}}
ALPACA = {"prompt": "instruction", "query": "input", "system": "system", "history": "history", **SIDES}
MESSAGES = {"formatting": "openai", "columns": {"messages": "messages", "tools": "tools"}, "tags": TAGS}
TEMPLATE, PROMPTS = "--data.apply_chat_template --data.dataset", "--data.prompt_key prompt "
CHAT = {"conversation_column": "messages", "conversation_style": "openai"}
TUNE = "torchtune.datasets"
CELLS = (
    Cell("llama-factory", "sharegpt", "sft", *TOOLS, SHAREGPT),
    Cell("llama-factory", "sft", "sft", *TOOLS, MESSAGES),
    Cell("llama-factory", "sharegpt", "pairs", *SYSTEMS, SHAREGPT_PAIRS),
    Cell("llama-factory", "alpaca", "pairs", *SYSTEMS, {"ranking": True, "columns": ALPACA}),
    Cell("axolotl", "sft", "sft", *TOOLS, {"type": "chat_template", "field_messages": "messages"}),
    Cell("axolotl", "dpo", "pairs", *SYSTEMS, {"type": "chat_template.default", "field_messages": "prompt"}),
    Cell("axolotl", "dpo", "pairs", *SYSTEMS, {"type": "chatml.prompt_pairs"}),
    Cell("ms-swift", "sft", "sft", *TOOLS, "--dataset"),
    Cell("ms-swift", "sharegpt", "sft", *TOOLS, "--dataset"),
    Cell("ms-swift", "dpo", "pairs", *SYSTEMS, "--dataset"),
    Cell("openrlhf", "sft", "sft", *TOOLS, f"--data.input_key messages --data.multiturn {TEMPLATE}"),
    Cell("openrlhf", "dpo", "pairs", *SYSTEMS, PROMPTS + TEMPLATE),
    Cell("openrlhf", "dpo", "reward", *SYSTEMS, TEMPLATE),
    Cell("openrlhf", "reward", "reward", *SYSTEMS, TEMPLATE),
    Cell("verl", "sft", "sft", *TOOLS, "data.messages_key=messages data.train_files="),
    Cell("torchtune", "sft", "sft", *TOOLS, {"_component_": f"{TUNE}.chat_dataset", **CHAT}),
    Cell("torchtune", "dpo", "pairs", *SYSTEMS, {"_component_": f"{TUNE}.preference_dataset"}),
    Cell("torchtune", "reward", "pairs", *SYSTEMS, {"_component_": f"{TUNE}.preference_dataset"}),
    Cell("trl", "sft", "sft", *TOOLS),
    Cell("trl", "dpo", "pairs", *SYSTEMS),
    Cell("trl", "kto", "kto", *SYSTEMS),
    Cell("trl", "reward", "reward", *SYSTEMS),
    Cell("trl", "prompts", "prompts", *SYSTEMS),
    Cell("sentence-transformers", "triplets", "triplets", "retpo", "hard_negatives_bm25"),
)


def configure(cell: Cell, folder: Path) -> None:
    """Write what the cell's reader looks for beside the data."""
    settings = cell.settings
    file = f"{cell.data(folder)}/train-00000-of-00001.parquet"
    if cell.reader == "llama-factory":
        text = json.dumps({cell.label: {"file_name": cell.data(folder), **dict(settings)}})
        (folder / "dataset_info.json").write_text(text)
    elif cell.reader == "axolotl":
        mode = {"rl": "dpo"} if cell.use == "pairs" else {}
        block = {"path": file, "ds_type": "parquet", "split": "train", **dict(settings)}
        (folder / f"{cell.label}.yaml").write_text(yaml.safe_dump({**mode, "datasets": [block]}))
    elif cell.reader == "torchtune":
        source = {"source": "parquet", "data_files": file, "split": "train", **dict(settings)}
        (folder / f"{cell.label}.yaml").write_text(yaml.safe_dump({"dataset": source}))
    elif settings:
        between = "" if str(settings).endswith("=") else " "
        (folder / "train.sh").write_text(f"# {cell.label}\ntrain {settings}{between}{file}\n")


def format_readings(
    reader: str, runs: Mapping[str, Path], folder: Path, tokenizer: Path
) -> Iterator[tuple[Cell, Reading]]:
    """What a reader makes of the formats that its cells name."""
    cells = [cell for cell in CELLS if cell.reader == reader]
    jobs = []
    for place, cell in enumerate(cells):
        to = folder / "exports" / reader / f"format-{place}"
        refusal = export_with(folder / "runs", cell.run, to, "--format", cell.format)
        if refusal:
            raise SystemExit(refusal)
        configure(cell, to)
        jobs.append(Job(cell.run, cell.table, cell.use, cell.label, to, expected(runs[cell.run], cell.table, cell.use)))
    for cell, job, answer in zip(cells, jobs, read(reader, jobs, folder, tokenizer), strict=True):
        yield cell, Reading(job.run, job.table, job.use, compare(answer, job.rows))
