"""FLASK: each prompt's three most needed skills, each answer's score under each. Source: docs/papers.md#flask."""

import random
import re
from collections.abc import Iterable, Sequence
from functools import partial
from statistics import mean
from typing import ClassVar, Literal

import polars as pl
import pyarrow as pa
from pydantic import Field

from synthmill.schemas.calls import Completion, Sampling
from synthmill.schemas.column_names import check_free
from synthmill.schemas.errors import Drop
from synthmill.schemas.pools import JudgedPool, ScoredPool
from synthmill.schemas.texts import normalised
from synthmill.storage.published.configurations import Figure
from synthmill.tasks.recipe import Steps
from synthmill.tasks.scorers.each_answer import AnswerJudge, mean_of_named, part_label
from synthmill.tasks.scorers.flask_skills import DIFFICULTIES, DOMAINS, SKILLS
from synthmill.tasks.scorers.judgements import Judgements
from synthmill.tasks.scorers.judges import Attempts, JudgeSettings, MaxTokens
from synthmill.tasks.scorers.named_scores import read_scores, scores_schema
from synthmill.tasks.scorers.scoring import ScoringContext
from synthmill.tasks.scorers.verdicts import HIGHEST, LOWEST, present_mean

ANNOTATING = 0.2  # the temperature of skills, domain and difficulty
LISTED = re.compile(r"\[([^\[\]]*)\]")
INDEX = re.compile(r"[\s\"'`]*(\d{1,2})\s*(?:[.):\"'`](?!\d).*)?$", re.DOTALL)
ASKED = {
    "skills": "Which of these skills does a good answer to it need most?",
    "domain": "Which of these fields does it belong to?",
    "difficulty": "How much knowledge does it take to answer it well?",
}
KEYS = {skill: skill.lower().replace(" ", "_") for skill in SKILLS}


class FlaskPool(JudgedPool):
    """A pool with what FLASK says of its prompt; empty where that could not be read."""

    skills: tuple[str, ...] = ()
    domain: str = ""
    difficulty: str = ""


class FlaskScores(AnswerJudge):
    """Pools -> the same with the prompt's `skills` (the three most needed of twelve), `domain` and `difficulty`, and
    each answer's score from 1 to 5 under each of these skills, called LABEL_SKILL; LABEL is their mean.

    The options of each question are shuffled by the prompt's id. Where skills could not be read, nothing is scored.
    """

    name: ClassVar = "flask_scores"
    version: ClassVar = "1"
    roles: ClassVar = ("judge",)
    prompts: ClassVar = {"flask/annotate": ("question", "options", "most"), "flask/score": ("answer", "skills")}
    takes: ClassVar = ScoredPool
    makes: ClassVar = FlaskPool
    adds_own_columns: ClassVar = True

    label: str = "flask"
    most_skills: int = Field(3, ge=1, le=len(SKILLS))
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=512)

    def requests_per_row(self) -> int:
        return super().requests_per_row() + len(ASKED) * self.attempts

    def check_columns(self, columns: pa.Schema) -> None:
        check_free(f"stage {self.name}", ("skills", "domain", "difficulty"), columns.names)

    def steps(self, row: ScoredPool) -> Steps[JudgedPool]:
        judgements, annotating = Judgements(), self.sampling.model_copy(update={"temperature": ANNOTATING})
        options: dict[str, tuple[str, ...]] = {"skills": tuple(SKILLS), "domain": DOMAINS}
        options = {what: shuffled(names, f"{row.id} {what}") for what, names in options.items()}
        options["difficulty"] = tuple(DIFFICULTIES)
        most = {"skills": self.most_skills, "domain": 1, "difficulty": 1}
        about = {skill: rubric.question for skill, rubric in SKILLS.items()} | DIFFICULTIES
        requests = []
        for what, question in ASKED.items():
            described = {name: about.get(name, "") for name in options[what]}
            request = self.ask_for("flask/annotate", row, question=question, options=described, most=most[what])
            requests.append(request.model_copy(update={"sampling": annotating}))
        parses = [partial(pick_of, options=options[what], most=most[what]) for what in ASKED]
        picks = yield from judgements.ask_apart(requests, self.attempts, parses)
        annotations = dict(zip(ASKED, picks, strict=True))
        skills = annotations["skills"] or ()
        parts: dict[str, list[float | None]] = {}
        if skills:
            keys = [KEYS[skill] for skill in skills]
            verdicts = yield from self.judge_answers(
                row,
                judgements,
                lambda completion: read_scores(completion, keys, LOWEST, HIGHEST),
                "flask/score",
                scores_schema(keys, LOWEST, HIGHEST),
                skills={KEYS[skill]: (skill, SKILLS[skill]) for skill in skills},
            )
            parts = mean_of_named(verdicts, keys, LOWEST)
        means = [present_mean([values[n] for values in parts.values()]) for n in range(len(row.answers))]
        pool = self.with_parts(row, means, parts, judgements)
        [domain], [difficulty] = (annotations[what] or ("",) for what in ("domain", "difficulty"))
        return FlaskPool(**pool.__dict__, skills=skills, domain=domain, difficulty=difficulty)

    figure_columns: ClassVar = ("answers", "scores", "skills", "domain", "difficulty")

    def figures(self, batches: Iterable[pl.DataFrame]) -> list[Figure]:
        """The mean score by skill, by domain and by difficulty, for each policy."""
        by: dict[str, dict[str, dict[str, list[float]]]] = {what: {} for what in ASKED}
        for row in (row for batch in batches for row in batch.iter_rows(named=True)):
            policies = [answer["policy"] or "answers" for answer in row["answers"]]
            values = {score["scorer"]: score["values"] for score in row["scores"]}
            groups = [("skills", skill, values.get(part_label(self.label, KEYS[skill]))) for skill in row["skills"]]
            groups += [(what, row[what], values[self.label]) for what in ("domain", "difficulty") if row[what]]
            for what, name, of_answers in groups:
                for policy, value in zip(policies, of_answers or (), strict=False):
                    if value is not None:
                        by[what].setdefault(name, {}).setdefault(policy, []).append(value)
        order = {"skills": tuple(SKILLS), "domain": DOMAINS, "difficulty": tuple(DIFFICULTIES)}
        titles = {"skills": "skill"}
        return [
            means_figure(f"{self.label} by {titles.get(what, what)}", titles.get(what, what), order[what], of)
            for what, of in by.items()
            if of
        ]


