"""verifiers: the tasks of the taskset beside the rows, and the rewards that each gives a trace with the reference
answer and one with another.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reading import Row, functions_of, main


def read(export: Path, tokenizer: Any, job: dict[str, Any]) -> Iterator[Row]:
    defined = functions_of(export / "taskset.py")
    tasks = defined["VerifiedTaskset"](defined["VerifiedConfig"](file=export / job["table"] / "train.jsonl"))
    for task in tasks:
        chat = [{"role": message.role, "content": message.content} for message in task.data.prompt]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        answers = f"So:\n{task.data.row['answer']}", "I do not know."
        yield {"text": text, "columns": task.data.row, "rewards": [reward(task, answer) for answer in answers]}


def reward(task: Any, answer: str) -> float:
    """The reward of a trace that ends in an answer."""
    import verifiers.v1 as vf
    from verifiers.v1.trace import AgentInfo, TraceTask

    about = TraceTask(type=type(task).__name__, data=task.data)
    trace = vf.Trace(task=about, agent=AgentInfo(config=vf.AgentConfig()), root_reply=answer)
    asyncio.run(task.score(trace))
    return float(trace.rewards["verified"].value)


if __name__ == "__main__":
    main(read)
