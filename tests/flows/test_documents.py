"""The method `documents`: files as passages, windows, conversations by hand, and whole, up to a run of `retpo`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from pypdf import PdfWriter
from pypdf.generic import DictionaryObject, NameObject, StreamObject

from synthmill.flows.methods.documents.dataset import conversations, turns
from synthmill.flows.methods.documents.passage_questions import (
    AskedPassage,
    GroundedConversation,
    GroundedConversations,
    QuestionKinds,
)
from synthmill.schemas.calls import Completion
from synthmill.schemas.document_settings import DocumentPassage, DocumentSettings
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.rows import to_arrow
from synthmill.storage.plain_files.documents import DOCUMENTS, document_lines
from synthmill.storage.plain_files.documents.windows import Section, token_count, windows
from synthmill.storage.plain_files.rows import read_chunks
from tests.command import ROOT, synthmill
from tests.conftest import ChatServer

LOCK = {
    "stages": {
        "grounded_conversations@2": "6346ba7a3dfa766c",
        "question_kinds@1": "847c1db58abd6348",
    },
    "prompts": {
        "documents/ask": "96a99baaf8a5",
        "documents/compare": "65d52ac9b0a1",
        "documents/read": "ab231e401ac2",
    },
}

MARKDOWN = """---
title: left out
---
Before any heading.

# The `mill`

It stands *still*.

### Its stones

```
# a comment, no heading
```

Wheel
=====
It turns. It is of oak.
"""
HTML = """<html><head><title>t</title></head><body><nav>menu</nav><main><h1>The <b>river</b></h1>
<p>It is wide,<br>and <i>slow</i>.<script>no()</script></p><ul><li>reeds<li>fish</ul>
<h2>Depths</h2><table><tr><th>place<th>metres<tr><td>weir<td>4</table></main><p>foot</p></body></html>"""


def write_pdf(path: Path, pages: Sequence[str], outline: Mapping[str, int], password: str = "") -> None:
    """Pages of lines of text, in a standard font; one without text has a picture's place."""
    writer = PdfWriter()
    kind = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    font = writer._add_object(DictionaryObject({NameObject(key): NameObject(name) for key, name in kind.items()}))
    fonts = DictionaryObject({NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})})
    for text in pages:
        page = writer.add_blank_page(width=595, height=842)
        stream = StreamObject()
        lines = " ".join(f"({line}) Tj 0 -14 Td" for line in text.splitlines())
        stream.set_data(f"BT /F1 12 Tf 50 800 Td {lines} ET".encode() if text else b"")
        page[NameObject("/Resources")], page[NameObject("/Contents")] = fonts, writer._add_object(stream)
    for title, page_number in outline.items():
        writer.add_outline_item(title=title, page_number=page_number)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    writer.write(str(path))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    (folder / "deep").mkdir(parents=True)
    (folder / "mill.md").write_text(MARKDOWN)
    (folder / "deep" / "river.html").write_text(HTML)
    (folder / "cats.txt").write_text("猫は家にいる。犬は外にいる。\n\nThey are quiet.")
    pages = ["The mill was built in seven-\nteen hundred. Its wheel and", "its stones came later.", ""]
    write_pdf(folder / "history.pdf", pages, {"Beginning": 0, "Later": 1})
    return folder


def read(folder: Path, **settings: Any) -> tuple[list[DocumentPassage], dict[str, str]]:
    """(passages, what was dropped: place -> reason and detail)."""
    source = DocumentSettings(path=str(folder), **{"window": 40, "overlap": 0, "fewest": 1, **settings})
    chunks = list(read_chunks(source, 1000, DOCUMENTS))
    rows = [row for chunk in chunks for row in chunk.rows]
    return rows, {drop.id: f"{drop.reason}: {drop.detail}" for chunk in chunks for drop in chunk.dropped}


def test_documents_become_passages_under_their_headings(library: Path) -> None:
    rows, dropped = read(library)
    assert [(row.document, row.title, row.page, row.text) for row in rows] == [
        ("cats.txt", "cats", 0, "猫は家にいる。犬は外にいる。\nThey are quiet."),
        ("deep/river.html", "The river", 0, "It is wide,\nand slow.\nreeds\nfish"),
        ("deep/river.html", "The river > Depths", 0, "place | metres\nweir | 4"),
        ("history.pdf", "Beginning", 1, "The mill was built in seventeen hundred. Its wheel and"),
        ("history.pdf", "Later", 2, "its stones came later."),
        ("mill.md", "mill", 0, "Before any heading."),
        ("mill.md", "The mill", 0, "It stands *still*."),
        ("mill.md", "The mill > Its stones", 0, "```\n# a comment, no heading\n```"),
        ("mill.md", "Wheel", 0, "It turns. It is of oak."),
    ]
    assert dropped == {"history.pdf (1)": "no_text_pages: 1 of 3 pages have no text: 3"}
    assert rows[0].tokens == 18 and len({row.id for row in rows}) == len(rows)
    _, short = read(library, fewest=7)
    assert sum("short_passage" in reason for reason in short.values()) == 4


