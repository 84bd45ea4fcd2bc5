"""Instructions rewritten by principles, by Monte Carlo tree search. Source: docs/papers.md#p-aligner."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from math import log, sqrt
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from synthmill.schemas.calls import Completion, Frozen, Request, Sampling
from synthmill.schemas.errors import Drop
from synthmill.schemas.hashing import child_id, digest
from synthmill.schemas.pools import Question
from synthmill.schemas.rows import Dropped
from synthmill.tasks.frames import FrameStage
from synthmill.tasks.generators.answers import answer_request
from synthmill.tasks.prompts import load
from synthmill.tasks.recipe import MOST_ATTEMPTS, Recipe, Steps, ask_each
from synthmill.tasks.scorers.expected import expected_digit
from synthmill.tasks.scorers.labels import one_token
from synthmill.tasks.scorers.verdicts import present_mean
from synthmill.tasks.texts.prompt_faults import check_prompt
from synthmill.tasks.texts.words import words_of

PRINCIPLES = {
    "context": "Add the background that the request takes for granted, as far as it can be told from the request.",
    "precision": "Replace vague words by what they stand for, so that the request can be read in one way only.",
    "form": "Say in which form the answer is wanted: its length, its parts, its format.",
    "steps": "Where the task has several parts, name them in the order in which they are to be done.",
    "audience": "Say for whom the answer is, and in which tone.",
    "limits": "Say what the answer must keep to, and what it must leave out.",
    "honesty": "Ask that doubts and missing facts be named, instead of guessed.",
    "safety": "Where the request could do harm, turn it to the harmless purpose behind it.",
    "brevity": "Leave out what does not matter for the answer.",
}
"""Ours: the paper's eight areas of missing context, ambiguity and tone are not printed in what we have of it."""


class TreeNode(Frozen):
    """One form of an instruction. parent: its place in the tree, -1 for the raw one; principle: what it was rewritten
    by; reward: the mean score of responses to it, judged against the raw instruction; value: the mean reward of it and
    everything below; visits: how often the search came by.
    """

    parent: int
    principle: str
    instruction: str
    reward: float
    value: float
    visits: int


class InstructionTree(Question):
    """A raw instruction with its tree; the first node is itself, and `best` the place of the node with the highest
    reward, of equal ones the first.
    """

    nodes: tuple[TreeNode, ...]
    best: int
    iterations: int


@dataclass
class Branch:
    """A node while the search runs: the rewards that came up through it, its children's places, and the principles that
    were tried on it.
    """

    parent: int
    principle: str
    instruction: str
    reward: float
    rewards: list[float] = field(default_factory=list)
    children: list[int] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)


def uct(branch: Branch, visits: int, weight: float) -> float:
    """Q + w sqrt(ln N / n): Q the mean reward of a node and all below it, n how often it was visited, N its parent."""
    return mean(branch.rewards) + weight * sqrt(log(visits) / len(branch.rewards))


