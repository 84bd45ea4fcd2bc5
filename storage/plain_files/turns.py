"""Read conversational search: turns as MTRAG, TopiOCQA, QReCC and BEIR write them, passages, judgements.

a turn      history (or Context, input), question (or Question, text), gold (or Gold_passage, Truth_passages,
            positive_ctxs, contexts, or in a qrels file), and optionally human_rewrite (or Rewrite, Truth_rewrite),
            answer (or Answer, Truth_answer, reference_answer), topic, turn_type
a passage   _id (or id, docid), title, text (or contents)
qrels       TREC: query 0 passage relevance; or TSV with a header: query-id, corpus-id, score
"""

import re
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from synthmill.schemas.calls import Message
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.hashing import content_hash, file_checksum
from synthmill.schemas.messages import ROLE_FIELDS, SPELLINGS, content_in
from synthmill.schemas.retpo import Candidate, Gold, Passage, Turn, WithCandidates
from synthmill.schemas.texts import one_line
from synthmill.schemas.turn_settings import CorpusSettings, TurnSettings
from synthmill.storage.plain_files.forms import chat_in
from synthmill.storage.plain_files.lines import HUB, Line, lines_of, open_file, suffix_of, text_of
from synthmill.storage.plain_files.queries import QUERY
from synthmill.storage.plain_files.rows import VERSION, RowKind, id_of

IDS = ("task_id", "id", "_id", "qid", "query_id")
CONVERSATIONS = ("conversation", "conversation_id", "Conversation_no", "conv_id")
TURNS = ("turn", "Turn_no", "turn_id")
HISTORIES = ("history", "Context", "input")
QUESTIONS = ("question", "Question", "query", "text")
REWRITES = ("human_rewrite", "query_human_rewrite", "Truth_rewrite", "Rewrite", "rewrite")
ANSWERS = ("answer", "reference_answer", "Truth_answer", "Answer")
GOLD = ("gold", "Gold_passage", "Truth_passages", "positive_ctxs", "contexts")
PASSAGE_IDS = ("_id", "id", "docid", "passage_id", "document_id", "pid")
TEXTS = ("text", "contents")
SPEAKERS: dict[str, Any] = {name: role for name, role in SPELLINGS.items() if role in ("user", "assistant")} | {
    "system": "assistant"  # the search system that answers the user
}
QREL_COLUMNS = (
    ("query-id", "qid", "query", "topic"),
    ("corpus-id", "docid", "doc-id", "docno", "passage", "passage-id"),
    ("score", "relevance", "rel", "label"),
)
MARKER = re.compile(r"\|(user|agent|assistant)\|:")
NUMBERED = re.compile(r"^[QA]\d+: ")  # how some QReCC files mark the lines of a context
NUMBER = re.compile(r"[-+]?[\d.]+")
Qrels = Mapping[str, Mapping[str, int]]


def turns_kind(qrels: str, *, alone: bool = False) -> RowKind:
    """How turns are read, with relevance from a file of judgements if `qrels` names one. Raises InputError."""
    key = file_checksum(Path(qrels).expanduser()) if qrels and Path(qrels).expanduser().is_file() else ""
    read = partial(turn_of, qrels=read_qrels(Path(qrels).expanduser()) if qrels else None, alone=alone)
    return RowKind("turns", Turn, read, lambda _: (*QUESTIONS, "input"), turn_length, key)


def queries_kind(qrels: str) -> RowKind:
    """How plain queries are read: id and query, or a map `candidates` of named queries."""
    kind = turns_kind(qrels, alone=True)
    return kind._replace(
        stage="queries",
        model=WithCandidates,
        read=partial(query_of, read=kind.read),
        columns=lambda _: ("query", "text", "question", "candidates"),
    )


def turn_length(turn: Turn) -> int:
    return len(turn.question) + sum(len(message.content) for message in turn.history)


