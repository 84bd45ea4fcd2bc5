"""`datasets`: a Hub's dataset, as this environment's version loads it, a JSON line a configuration.

python read_hub.py OWNER/NAME CONFIGURATION ...        with HF_ENDPOINT set
"""

import json
import sys
from contextlib import redirect_stdout
from typing import Any

import datasets


def main(repository: str, configurations: list[str]) -> None:
    for name in configurations:
        answer: dict[str, Any] = {"version": datasets.__version__, "configuration": name}
        with redirect_stdout(sys.stderr):
            try:
                answer["rows"] = list(datasets.load_dataset(repository, name, split="train"))
            except Exception as error:
                answer["error"] = f"{type(error).__name__}: {error}"[:200]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
