"""The files of reward functions that lie beside rows for RL: they call the verifiers that the rows name.

`synthmill.verify(NAME, answer, reference, **arguments)` gives (score from 0 to 1 or None, reason).
"""

SHARED = '''"""Rewards from the verifiers that the rows name; needs `pip install synthmill`."""

import json

import synthmill


def score(verifier, answer, reference, arguments):
    """The verifier's score from 0 to 1; None where the answer cannot be judged."""
    name = (verifier or "exact").removeprefix("verify:")
    return synthmill.verify(name, answer, reference or "", **json.loads(arguments or "{}"))[0]
'''
TRL_REWARDS = (
    SHARED
    + '''

def verified(completions, answer, verifier, verifier_arguments, **columns):
    """For GRPOTrainer(reward_funcs=verified): a score for each completion, None where there is none."""
    return [score(*row) for row in zip(verifier, completions, answer, verifier_arguments, strict=True)]
'''
)
VERL_REWARDS = (
    SHARED
    + '''

def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    """For verl's custom_reward_function; an answer that cannot be judged scores 0."""
    row = extra_info or {}
    return score(row.get("verifier"), solution_str, ground_truth, row.get("verifier_arguments")) or 0.0
'''
)
OPENRLHF_REWARDS = (
    SHARED
    + '''

def reward_func(queries, prompts, labels, **_):
    """For OpenRLHF's --reward.remote_url; a label is JSON with answer, verifier and verifier_arguments."""
    import torch

    rewards = []
    for query, prompt, label in zip(queries, prompts, labels, strict=True):
        row = json.loads(label)
        answer = query.removeprefix(prompt)
        rewards.append(score(row["verifier"], answer, row["answer"], row["verifier_arguments"]) or 0.0)
    scores = torch.tensor(rewards)
    return {"rewards": scores, "scores": scores, "extra_logs": {}}
'''
)
TASKSET = (
    SHARED.replace(
        "import json\n\nimport synthmill",
        "import json\nfrom pathlib import Path\n\nimport synthmill\nimport verifiers.v1 as vf",
    )
    + """

class VerifiedConfig(vf.TasksetConfig):
    file: Path


class VerifiedData(vf.TaskData):
    row: dict


class VerifiedTask(vf.Task[VerifiedData, vf.State, vf.TaskConfig]):
    @vf.reward
    async def verified(self, trace) -> float:
        row = self.data.row
        reply = trace.last_reply
        return score(row["verifier"], reply, row["answer"], row["verifier_arguments"]) or 0.0


class VerifiedTaskset(vf.Taskset[VerifiedTask, VerifiedConfig]):
    def load(self):
        with self.config.file.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                prompt = [{"role": turn["role"], "content": turn["content"]} for turn in row.pop("prompt")]
                yield VerifiedTask(VerifiedData(id=row["id"], prompt=prompt, row=row), self.config.task)
"""
)