def first_of(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first of these fields that has a value; None without one."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def turn_of(line: Line, _: TurnSettings, qrels: Qrels | None, alone: bool = False) -> Turn:
    """One raw row as a turn; raises Drop: no_gold, empty_history, empty_question and others. alone: its queries are in
    the row, so that it needs no history.
    """
    if line.fields is None:
        raise Drop(line.fault)
    fields = with_question(line.fields)
    messages = history_of(first_of(fields, HISTORIES))
    question = first_of(fields, QUESTIONS)
    if question is None and "input" in fields and messages:
        question = messages.pop().content  # MTRAG's input ends with the question
    messages, question = split_marked_question(messages, text_of(question, "question"))
    if not question:
        raise Drop("empty_question")
    number = whole_number(first_of(fields, TURNS))
    conversation = id_of(first_of(fields, CONVERSATIONS))
    if number is None:
        number = 1 + sum(message.role == "user" for message in messages) if messages or conversation else 0
    if number > 1 and not messages and not alone:
        raise Drop(f"empty_history: turn {number} has nothing before it")
    name = name_of_turn(fields, conversation, number, qrels)
    name = name or content_hash([question, [message.content for message in messages]])[:24]
    relevant = relevant_passages(fields, name, qrels)
    enriched = fields.get("enrichments")
    kinds = fields.get("turn_type") or first_of(enriched if isinstance(enriched, dict) else fields, ("Multi-Turn",))
    return Turn(
        id=name,
        conversation=conversation or name,
        turn=max(1, number) if conversation else number,
        history=tuple(messages),
        question=question,
        gold=tuple(Gold(passage=passage, relevance=relevance) for passage, relevance in relevant),
        human_rewrite=optional_text(fields, REWRITES),
        answer=optional_text(fields, ANSWERS) or answer_of(fields.get("targets")),
        topic=optional_text(fields, ("topic", "Topic")) or "",
        turn_type=optional_text(
            {"turn_type": kinds[0] if isinstance(kinds, list) and kinds else kinds or None}, ("turn_type",)
        )
        or "",
        source=optional_text(fields, ("domain", "source")) or "",
    )


def with_question(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """A turn's fields; a chat in another tool's form gives its last question, what came before, and what was answered.
    Raises Drop.
    """
    chat = chat_in(fields) if first_of(fields, QUESTIONS) is None else None
    if chat is None:
        return fields
    turns = [message for message in chat.messages if message["role"] in ("user", "assistant") and message["content"]]
    places = [place for place, message in enumerate(turns) if message["role"] == "user"]
    if not places:
        raise Drop("empty_question")
    last, answers = places[-1], turns[places[-1] + 1 :]
    answer = {"answer": answers[-1]["content"]} if answers else {}
    return {**answer, **chat.others, "history": turns[:last], "question": turns[last]["content"]}


def name_of_turn(fields: Mapping[str, Any], conversation: str, number: int, qrels: Qrels | None) -> str:
    """A turn's id, else its name in the judgements, else our own; empty for a turn without id and conversation."""
    name = id_of(first_of(fields, IDS))
    if name or not conversation:
        return name
    return next((name for name in names_of(conversation, number) if name in (qrels or ())), f"{conversation}_{number}")


def relevant_passages(fields: Mapping[str, Any], name: str, qrels: Qrels | None) -> list[tuple[str, int]]:
    """(passage, relevance) of a turn's relevant passages, from the judgements where there are any. Raises Drop."""
    gold = gold_of(fields) if qrels is None else [*qrels.get(name, {}).items()]
    relevant = [(passage, relevance) for passage, relevance in gold if relevance > 0]
    if not relevant:
        examples = f"; the judgements are of {', '.join(list(qrels)[:3])}, ..." if qrels else ""
        raise Drop(f"no_gold: no relevant passage is named for {name}{examples}")
    return relevant


def names_of(conversation: str, turn: int) -> list[str]:
    """A turn's possible names in judgements: ours, and those of the RetPO release for TopiOCQA and QReCC."""
    return [
        f"{conversation}_{turn}",
        f"{conversation}-{turn}",
        *(f"QReCC-{split}_{conversation}_{turn}" for split in ("Test", "Train", "Dev")),
    ]


def query_of(line: Line, source: TurnSettings, read: Any) -> WithCandidates:
    """A plain query, or one under several names, as a turn of its own. Raises Drop."""
    fields = line.fields or {}
    candidates = fields.get("candidates")
    if candidates is not None:
        if not isinstance(candidates, dict) or not candidates:
            raise Drop("bad_candidates: expected a map from names to queries")
        queries = [
            (str(name) or "query", text_of(query or "", "candidate").strip()) for name, query in candidates.items()
        ]
        if not any(query for _, query in queries):
            raise Drop("no_queries: every candidate is empty")
        question = first_of(fields, QUESTIONS) or next(query for _, query in queries if query)
        line = line._replace(fields={**fields, "question": question})
    turn = read(line, source)
    if candidates is None:
        queries = [("query", one_line(MARKER.sub(" ", str(first_of(fields, QUESTIONS) or turn.question))))]
    return WithCandidates(**turn.__dict__, candidates=unique_queries(queries))


def unique_queries(
    queries: list[tuple[str, str]], thoughts: Mapping[str, str] = MappingProxyType({})
) -> tuple[Candidate, ...]:
    """Candidates in order, each string once with all its names, without empty ones. thoughts: by name, what was thought
    before its queries were written.
    """
    names_by_query: dict[str, dict[str, int]] = {}
    for place, (name, query) in enumerate(queries):
        if query:
            names_by_query.setdefault(query, {}).setdefault(name, place)
    return tuple(
        Candidate(
            query=query,
            methods=tuple(names),
            number=min(names.values()),
            reasoning=thoughts.get(min(names, key=names.__getitem__)) or None,
        )
        for query, names in names_by_query.items()
    )


def history_of(history: Any) -> list[Message]:
    """Messages from {role or speaker, content or text}, from texts that alternate from the user's, or from the lines
    of one text. Raises Drop.
    """
    if isinstance(history, str):
        history = [NUMBERED.sub("", part) for part in history.split("\n") if part.strip()]
    if not isinstance(history, list | None):
        raise Drop(f"bad_history: it is {history!r:.60}; expected a list of messages")
    messages = []
    for place, entry in enumerate(history or ()):
        if isinstance(entry, dict):
            role, text = first_of(entry, ROLE_FIELDS), content_in(entry)
        else:
            role, text = ("user", "assistant")[place % 2], entry
        speaker = SPEAKERS.get(role.strip().casefold()) if isinstance(role, str) else None
        if speaker is None or not isinstance(text, str):
            raise Drop(f"bad_history: message {place} is {entry!r:.60}; expected a text, or {{role, content}}")
        messages.append(Message(role=speaker, content=text_of(text, "history").strip()))
    return messages


def split_marked_question(messages: list[Message], question: str) -> tuple[list[Message], str]:
    """`|user|: a |agent|: b |user|: c` as messages and the question; other texts as they are."""
    preamble, *pieces = MARKER.split(question)
    if not pieces or preamble.strip():
        return messages, question.strip()
    turns = [
        Message(role=SPEAKERS[role], content=text.strip()) for role, text in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    return messages or turns[:-1], turns[-1].content


def gold_of(fields: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Relevant passages that a row names: ids, objects with an id (and relevance), or a map id -> relevance."""
    for name in GOLD:
        gold = fields.get(name)
        if isinstance(gold, dict) and not any(key in gold for key in PASSAGE_IDS):
            return [(str(key), relevance_of(value)) for key, value in gold.items()]
        relevance_by_id: dict[str, int] = {}
        for entry in gold if isinstance(gold, list) else [gold] if gold else ():
            passage = first_of(entry, PASSAGE_IDS) if isinstance(entry, dict) else entry
            if passage := id_of(passage):
                relevance_by_id[passage] = relevance_of(entry.get("relevance")) if isinstance(entry, dict) else 1
        if relevance_by_id:
            return [*relevance_by_id.items()]
    return []


def relevance_of(value: Any) -> int:
    """A relevance as a whole number; 1 for null. Raises Drop for anything else."""
    if value is None or isinstance(value, bool):
        return 1 if value is None else int(value)
    try:
        number = float(value)
        if not number.is_integer() or abs(number) > 1e9:
            raise ValueError
        return int(number)
    except (TypeError, ValueError, OverflowError):
        raise Drop(f"bad_gold: a relevance is {value!r:.40}; expected a whole number") from None


def whole_number(value: Any) -> int | None:
    """The value as a whole number, also from text; None where it is none."""
    try:
        number = None if value is None or isinstance(value, bool) else int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is None or abs(number) < 1 << 31 else None


def optional_text(fields: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    value = first_of(fields, names)
    text = MARKER.sub("", text_of(value, names[0])).strip() if value is not None else ""
    return text or None


def answer_of(targets: Any) -> str | None:
    """MTRAG's targets: a list of {text}."""
    first = targets[0] if isinstance(targets, list) and targets else None
    return text_of(first["text"], "answer") if isinstance(first, dict) and first.get("text") else None


def passage_of(line: Line, _: CorpusSettings) -> Passage:
    """One raw row as a passage; raises Drop."""
    if line.fields is None:
        raise Drop(line.fault)
    name = id_of(first_of(line.fields, PASSAGE_IDS))
    text = text_of(first_of(line.fields, TEXTS), "text")
    title = optional_text(line.fields, ("title",)) or ""
    if not name:
        raise Drop("no_id: expected one of _id, id, docid")
    if not text.strip() and not title:
        raise Drop("empty_text")
    return Passage(id=name, title=title, text=text)


def is_beir(corpus: CorpusSettings, qrels: str) -> bool:
    """Whether files are in BEIR's form: a corpus whose first row has `_id`, or judgements under BEIR's header. Raises
    InputError.
    """
    if qrels and first_line(Path(qrels).expanduser()).split() == ["query-id", "corpus-id", "score"]:
        return True
    path = Path(corpus.path).expanduser()
    if not corpus.path.startswith(HUB) and not path.is_dir() and suffix_of(path) == QUERY:
        return False
    return "_id" in next((line.fields for line in lines_of(corpus.path) if line.fields), {})


PASSAGES = RowKind(
    "passages", Passage, passage_of, lambda _: TEXTS, lambda passage: len(passage.indexed), version=VERSION
)


def first_line(path: Path) -> str:
    """A file's first line. Raises InputError for a file that does not exist or cannot be read."""
    try:
        with open_file(path) as file:
            line: bytes = file.readline()
            return line.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """query -> passage -> relevance. Raises InputError that names the first line that is neither form."""
    qrels: dict[str, dict[str, int]] = {}
    columns = None
    try:
        with open_file(path) as file:
            for number, data in enumerate(file, 1):
                text = data.decode("utf-8-sig").strip()
                fields = text.split("\t") if "\t" in text else text.split()
                if fields and columns is None:
                    columns = columns_of(fields)
                    if not any(map(NUMBER.fullmatch, fields)):
                        continue  # the header
                if not fields:
                    continue
                query, passage, relevance = columns or (0, -2, -1)
                if len(fields) not in (3, 4) or not is_number(fields[relevance]):
                    raise InputError(
                        f"{path}, line {number}: {text[:80]!r} is no judgement; expected `query passage relevance` or "
                        "`query 0 passage relevance`, the relevance a whole number"
                    )
                qrels.setdefault(fields[query], {})[fields[passage]] = int(float(fields[relevance]))
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there; expected relevance judgements (TREC, or TSV with a header)") from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not qrels:
        raise InputError(f"{path} holds no relevance judgement")
    return qrels


def columns_of(header: list[str]) -> tuple[int, int, int]:
    """The places of query, passage and relevance: by a header's names, else those of TREC and BEIR."""
    names = [name.lower().replace("_", "-") for name in header]
    places = [next((n for n, name in enumerate(names) if name in spellings), None) for spellings in QREL_COLUMNS]
    query, passage, relevance = places
    if query is None or passage is None or relevance is None:
        return 0, -2, -1
    return query, passage, relevance


def is_number(text: str) -> bool:
    """Whether a text is a whole number."""
    try:
        number = float(text)
    except ValueError:
        return False
    return number.is_integer() and abs(number) < 1e9
