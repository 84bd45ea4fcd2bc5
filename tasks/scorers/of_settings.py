"""A scorer's settings to its stage."""

from typing import Any

from schemas.calls import Sampling
from schemas.scorer_settings import HELPFUL, ScorerSettings
from tasks.posting import read_api_key
from tasks.running.job import Stage
from tasks.scorers.functions import HttpScores, PythonScores, R3Scores, WeightedScores
from tasks.scorers.judges import DirectScores, ExpectedScores, PairwiseScores, TournamentScores, one_token
from tasks.scorers.reward_models import RewardModelScores


def scorer_stage(settings: ScorerSettings, embedder: str, seed: int, answers: int = 1) -> Stage:
    """The stage that adds this score to pools. answers: the most a pool has, for plans. Raises InputError."""
    label = settings.label
    common: dict[str, Any] = {"label": label, "role": settings.role, "most_answers": answers}
    said = Sampling(temperature=settings.temperature, top_p=1.0, max_tokens=settings.max_tokens, seed=seed)
    rubric = settings.rubric
    match settings.kind:
        case "r3":
            return R3Scores.with_embedder(embedder, label=label, form=settings.form)
        case "judge" | "rubric":
            by = {"evaluations": settings.evaluations, "attempts": settings.attempts}
            given = (rubric or HELPFUL) if settings.kind == "rubric" else None
            return DirectScores(**common, **by, sampling=said, rubric=given)
        case "expected":
            return ExpectedScores(**common, sampling=one_token(said))
        case "pairwise" | "tournament":
            compared: dict[str, Any] = {
                "sampling": said if rubric else one_token(said),
                "attempts": settings.attempts,
                "rubric": rubric,
            }
            if settings.kind == "tournament":
                return TournamentScores(**common, **compared)
            return PairwiseScores(**common, **compared, opponents=settings.opponents)
        case "reward-model":
            return RewardModelScores.of(settings)
        case "weighted":
            return WeightedScores(label=label, weights=settings.weights or {})
        case "python":
            return PythonScores.of(settings.function, label)
        case _:
            read_api_key(settings.url, settings.api_key_env)
            return HttpScores(label=label, url=settings.url, api_key_env=settings.api_key_env)