class FlaskSettings(JudgeSettings):
    """A judge's scores from 1 to 5 under the three skills, of FLASK's twelve, that a prompt needs most."""

    kind: Literal["flask"] = "flask"
    most_skills: int = Field(3, ge=1, le=len(SKILLS), description="skills of a prompt; the paper's 3")
    evaluations: int = Field(1, ge=1, le=1000, description="judgements of an answer, averaged")
    attempts: Attempts = 3
    max_tokens: MaxTokens = 512
    temperature: float = Field(0.0, ge=0, description="of scores; the skills are asked for at 0.2")

    @property
    def labels(self) -> tuple[str, ...]:
        return (*(part_label(self.label, key) for key in KEYS.values()), self.label)

    def stage(self, context: ScoringContext) -> FlaskScores:
        return FlaskScores(
            **self.shared_fields(context),
            **{name: getattr(self, name) for name in ("most_skills", "evaluations", "attempts")},
            sampling=Sampling(temperature=self.temperature, top_p=1.0, max_tokens=self.max_tokens, seed=context.seed),
        )


def shuffled(names: Sequence[str], seed: str) -> tuple[str, ...]:
    return tuple(random.Random(seed).sample(names, len(names)))


def pick_of(completion: Completion, options: Sequence[str], most: int) -> tuple[str, ...] | None:
    """The options that were picked; None where the judge could not be asked. Raises Drop."""
    return None if completion.error else picked(completion, options, most)


def picked(completion: Completion, options: Sequence[str], most: int) -> tuple[str, ...]:
    """The options in an answer's list, `[3, 7]`, by name or by index from 1 in the order that was shown; the first
    `most` of them, each once. What is no option is left out. Raises Drop where nothing remains, and for two lists that
    differ.
    """
    lists = dict.fromkeys(re.sub(r"\s+", " ", text.strip()) for text in LISTED.findall(completion.text))
    if len(lists) != 1:
        fault = "several lists" if lists else "no list"
        raise Drop(f"no_pick: it had {fault}; reply with one list in brackets, for instance [1]")
    by_name = {normalised(name): name for name in options}
    names = []
    for item in next(iter(lists)).split(","):
        index = INDEX.match(item)
        if index and 1 <= int(index[1]) <= len(options):
            names.append(options[int(index[1]) - 1])
        elif not index and (name := by_name.get(normalised(item.strip(" \"'`*")))):
            names.append(name)
    if not names:
        raise Drop(f"no_pick: nothing in its list was an option; name numbers from 1 to {len(options)}")
    return tuple(dict.fromkeys(names))[:most]


def means_figure(title: str, head: str, order: Sequence[str], values: dict[str, dict[str, list[float]]]) -> Figure:
    """A table of means and counts, a row for each name that has any. values: name -> policy -> scores."""
    policies = list(dict.fromkeys(policy for of in values.values() for policy in of))
    rows = []
    for name in (name for name in order if name in values):
        means = [f"{mean(of):.2f}" if (of := values[name].get(policy)) else "" for policy in policies]
        rows.append((name, *means, f"{sum(map(len, values[name].values())):,}"))
    return Figure(title, (head, *policies, "scores"), tuple(rows))
