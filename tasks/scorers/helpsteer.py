"""HelpSteer's attributes of an answer, or any others, from 0 to 4. Source: docs/papers.md#helpsteer."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from synthmill.schemas.calls import Completion, Sampling
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.tasks.recipe import Steps
from synthmill.tasks.scorers.each_answer import AnswerJudge, mean_of_named, part_label
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, JudgeSettings, MaxTokens
from synthmill.tasks.scorers.named_scores import REASONS, read_scores, scores_schema
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.scorers.weighted import HELPSTEER2, weighted_sum

LOWEST, HIGHEST = 0, 4
ATTRIBUTES = {
    "helpfulness": "How helpful is the response as a whole? 0: not at all. 4: the user has what was wanted.",
    "correctness": "Does it have all the facts that it needs, and no error? 0: all wrong. 4: right and complete.",
    "coherence": "Is it consistent and clearly said? 0: confused or contradictory. 4: clear from beginning to end.",
    "complexity": "How much expertise does it take to write it? 0: a child could. 4: only an expert could.",
    "verbosity": "How long is it for what was asked? 0: as short as can be. 4: very long and detailed.",
}
Names = Annotated[
    dict[Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")], str],
    Field(min_length=1, description="attribute -> what is asked about it, and what 0 and 4 mean"),
]
Calls = Annotated[Literal["one", "each"], Field(description="one: all attributes in a call; each: a call for each")]


class AttributeScores(AnswerJudge):
    """Pools -> the same with each answer's attributes, 0 to 4 each, in scores called LABEL_ATTRIBUTE; and their
    weighted sum, by HelpSteer2's weights, or 1 for other attributes. Each is a mean over `evaluations`.

    A judgement that lacks one attribute is asked for again; there is no sum where an attribute is missing. An empty
    answer has the lowest of everything without a call.
    """

    name: ClassVar = "attribute_scores"
    version: ClassVar = "1"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"helpsteer/score": ("answer", "attributes", "lowest", "highest")}

    label: str = "helpsteer"
    attributes: Names = ATTRIBUTES
    weights: dict[str, float] = Field(default_factory=dict, description="by attribute; default: HelpSteer2's, or 1")
    calls: Calls = "one"
    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=512)

    @model_validator(mode="after")
    def names_are_attributes(self) -> Self:
        check_attributes(self.attributes, self.weights)
        return self

    def requests_per_row(self) -> int:
        return super().requests_per_row() * len(self.groups())

    def groups(self) -> list[dict[str, str]]:
        """The attributes that are asked about together."""
        if self.calls == "one":
            return [dict(self.attributes)]
        return [{name: question} for name, question in self.attributes.items()]

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        judgements = Judgements()
        values: dict[str, list[float | None]] = {}
        for attributes in self.groups():
            names = list(attributes)

            def parse(completion: Completion, names: list[str] = names) -> dict[str, int] | None:
                return read_scores(completion, names, LOWEST, HIGHEST)

            verdicts = yield from self.judge_answers(
                row,
                judgements,
                parse,
                schema=scores_schema(names, LOWEST, HIGHEST),
                attributes=attributes,
                lowest=LOWEST,
                highest=HIGHEST,
            )
            values |= mean_of_named(verdicts, names, LOWEST)
        weights = {name: self.weights.get(name, HELPSTEER2.get(name, 1.0)) for name in values}
        of_answers = [dict(zip(values, numbers, strict=True)) for numbers in zip(*values.values(), strict=True)]
        return self.with_parts(row, [weighted_sum(each, weights) for each in of_answers], values, judgements)


class HelpSteerSettings(JudgeSettings):
    """A judge's scores for HelpSteer's five attributes, or any others, 0 to 4 each, and their weighted sum."""

    kind: Literal["helpsteer"] = "helpsteer"
    attributes: Names = ATTRIBUTES
    weights: dict[str, float] = Field(default_factory=dict, description="by attribute; default: HelpSteer2's, or 1")
    calls: Calls = "one"
    evaluations: int = Field(1, ge=1, le=1000, description="judgements of an answer, averaged")
    attempts: Attempts = 3
    max_tokens: MaxTokens = 512
    temperature: float = Field(1.0, ge=0, description="how far the evaluations of an answer may differ")

    @model_validator(mode="after")
    def names_are_attributes(self) -> Self:
        check_attributes(self.attributes, self.weights)
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        return (*(part_label(self.label, name) for name in self.attributes), self.label)

    def stage(self, context: ScoringContext) -> AttributeScores:
        return AttributeScores(
            **self.shared_fields(context),
            **{name: getattr(self, name) for name in ("attributes", "weights", "calls", "evaluations", "attempts")},
            sampling=Sampling(temperature=self.temperature, top_p=1.0, max_tokens=self.max_tokens, seed=context.seed),
        )


def check_attributes(attributes: dict[str, Any], weights: dict[str, float]) -> None:
    """Raises ValueError for a weight of no attribute, and for an attribute that is called as the reasons are."""
    if unknown := sorted(weights.keys() - attributes.keys()):
        raise ValueError(f"weights: there is no attribute {unknown[0]!r}; expected {', '.join(attributes)}")
    if REASONS in attributes:
        raise ValueError(f"attributes: {REASONS!r} is what a judgement's reasons are called; choose another name")
