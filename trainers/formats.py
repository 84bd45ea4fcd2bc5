"""What readers make of `--format`, which is for those who know what they want: a configuration written by hand as each
trainer's documentation shows it, over the Parquet files of an export.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from trainers.expected import expected
from trainers.reading_all import Job, export_with


class Cell(NamedTuple):
    """A reader over a format of a table. settings: what its documentation would have a user write; note: why it comes
    out as it does.
    """

    reader: str
    format: str
    use: str
    run: str
    table: str
    settings: Mapping[str, Any] | str = ""
    note: str = ""

    @property
    def label(self) -> str:
        return self.table if self.format == "as-made" else f"{self.table}_{self.format.replace('-', '_')}"

    @property
    def shown_settings(self) -> str:
        """The settings on one line."""
        return self.settings if isinstance(self.settings, str) else json.dumps(self.settings)

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
TURNS = {"type": "chat_template", "field_messages": "conversations",
         "message_property_mappings": {"role": "from", "content": "value"}}  # fmt: skip
NAMELESS = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
TEXTS = {"prompt": "instruction", "query": "input", **SIDES}
TAGGED = {"formatting": "alpaca", "columns": {"prompt": "prompt", "response": "completion", "kto_tag": "label"}}
OPENAI = {"dataset_name": "openai_format", "chat_key": "messages", "tool_key": "tools"}
QUERY = "Its reader takes `prompt` for the text of a user's message and finds a list of messages there."
CELLS = (
    Cell("llama-factory", "sharegpt", "sft", *TOOLS, SHAREGPT),
    Cell("llama-factory", "sft", "sft", *TOOLS, MESSAGES),
    Cell("llama-factory", "sharegpt", "pairs", *SYSTEMS, SHAREGPT_PAIRS),
    Cell("llama-factory", "alpaca", "pairs", *SYSTEMS, {"ranking": True, "columns": ALPACA}),
    Cell("llama-factory", "sharegpt", "sft", *TOOLS, NAMELESS, "A column that `columns` does not name is left out."),
    Cell(
        "llama-factory",
        "alpaca",
        "pairs",
        *SYSTEMS,
        {"ranking": True, "columns": TEXTS},
        "It names no `system`.",
    ),
    Cell("llama-factory", "kto", "kto", *SYSTEMS, TAGGED, "Its alpaca form takes texts, not messages."),
    Cell("axolotl", "sft", "sft", *TOOLS, {"type": "chat_template", "field_messages": "messages"}),
    Cell("axolotl", "dpo", "pairs", *SYSTEMS, {"type": "chat_template.default", "field_messages": "prompt"}),
    Cell("axolotl", "dpo", "pairs", *SYSTEMS, {"type": "chatml.prompt_pairs"}, "Lists of messages are printed."),
    Cell("axolotl", "kto", "kto", *SYSTEMS, {"type": "chatml.prompt_pairs"}, "It takes texts, with other names."),
    Cell("axolotl", "reward", "reward", *SYSTEMS, {"type": "bradley_terry.chat_template"}, "It takes texts."),
    Cell("axolotl", "sharegpt", "sft", *TOOLS, {"type": "sharegpt"}, "This type is gone."),
    Cell("axolotl", "sharegpt", "sft", *TOOLS, TURNS, "Turns called function_call and observation vanish."),
    Cell("ms-swift", "sft", "sft", *TOOLS, "--dataset"),
    Cell("ms-swift", "sharegpt", "sft", *TOOLS, "--dataset"),
    Cell("ms-swift", "dpo", "pairs", *SYSTEMS, "--dataset", QUERY),
    Cell("ms-swift", "kto", "kto", *SYSTEMS, "--dataset", QUERY),
    Cell("ms-swift", "reward", "reward", *SYSTEMS, "--dataset", "Its reader finds no `messages`."),
    Cell("openrlhf", "sft", "sft", *TOOLS, f"--data.input_key messages --data.multiturn {TEMPLATE}", "No tools."),
    Cell("openrlhf", "dpo", "pairs", *SYSTEMS, PROMPTS + TEMPLATE),
    Cell("openrlhf", "dpo", "pairs", *SYSTEMS, "--data.prompt_key prompt --data.dataset", "Lists need the template."),
    Cell("openrlhf", "dpo", "reward", *SYSTEMS, TEMPLATE, "Without `--data.prompt_key` no prompt."),
    Cell("openrlhf", "reward", "reward", *SYSTEMS, TEMPLATE),
    Cell("verl", "sft", "sft", *TOOLS, "data.messages_key=messages data.train_files=", "Empty calls become NA."),
    Cell("verl", "as-made", "rl", "verified", "rl", "data.prompt_key=prompt data.train_files=", "A prompt is no text."),
    Cell("torchtune", "sft", "sft", *TOOLS, {"_component_": f"{TUNE}.chat_dataset", **CHAT}, "No tools."),
    Cell("torchtune", "dpo", "pairs", *SYSTEMS, {"_component_": f"{TUNE}.preference_dataset"}, "`prompt` is not read."),
    Cell("torchtune", "reward", "pairs", *SYSTEMS, {"_component_": f"{TUNE}.preference_dataset"}),
    Cell("mlx-lm", "sft", "sft", *TOOLS, "", "It looks for `train.jsonl`."),
    Cell("nemo-rl", "sft", "sft", *TOOLS, OPENAI, "It reads lines of JSON, not Parquet."),
    Cell("nemo-rl", "dpo", "pairs", *SYSTEMS, {"dataset_name": "PreferenceDataset"}, "It wants ranked completions."),
    Cell("trl", "sft", "sft", *TOOLS, "", "Arguments are a text, which a template encodes as JSON once more."),
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
    elif cell.reader == "nemo-rl":
        train = {"train": {**dict(settings), "data_path": file}}
        (folder / f"{cell.label}.yaml").write_text(yaml.safe_dump({"data": train}))
    elif settings:
        between = "" if str(settings).endswith("=") else " "
        (folder / "train.sh").write_text(f"# {cell.label}\ntrain {settings}{between}{file}\n")


def format_exports(reader: str, runs: Mapping[str, Path], folder: Path) -> Iterator[tuple[Cell, Job]]:
    """The formats that a reader's cells name, exported."""
    for place, cell in enumerate(cell for cell in CELLS if cell.reader == reader):
        to = folder / "exports" / reader / f"format-{place}"
        refusal = export_with(folder / "runs", cell.run, to, "--format", cell.format)
        if refusal:
            raise SystemExit(refusal)
        configure(cell, to)
        rows = expected(runs[cell.run], cell.table, cell.use)
        yield cell, Job(cell.run, cell.table, cell.use, cell.label, to, rows)
