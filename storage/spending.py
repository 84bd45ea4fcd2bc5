"""What a job has spent, by the call store, which also holds the answers of killed runs."""

from synthmill.schemas.budget import BudgetSettings, Usage, usage_of
from synthmill.storage.artifacts import Store
from synthmill.storage.runs import runs
from synthmill.storage.segments import spent_in


def spent_by(store: Store, job: str, prices: BudgetSettings) -> dict[str, Usage]:
    """What all runs of a job have spent, by step."""
    run_ids = {run.id for run in runs(store) if run.job == job}
    usage: dict[str, Usage] = {}
    if not run_ids:
        return usage
    for (run, _, step, _, engine), (calls, prompt_tokens, completion_tokens, _) in spent_in(store.calls).items():
        if run in run_ids:
            cost = usage_of(prices, engine, int(calls), int(prompt_tokens), int(completion_tokens))
            usage[step] = usage.get(step, Usage()).plus(cost)
    return usage
