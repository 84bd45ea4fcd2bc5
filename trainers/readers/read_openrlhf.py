"""OpenRLHF: its three datasets, with the options of a table's command in train.sh."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from reading import Row, command, decoded, main


def read(export: Path, tokenizer: Any, job: dict[str, Any]) -> Iterator[Row]:
    from openrlhf.datasets import PromptDataset, RewardDataset, SFTDataset
    from openrlhf.datasets.utils import blending_datasets

    options = command(export, job["table"])
    keys = {name.removeprefix("--data."): value or True for name, value in options.items()}
    defaults = {"sft": {"input_key": "input"}, "prompts": {"input_key": "input"}, "rl": {"input_key": "input"}}
    data = SimpleNamespace(
        **{**defaults.get(job["kind"], {"chosen_key": "chosen", "rejected_key": "rejected"}), **keys}
    )
    strategy = SimpleNamespace(args=SimpleNamespace(data=data, use_ms=False), print=print, is_rank_0=lambda: True)
    path = str(export / (options.get("--data.dataset") or options["--data.prompt_dataset"]))
    rows = blending_datasets(path, None, strategy)
    if job["kind"] in ("prompts", "rl"):
        for source, prompt, label, _ in PromptDataset(rows, tokenizer, strategy):
            yield {"text": prompt, "columns": {"label": label, "datasource": source}}
    elif job["kind"] == "sft":
        chats = SFTDataset(rows, tokenizer, 8192, strategy, num_processors=1, multiturn="multiturn" in keys)
        for tokens, _, mask in (chats[place] for place in range(len(chats))):
            yield decoded(
                tokenizer, tokens[0].tolist(), [False, *(mask[0][:-1] > 0).tolist()]
            )  # each foretells the next
    else:
        of = RewardDataset(rows, tokenizer, 8192, strategy, is_dpo=job["kind"] == "pairs", num_processors=1)
        for chosen, _, rejected, _, extra in (of[place] for place in range(len(of))):
            start = extra if job["kind"] == "pairs" else None
            yield {
                side: decoded(tokenizer, tokens[0].tolist(), trained(tokens.shape[1], start))
                for side, tokens in (("chosen", chosen), ("rejected", rejected))
            }


def trained(length: int, start: int | None) -> list[bool]:
    """DPO compares what follows the prompt; a reward model reads everything and has no loss on tokens."""
    return [start is not None and place >= start for place in range(length)]


if __name__ == "__main__":
    main(read)
