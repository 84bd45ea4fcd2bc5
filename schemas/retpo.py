"""Rows of conversational search: turns with their relevant passages, candidate queries, and where these bring the
passages up.
"""

from typing import Literal

from pydantic import Field

from synthmill.schemas.calls import Frozen, Message
from synthmill.schemas.rows import Row, Thinking

Method = Literal["rewrite", "plan", "expand"]
KeywordMethod = Literal["ensemble", "fusion"]
FUSION = "fusion"
"""Marks a candidate of several queries, one a line, whose lists a retriever fuses."""
Form = Literal["question", "user_turns", "history", "human_rewrite"]


class Passage(Row):
    """A passage of a corpus; its place there is its number in every index."""

    title: str
    text: str

    @property
    def indexed(self) -> str:
        """What retrievers see."""
        return f"{self.title}\n{self.text}" if self.title else self.text


class Gold(Frozen):
    """A passage that answers a question. place: its number in the corpus; negative: it is not there."""

    passage: str
    relevance: int = Field(1, description="graded; a passage with 0 or less is not relevant")
    place: int = -1


class Turn(Row):
    """A question in a conversation. turn: counted from 1; 0: a query of its own, outside any conversation.

    history: the messages before it. topic: what the turn is about, where the dataset says so. answer: the reference.
    """

    conversation: str
    turn: int
    history: tuple[Message, ...]
    question: str
    gold: tuple[Gold, ...]
    human_rewrite: str | None = None
    answer: str | None = None
    topic: str = ""
    turn_type: str = ""
    source: str = ""


class Candidate(Frozen):
    """One query for a turn, and everything it came from: methods, forms, or the names that a file gives.

    number: its place before equal strings were joined; runs know it as TURN-number. reasoning: what the model thought
    before it wrote this query and the others of its first method.
    """

    query: str
    methods: tuple[str, ...]
    number: int
    reasoning: Thinking = None


class WithCandidates(Turn):
    """A turn with its pool of queries, each string once."""

    candidates: tuple[Candidate, ...]


class Ranking(Frozen):
    """What one retriever makes of a turn's candidates, one entry per candidate, in their order.

    ranks: per candidate, the rank of each gold passage, counted from 1; depth + 1 for a miss. rewards: 1 / (rank + 1 -
    margin), 0 for a miss (docs/papers.md#retpo). above: places of passages that are not gold and stand above the best
    gold one, the first few.
    """

    retriever: str
    ranks: tuple[tuple[int, ...], ...]
    rewards: tuple[float, ...]
    above: tuple[tuple[int, ...], ...]


class WithRankings(WithCandidates):
    """... with every retriever's ranks so far."""

    rankings: tuple[Ranking, ...]


class SearchRow(Row):
    """What training rows say of their turn."""

    retriever: str
    conversation: str
    turn: int
    history: tuple[Message, ...]
    question: str


class Pick(SearchRow):
    """One of a turn's best queries. rank: of the best gold passage. place: its place among the turn's picks."""

    query: str
    methods: tuple[str, ...]
    rank: int
    place: int
    reasoning: Thinking = None


class QueryPair(SearchRow):
    """A query over one that brings the gold passages less far up.

    agreement: over the other retrievers, +1 where they prefer the chosen one, -1 where the rejected, 0 on a tie: their
    mean; null with one retriever.
    """

    chosen: str
    rejected: str
    chosen_rank: int
    rejected_rank: int
    chosen_reward: float
    rejected_reward: float
    agreement: float | None
    chosen_reasoning: Thinking = None
    rejected_reasoning: Thinking = None


class ParetoPair(SearchRow):
    """A query that no retriever ranks worse than another, and one at least better. Ranks in the order of `retrievers`;
    retriever: their names, joined.
    """

    chosen: str
    rejected: str
    retrievers: tuple[str, ...]
    chosen_ranks: tuple[int, ...]
    rejected_ranks: tuple[int, ...]
    chosen_reasoning: Thinking = None
    rejected_reasoning: Thinking = None


class HardNegative(SearchRow):
    """A passage that a poor query brings above the gold one: what a retriever should learn to tell from it.

    query: the turn's best query. rejected: the query that brought the passage up.
    """

    query: str
    rejected: str
    positive: str
    negative: str