def test_what_cannot_be_read_is_named_and_skipped(tmp_path: Path) -> None:
    write_pdf(tmp_path / "pictures.pdf", ["", ""], {})
    write_pdf(tmp_path / "locked.pdf", ["a"], {}, password="p")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (tmp_path / "latin.md").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "letter.docx").write_bytes(b"x")
    (tmp_path / ".hidden.md").write_text("x")
    _, dropped = read(tmp_path)
    reasons = {place.partition(" ")[0]: reason.partition(":")[0] for place, reason in dropped.items()}
    assert reasons == {
        "broken.pdf": "bad_pdf",
        "empty.txt": "no_text",
        "latin.md": "not_utf8",
        "letter.docx": "unknown_format",
        "locked.pdf": "encrypted",
        "pictures.pdf": "pictures_only",
    }
    with pytest.raises(InputError, match="holds no document"):
        read(tmp_path / "letter.docx")
    with pytest.raises(InputError, match="is not there"):
        read(tmp_path / "absent")


def test_windows_are_whole_sentences_and_overlap() -> None:
    text = "One two three. Four five six! Seven eight nine? Ten."
    parts = [part.text for part in windows([Section((), text)], 8, 4)]
    assert parts == ["One two three. Four five six!", "Four five six! Seven eight nine?", "Seven eight nine? Ten."]
    assert [part.text for part in windows([Section((), "a " * 20)], 8, 0)] == ["a a a a a a a a"] * 2 + ["a a a a"]
    joined = list(windows([Section(("h",), "a.", 1), Section(("h",), "b.", 2), Section(("g",), "c.", 2)], 99, 0))
    assert [(part.headings, part.text, part.page) for part in joined] == [(("h",), "a.\nb.", 1), (("g",), "c.", 2)]
    assert token_count("Hello, 猫猫 c++") == 7


def test_a_file_is_read_page_by_page(tmp_path: Path) -> None:
    write_pdf(tmp_path / "long.pdf", ["Some words stand here. " * 3] * 30, {})
    (tmp_path / "long.pdf").rename(tmp_path / "a.pdf")
    (tmp_path / "b.txt").write_text("unreached")
    lines = document_lines(DocumentSettings(path=str(tmp_path), window=16, overlap=0, fewest=1))
    assert next(lines).place == "a.pdf:1" and next(lines).fields["page"] == 2  # type: ignore[index]


ROW = AskedPassage(
    id="k", parent_id="p", title="The mill", text="It has two stones.", document="mill.md", kinds=("fact", "reason")
)
QUESTION, ANSWER = "How many stones does the mill have?", "Two."


def reply(**fields: str) -> list[Completion]:
    return [Completion(text=orjson.dumps(fields).decode())]


def test_a_conversation_ends_where_a_question_fails() -> None:
    steps = GroundedConversations(turns=3, attempts=1).steps(ROW)
    [ask] = next(steps)
    assert "It asks for a name, a number" in ask.messages[-1].content and ask.role == "teacher"
    reads = steps.send(reply(question=QUESTION, answer=ANSWER))
    assert ["two stones" in request.messages[-1].content for request in reads] == [True, False]
    [compare] = steps.send([Completion(text="It has 2."), Completion(text="UNKNOWN")])
    assert compare.choice == ("correct", "incorrect") and "It has 2." in compare.messages[-1].content
    [ask] = steps.send([Completion(text="Correct.")])
    assert (
        f"Person: {QUESTION}" in ask.messages[-1].content and "It asks for the reason why" in ask.messages[-1].content
    )
    with pytest.raises(StopIteration) as done:
        steps.send(reply(question=QUESTION, answer="Why, two."))
    row: GroundedConversation = done.value.value
    assert row.ended.startswith("bad_question: it was asked before") and row.passage == "p" and row.source == "mill.md"
    assert [each.model_dump() for each in row.exchanges] == [
        {"kind": "fact", "question": QUESTION, "answer": ANSWER, "from_passage": "It has 2.", "from_memory": "UNKNOWN"}
    ]


@pytest.mark.parametrize(
    ("said", "verdicts", "reason"),
    [
        (("UNKNOWN.", "Three."), ["incorrect"], "not_in_passage"),
        (("Three.", "unknown"), ["incorrect"], "not_in_passage"),
        (("Two.", "Two, I think."), ["correct", "correct"], "known_without"),
    ],
)
def test_questions_without_ground_are_dropped(said: tuple[str, str], verdicts: list[str], reason: str) -> None:
    steps = GroundedConversations(attempts=1).steps(ROW)
    next(steps)
    steps.send(reply(question=QUESTION, answer=ANSWER))
    assert len(steps.send([Completion(text=text) for text in said])) == len(verdicts)
    with pytest.raises(Drop, match=reason):
        steps.send([Completion(text=verdict) for verdict in verdicts])