class InstructionTrees(Recipe[Question, InstructionTree]):
    """Instruction -> a tree of its rewritings. In each of `iterations` steps the search goes down by UCT to a node with
    a principle that was not tried, has it rewritten by that principle, has `samples` responses to it judged from 0 to
    9 against the raw instruction, and adds their mean to all nodes above. A
    judgement is one token: the expected digit under its probabilities.

    A rewriting that has a fault, or whose responses cannot be judged, is no node; its principle counts as tried. Drops:
    not_judged, where this is so for the raw instruction.
    """

    name: ClassVar = "instruction_trees"
    version: ClassVar = "2"
    roles: ClassVar = ("rewriter", "student", "judge")
    prompts: ClassVar = {
        "p_aligner/rewrite": ("principle", "instruction"),
        "pools/digit": ("answer",),
    }

    principles: dict[str, str] = Field(default_factory=lambda: dict(PRINCIPLES), min_length=1)
    iterations: int = Field(10, ge=1)
    weight: float = Field(1.0, ge=0, description="w: how much is explored")
    samples: int = Field(2, ge=1, description="responses to an instruction")
    most_children: int = Field(3, ge=1, description="of a node, before the search goes on below it")
    judging: Sampling = one_token(0)
    responding: Sampling = Sampling()
    attempts: int = Field(3, ge=1, le=MOST_ATTEMPTS)

    def requests_per_row(self) -> int:
        return (self.iterations + 1) * self.samples * 2 + self.iterations * self.attempts

    def tokens_per_row(self) -> int:
        tokens = self.responding.planned_tokens + self.judging.planned_tokens
        return self.iterations * (self.sampling.planned_tokens + self.samples * tokens)

    def steps(self, row: Question) -> Steps[InstructionTree]:
        reward = yield from self.reward_of(row, row.prompt)
        if reward is None:
            raise Drop("not_judged: no response to the instruction could be judged")
        tree = [Branch(-1, "", row.prompt, reward, [reward])]
        iterations = 0
        for _ in range(self.iterations):
            place = self.select(tree)
            if place is None:
                break
            iterations += 1
            parent, principle = tree[place], self.next_principle(tree, place)
            parent.tried.add(principle)
            instruction = yield from self.rewrite(row, parent.instruction, principle)
            reward = (yield from self.reward_of(row, instruction)) if instruction else None
            if instruction is None or reward is None:
                continue
            parent.children.append(len(tree))
            tree.append(Branch(place, principle, instruction, reward))
            climb = len(tree) - 1
            while climb >= 0:
                tree[climb].rewards.append(reward)
                climb = tree[climb].parent
        nodes = tuple(
            TreeNode(
                parent=branch.parent,
                principle=branch.principle,
                instruction=branch.instruction,
                reward=branch.reward,
                value=mean(branch.rewards),
                visits=len(branch.rewards),
            )
            for branch in tree
        )
        best = max(range(len(nodes)), key=lambda place: (nodes[place].reward, -place))
        return InstructionTree.child_of(row, self.name, nodes=nodes, best=best, iterations=iterations)

    def select(self, tree: Sequence[Branch]) -> int | None:
        """The place of the node to expand: from the root, the child with the highest UCT, of equal ones the first,
        until a node takes another child. None where no node does.
        """
        place = 0
        while not self.next_principle(tree, place):
            children = [child for child in tree[place].children if self.leads_on(tree, child)]
            if not children:
                return None
            visits = len(tree[place].rewards)
            place = max(children, key=lambda child: uct(tree[child], visits, self.weight))
        return place

    def leads_on(self, tree: Sequence[Branch], place: int) -> bool:
        """Whether a node, or one below it, takes another child."""
        return bool(self.next_principle(tree, place)) or any(
            self.leads_on(tree, child) for child in tree[place].children
        )

    def next_principle(self, tree: Sequence[Branch], place: int) -> str:
        """A principle that was not tried here, and by which nothing above was rewritten, drawn by the text. Empty where
        there is none, or `most_children` were tried.
        """
        if len(tree[place].tried) >= self.most_children:
            return ""
        used, climb = set(tree[place].tried), place
        while climb >= 0:
            used.add(tree[climb].principle)
            climb = tree[climb].parent
        text = tree[place].instruction
        return min(self.principles.keys() - used, key=lambda name: digest([text, name]), default="")

    def rewrite(
        self, row: Question, instruction: str, principle: str
    ) -> Generator[list[Request], list[Completion], str | None]:
        """The instruction after a principle; None where every attempt has a fault, or changes nothing."""
        messages = load("p_aligner/rewrite").render(
            row=row, instruction=instruction, principle=self.principles[principle]
        )
        request = Request(role="rewriter", messages=messages, sampling=self.sampling, optional=True)

        def parse(_: int, completion: Completion) -> str:
            if completion.error or completion.finish_reason == "length":
                raise Drop(completion.error or "cut: it was too long; be shorter")
            text = check_prompt(completion.text.strip().strip('"'))
            if words_of(text) in (words_of(instruction), words_of(row.prompt)):
                raise Drop("unchanged: it was the same as before; apply the rule")
            return text

        [text], _ = yield from ask_each([request], self.attempts, parse)
        return text

    def reward_of(self, row: Question, instruction: str) -> Generator[list[Request], list[Completion], float | None]:
        """The mean score of responses to an instruction, judged against the raw one; None where none has a score."""
        asked = row.model_copy(update={"prompt": instruction})
        completions = yield answer_request(asked, "student", self.responding).sampled(self.samples)
        answers = [completion.text for completion in completions if not completion.error and completion.text.strip()]
        requests = [
            Request(
                role="judge",
                messages=load("pools/digit").render(row=row, answer=answer),
                sampling=self.judging,
                optional=True,
            )
            for answer in answers
        ]
        verdicts = (yield requests) if requests else []
        return present_mean([expected_digit(verdict) for verdict in verdicts])


