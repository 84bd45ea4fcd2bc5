"""NeMo RL: the dataset class that a table's settings name, its processor and its loss mask.

It is on no package index (nemo-rl 0.0.0 is a placeholder): its sources are a checkout's.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reading import Row, decoded, main, settings


def read(export: Path, tokenizer: Any, job: dict[str, Any]) -> Iterator[Row]:
    from nemo_rl.data.datasets.preference_datasets import load_preference_dataset
    from nemo_rl.data.datasets.response_datasets import load_response_dataset
    from nemo_rl.data.llm_message_utils import add_loss_mask_to_message_log
    from nemo_rl.data.processors import math_hf_data_processor, preference_preprocessor, sft_processor

    os.chdir(export)
    chosen_settings = settings(export, job["table"])
    config = chosen_settings["data"]["train"]
    last_only = chosen_settings.get("sft", {}).get("only_unmask_final", False)
    if job["kind"] in ("pairs", "reward"):
        loaded = load_preference_dataset(config)
        for place, row in enumerate(loaded.dataset):
            pair = preference_preprocessor(row, loaded.task_spec, tokenizer, 8192, place)
            logs = [pair["message_log_chosen"], pair["message_log_rejected"]]
            add_loss_mask_to_message_log(logs, only_unmask_final=True)
            chosen, rejected = (of_log(tokenizer, log) for log in logs)
            yield {"chosen": chosen, "rejected": rejected}
        return
    loaded = load_response_dataset(config)
    for place, row in enumerate(loaded.dataset):
        if job["kind"] == "sft":
            log = sft_processor(row, loaded.task_spec, tokenizer, 8192, place)["message_log"]
            add_loss_mask_to_message_log([log], only_unmask_final=last_only)
            yield of_log(tokenizer, log)
        else:
            prompt = math_hf_data_processor(row, loaded.task_spec, tokenizer, 8192, place)
            yield {"text": prompt["message_log"][0]["content"], "columns": prompt["extra_env_info"]}


def of_log(tokenizer: Any, log: list[Row]) -> Row:
    tokens = [token for message in log for token in message["token_ids"].tolist()]
    mask = [bool(trained) for message in log for trained in message["token_loss_mask"].tolist()]
    return decoded(tokenizer, tokens, mask)


if __name__ == "__main__":
    main(read)
