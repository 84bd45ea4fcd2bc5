"""verifiers: a taskset that yields a task for each row, rewarded by the verifier that the row names.

Read: verifiers 0.4.0, v1/task.py, v1/taskset.py.
"""

from collections.abc import Iterator, Sequence

from synthmill.storage.published.forms.reward_functions import TASKSET
from synthmill.storage.published.trainer import NO_TOOLS, Form, Trainer, Written


def beside(tables: Sequence[Written]) -> dict[str, bytes]:
    return {"taskset.py": TASKSET.encode()}


def readme(tables: Sequence[Written]) -> Iterator[str]:
    names = ", ".join(f"`{table.name}`" for table in tables)
    yield f'- `VerifiedTaskset(VerifiedConfig(file="NAME/train.jsonl"))` of `taskset.py`, NAME {names}'


TRAINER = Trainer("verifiers", "0.4.0", {"rl": Form(lambda rows: rows, NO_TOOLS)}, readme, beside, one_file=True)