class AlignedInstructions(FrameStage):
    """Trees -> (raw -> best) rows: prompt, completion, rewards, the principles on the way. Drops: no_better, where the
    best node gains less than `gain` over the raw instruction.
    """

    name: ClassVar = "aligned_instructions"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "prompt", "nodes", "best")
    adds: ClassVar = ("id", "parent_id", "prompt", "completion", "raw_reward", "best_reward", "principles", "level")

    gain: float = Field(0.0, ge=0, description="more than this; ours")

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        rows, drops = list[tuple[Any, ...]](), []
        for row_id, prompt, nodes, best in frame.select("id", "prompt", "nodes", "best").rows():
            before, after = nodes[0]["reward"], nodes[best]["reward"]
            if after - before <= self.gain:
                drops.append(Dropped(id=row_id, reason="no_better"))
                continue
            path, place = list[str](), best
            while place:
                path.insert(0, nodes[place]["principle"])
                place = nodes[place]["parent"]
            text = nodes[best]["instruction"]
            rows.append((child_id(row_id, self.name), row_id, prompt, text, before, after, path, len(path)))
        texts, numbers = dict.fromkeys(self.adds[:4], pl.String), dict.fromkeys(self.adds[4:6], pl.Float64)
        schema: dict[str, Any] = {**texts, **numbers, "principles": pl.List(pl.String), "level": pl.Int64}
        return pl.DataFrame(rows, schema=schema, orient="row"), drops


class InstructionPairs(FrameStage):
    """Trees -> (parent -> better child) pairs: under the raw instruction, the child's text over its parent's, with the
    principle between them and the child's level. Drops: no_pairs, where no child is better than its parent.
    """

    name: ClassVar = "instruction_pairs"
    version: ClassVar = "1"
    needs: ClassVar = ("id", "prompt", "nodes")
    adds: ClassVar = (
        *("id", "parent_id", "prompt", "chosen", "rejected", "principle", "level"),
        *("chosen_reward", "rejected_reward"),
    )

    gain: float = Field(0.0, ge=0, description="more than this; ours")

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        rows, drops = list[tuple[Any, ...]](), []
        for row_id, prompt, nodes in frame.select("id", "prompt", "nodes").rows():
            levels, before = [0], len(rows)
            for place, node in enumerate(nodes[1:], 1):
                parent = nodes[node["parent"]]
                levels.append(levels[node["parent"]] + 1)
                if node["reward"] - parent["reward"] > self.gain:
                    ids = (child_id(row_id, f"{self.name}-{place}"), row_id)
                    texts = (prompt, node["instruction"], parent["instruction"], node["principle"])
                    rows.append((*ids, *texts, levels[-1], node["reward"], parent["reward"]))
            if len(rows) == before:
                drops.append(Dropped(id=row_id, reason="no_pairs"))
        columns, rewards = dict.fromkeys(self.adds[:6], pl.String), dict.fromkeys(self.adds[7:], pl.Float64)
        schema: dict[str, Any] = {**columns, "level": pl.Int64, **rewards}
        return pl.DataFrame(rows, schema=schema, orient="row"), drops