@pytest.mark.parametrize(
    ("question", "answer", "fault"),
    [
        ("What does this passage say of stones?", "Two.", "speaks of 'this passage'"),
        ("Does the mill have two stones?", "two stones", "holds its answer"),
        ("How many stones?", "Which mill is it?", "the answer is a question"),
        ("How many?", "", "one of `question` and `answer` is empty"),
        ("", "", "no_question: the passage allows none"),
        (QUESTION, "La rivière coule lentement sous le pont et les oiseaux dorment.", "mixes languages"),
    ],
)
def test_answers_that_are_no_question(question: str, answer: str, fault: str) -> None:
    row = ROW.model_copy(update={"text": "The mill stands by the river, and it has two heavy stones of granite in it."})
    steps = GroundedConversations(attempts=1).steps(row)
    next(steps)
    with pytest.raises(Drop, match=fault):
        steps.send(reply(question=question, answer=answer))


def test_kinds_are_dealt_by_the_passages_id(tmp_path: Path) -> None:
    passages = [DocumentPassage(id=f"p{n}", title="t", text="x", document="d") for n in range(40)]
    frame = pl.DataFrame(to_arrow(DocumentPassage, passages))
    rows, _ = QuestionKinds(per_passage=2).apply(frame, tmp_path)
    assert rows.height == 80 and rows["parent_id"].n_unique() == 40
    firsts = rows["kinds"].list.first()
    assert firsts.n_unique() == 4 and all(a != b for a, b in zip(firsts[::2], firsts[1::2], strict=True))
    assert QuestionKinds().apply(frame.reverse(), tmp_path)[0].sort("id").equals(rows.gather_every(2).sort("id"))


def test_documents_to_conversations_to_retpo(tmp_path: Path, library: Path, server: ChatServer) -> None:
    run = ["run", "documents", "--workers", 0, "--set", f"source={library}", "--set", f"engines.teacher={server.spec}"]
    run += ["--set", "source.fewest=1", "--set", "per_passage=2", "--set", "turns=2", "--set", "checks=[passage]"]
    run += ["--set", "dedup.layers=[exact]"]
    out, _ = synthmill(*run, cwd=tmp_path)
    assert "Questions by kind" in out and "not_in_passage" in out
    asked = server.stats()["total"]
    assert "nothing to do" in synthmill(*run, cwd=tmp_path)[1] and server.stats()["total"] == asked
    (library / "new.txt").write_text("Bells hang in the tower.")
    synthmill(*run, cwd=tmp_path)
    assert asked < server.stats()["total"] <= asked + 2 * 2 * (3 + 2)  # two rows of two questions
    folder = max((tmp_path / "store" / "datasets").iterdir(), key=lambda path: path.stat().st_mtime)
    chats, corpus = (pl.read_parquet(folder / name / "*.parquet") for name in ("data/sft", "data/passages"))
    assert {"system", "user"} <= {message["role"] for message in chats["messages"][0]}
    assert chats["messages"][0][0]["content"].startswith("Answer from this document.") and corpus.height == 10
    search = ["run", "retpo", "--dry-run", "--set", f"source={folder}/data/turns", "--set", "first_turns=true"]
    search += ["--set", f"corpus={folder}/data/passages", "--set", f"engines.teacher={server.spec}"]
    plan, _ = synthmill(*search, cwd=tmp_path)
    assert "10 passages" in plan and " turns, 0 rows cannot be read" in plan


def test_documents_to_a_trainers_pairs(tmp_path: Path, server: ChatServer) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    engines = [f"engines.{role}={server.spec}" for role in ("teacher", "judge", "student")]
    run = ["run", "examples/documents/pipeline.yaml", "--workers", 0, *(word for e in engines for word in ("--set", e))]
    run += ["--set", "steps.kinds.per_passage=4", "--set", "steps.talk.checks=[]"]  # its words answer no question
    synthmill(*run, cwd=tmp_path)
    synthmill("export", "latest", "--to", "out", "--for", "trl", cwd=tmp_path)
    row = pl.read_parquet(tmp_path / "out" / "**" / "*.parquet").to_dicts()[0]
    assert row["prompt"][-1]["role"] == "user" and row["chosen"] != row["rejected"]
    asked = server.stats()["total"]
    assert "nothing to do" in synthmill(*run, cwd=tmp_path)[1] and server.stats()["total"] == asked


def test_rows_of_a_conversation() -> None:
    exchange = {"kind": "fact", "question": QUESTION, "answer": ANSWER}
    row = GroundedConversation(
        id="c",
        prompt=QUESTION,
        reference=ANSWER,
        kind="fact",
        exchanges=(exchange, {**exchange, "question": "And wheels?"}),  # type: ignore[arg-type]
        ended="",
        passage="p",
        title="The mill",
        text="It has two stones.",
        source="mill.md",
        page=0,
    )
    frame = pl.DataFrame(to_arrow(GroundedConversation, [row]))
    first, second = turns(frame).to_dicts()
    assert (first["id"], first["turn"], first["history"], first["gold"]) == ("c-1", 1, [], ["p"])
    assert [message["content"] for message in second["history"]] == [QUESTION, ANSWER]
    [chat] = conversations(frame, "")["messages"].to_list()
    assert [message["role"] for message in chat] == ["user", "assistant"] * 2
