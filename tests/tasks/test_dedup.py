"""Duplicates and contamination over rows: the traps, the ranking, earlier rows, benchmarks."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmill.schemas.rows import Instruction, to_arrow
from synthmill.schemas.settings import SourceSettings
from synthmill.storage.artifacts import Store, read_artifact, seal_part, write_manifest
from synthmill.storage.plain_files.rows import KNOWN_PROMPTS
from synthmill.tasks.dedup import duplicates
from synthmill.tasks.dedup.contamination import CleanInstructions, CleanRows, WordIndex
from synthmill.tasks.dedup.duplicates import ADDED, UniqueInstructions, UniquePairs, UniqueRows
from synthmill.tasks.frames import StageContext, run_locally
from synthmill.tasks.running.in_process import InProcess
from synthmill.tasks.running.job import Planned
from synthmill.tasks.running.stages import ingest, run_stage
from synthmill.tasks.vectors.embeddings import embed, embed_whole, encode, load_embedder, open_vectors, text_keys
from synthmill.tasks.vectors.stage import Vectors, texts_of, vectors_in
from tests.conftest import write_jsonl

WORDS = UniqueRows(layers=("exact", "words"), score="score")


def frame_of(texts: dict[str, str], **columns: list[Any]) -> pl.DataFrame:
    scores = columns.pop("score", [None] * len(texts))
    return pl.DataFrame({"id": list(texts), "prompt": list(texts.values()), **columns}).with_columns(
        pl.Series("score", scores, dtype=pl.Float64)
    )


def verdicts(frame: pl.DataFrame, stage: UniqueRows = WORDS, store: Path = Path("/nowhere")) -> dict[str, str | None]:
    marked, dropped = stage.apply(frame, store)
    assert marked["id"].to_list() == frame["id"].to_list()  # a cut deletes and moves nothing
    assert dropped == []
    assert (marked["kept"] == marked["duplicate_of"].is_null()).all()
    return dict(marked.select("id", "duplicate_of").iter_rows())


def made(store: Store, frame: pl.DataFrame, stage: UniqueRows) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The stage's frame and notes after its vectors were made, as a flow makes them."""
    import threading

    seal = seal_part(store, "rows", "k", frame.to_arrow(), (), ids_in=frame["id"].to_list())
    from synthmill.schemas.artifacts import Manifest

    source = write_manifest(store, Manifest(stage="rows", key="k", identity={}, parts=(seal,)))
    pool = InProcess(store, "run", threading.Event())
    vectors = Planned(Vectors(embedder="minilm"), {}, "k")
    run_stage(store, vectors, source, pool, "run")
    planned = Planned(stage.model_copy(update={"vectors": vectors.key}), {}, "k")
    manifest = run_stage(store, planned, source, pool, "run")
    pool.close()
    return pl.DataFrame(read_artifact(store, manifest)), manifest.notes


def test_a_better_score_stays_then_the_fuller_row_then_the_lower_id() -> None:
    same = "Tell me about rivers"
    assert verdicts(frame_of({"a": same, "b": same.upper()}, score=[0.1, 0.2])) == {"a": "b", "b": None}
    assert verdicts(frame_of({"a": same, "b": same}, score=[None, -5.0])) == {"a": "b", "b": None}
    assert verdicts(frame_of({"a": same, "b": same}, score=[float("nan"), -5.0])) == {"a": "b", "b": None}
    assert verdicts(frame_of({"a": same, "b": same}, note=["", "from a book"])) == {"a": "b", "b": None}
    assert verdicts(frame_of({"b": same, "a": same})) == {"a": None, "b": "a"}


def test_a_duplicate_of_a_row_that_goes_is_named_after_the_one_that_stays() -> None:
    texts = {
        "a": "Write a short poem about the sea at night for my sister",
        "b": "Write a short poem about the sea at night for my sister please",
        "c": "write a short poem about the sea at night for my sister PLEASE",
        "d": "Name three rivers",
    }
    marked, _ = WORDS.apply(frame_of(texts), Path("/nowhere"))
    assert marked.select("kept", "duplicate_of", "layer").rows() == [
        (True, None, None),
        (False, "a", "words"),
        (False, "a", "words"),
        (True, None, None),
    ]
    assert marked["similarity"].to_list()[1:3] == [pytest.approx(10 / 11)] * 2


@given(
    st.lists(
        st.sampled_from(["a b c d e", "a b c d e f", "b c d e f", "A B C D E", "x", "X ", "你好", "再见"]), max_size=9
    )
)
@settings(max_examples=40)
def test_the_order_of_the_input_changes_no_verdict(texts: list[str]) -> None:
    rows = {f"{n:02}": text for n, text in enumerate(texts)}
    shuffled = list(rows.items())
    random.Random(1).shuffle(shuffled)
    stage = WORDS.model_copy(update={"jaccard": 0.5})
    assert verdicts(frame_of(rows), stage) == verdicts(frame_of(dict(shuffled)), stage)


def test_texts_in_any_script_stay_apart() -> None:
    texts = [
        "你好",
        "再见",
        "สวัสดี",
        "ขอบคุณ",
        "नमस्ते",
        "धन्यवाद",
        "привет",
        "пока",
        "مرحبا",
        "وداعا",
        "안녕",
        "감사",
        "🙂",
        "🙃",
    ]
    assert set(verdicts(frame_of({str(n): text for n, text in enumerate(texts)})).values()) == {None}


def test_only_rows_that_are_equal_within_are_compared_and_those_cut_before_are_not() -> None:
    frame = frame_of({"a": "same", "b": "same", "c": "same", "d": "same"}, system=[None, "x", "x", None])
    stage = WORDS.model_copy(update={"within": ("system",)})
    assert verdicts(frame, stage) == {"a": None, "b": None, "c": "b", "d": "a"}
    cut = frame.with_columns(kept=pl.Series([False, True, True, True]))
    marked, _ = stage.apply(cut, Path("/nowhere"))
    assert marked["kept"].to_list() == [False, True, False, True]
    assert marked["duplicate_of"].to_list() == [None, None, "b", None]


def test_no_layers_find_nothing_and_empty_frames_are_frames() -> None:
    assert verdicts(frame_of({"a": "x", "b": "x"}), UniqueRows(layers=())) == {"a": None, "b": None}
    marked, _ = WORDS.apply(frame_of({}), Path("/nowhere"))
    assert marked.height == 0
    assert set(ADDED) <= set(marked.columns)


def test_by_meaning_a_paraphrase_goes_and_the_manifest_says_how_well_was_searched(store: Store) -> None:
    texts = {
        "a": "How do I make a height adjustable desk?",
        "b": "How can I make a height-adjustable desk?",
        "c": "What is the capital of France?",
        "d": "HOW DO I MAKE A HEIGHT ADJUSTABLE  DESK?",
        "e": "写一首关于春天的诗，要押韵，四句话，适合小学生朗读。",
        "f": "用三句话介绍黑洞的形成过程，并举一个著名的例子。",
    }
    marked, notes = made(store, frame_of(texts), UniqueRows(layers=("exact", "words", "meaning")))
    found = {row["id"]: (row["duplicate_of"], row["layer"]) for row in marked.to_dicts()}
    assert found["a"] == found["c"] == (None, None)
    assert found["b"] == ("a", "meaning")
    assert found["d"] == ("a", "exact")
    assert found["e"] == found["f"] == (None, None)
    assert 0.9 <= marked["similarity"][1] < 1
    assert notes["recall"] == {"share": 1.0, "low": 1.0, "high": 1.0, "pairs": 0, "rows": 0}
    assert (notes["rows"], notes["kept"], notes["unreadable"]) == (6, 4, 2)
    assert notes["by_layer"] == {"exact": 1, "words": 0, "meaning": 1}


def test_long_texts_that_begin_alike_are_two(store: Store) -> None:
    begin = "You are the assistant of a bank. Read the rules below with care before you answer. " * 30
    ends = ("Which mushrooms may I eat raw in autumn? " * 20, "Prove that there are infinitely many primes. " * 20)
    texts = [begin + ends[0], begin + ends[1]]
    cut = embed("minilm", texts, store.root)
    assert float(cut[0] @ cut[1]) > 0.99  # the model reads the beginning only
    whole = embed_whole("minilm", texts, store.root)
    assert float(whole[0] @ whole[1]) < 0.97
    assert np.linalg.norm(whole, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert embed_whole("minilm", ["short"], store.root) == pytest.approx(embed("minilm", ["short"], store.root))
    assert embed_whole("minilm", [], store.root).shape == (0, 0)


def test_what_the_model_cannot_read_is_like_nothing(store: Store) -> None:
    vectors = embed_whole("minilm", ["如何证明拉格朗日中值定理", "hello there"], store.root)
    assert not vectors[0].any()
    assert vectors[1].any()
    assert embed_whole("minilm", ["如何证明拉格朗日中值定理"], store.root).shape == (1, 384)


def test_a_text_is_embedded_once_by_whoever_asks_and_damage_costs_only_itself(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text number {n}" for n in range(40)]
    for start in range(0, 40, 8):
        embed("minilm", texts[start : start + 8], store.root)
    asked: list[str] = []
    model = load_embedder("minilm")
    monkeypatch.setattr(model, "encode", lambda some, **_: asked.extend(some) or model.__class__.encode(model, some))
    before = embed("minilm", texts[::-1], store.root)
    assert embed_whole("minilm", texts[:3], store.root) == pytest.approx(before[::-1][:3])
    assert asked == []
    damaged = sorted((store.root / "embeddings").rglob("*.vectors.npy"))[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert embed("minilm", texts[::-1], store.root) == pytest.approx(before, abs=1e-5)
    assert len(asked) == 8


def test_many_files_of_vectors_are_found_by_hash(tmp_path: Path) -> None:
    there = open_vectors(tmp_path)
    vectors = np.arange(300, dtype=np.float32).reshape(100, 3)
    for start in range(0, 100, 7):
        there.save([f"t{n}" for n in range(start, min(100, start + 7))], vectors[start : start + 7])
        there.refresh()
    found = there.find(text_keys([f"t{n}" for n in (99, 0, 50, 123)]))
    assert (found[0] >= 0).tolist() == [True, True, True, False]
    read = there.read(*(part[:3] for part in found))
    assert read is not None
    assert read.tolist() == vectors[[99, 0, 50]].tolist()


def test_a_model_that_pads_nothing_reads_all_texts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({f"w{n}": n for n in range(50)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu").save(str(tmp_path / "bag"))
    texts = [f"w{n % 50} w{n % 7} w{n % 11}" for n in range(200)]
    model = load_embedder(str(tmp_path / "bag"))
    alone = np.concatenate([model.encode([text], normalize_embeddings=True) for text in texts])
    sizes: list[int] = []
    monkeypatch.setattr(
        model, "encode", lambda some, **_: sizes.append(len(some)) or type(model).encode(model, some, **_)
    )
    assert encode(str(tmp_path / "bag"), texts) == pytest.approx(alone, abs=1e-6)
    assert sizes == [200]


def test_vectors_of_earlier_rows_stand_behind_the_own_ones_batch_by_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "SAVED_AT_ONCE", 2)
    monkeypatch.setattr(duplicates, "embed_whole", lambda _, texts, __: np.array([[len(t), 0.5] for t in texts]))
    own, texts = np.ones((2, 2), np.float16), pl.Series(["a", "bb", "ccc"])
    both = duplicates.with_vectors_of(texts, own, "minilm", tmp_path, tmp_path / "both.npy")
    assert isinstance(both, np.memmap) and both.dtype == np.float16
    assert both.tolist() == [[1, 1], [1, 1], [1, 0.5], [2, 0.5], [3, 0.5]]


def test_vectors_follow_the_rows_and_may_be_half_as_large(store: Store) -> None:
    import threading

    from synthmill.schemas.artifacts import Manifest

    frames = [frame_of({"a": "one"}), frame_of({"b": "two", "c": "three"})]
    seals = [
        seal_part(store, "rows", str(n), frame.to_arrow(), (), ids_in=frame["id"].to_list())
        for n, frame in enumerate(frames)
    ]
    source = write_manifest(store, Manifest(stage="rows", key="k", identity={}, parts=tuple(seals)))
    pool = InProcess(store, "run", threading.Event())
    planned = Planned(Vectors(embedder="minilm", precision="float16"), {}, "k")
    run_stage(store, planned, source, pool, "run")
    pool.close()
    vectors = vectors_in(store, planned.key)
    assert (vectors.dtype, vectors.shape) == (np.float16, (3, 384))
    assert isinstance(vectors, np.memmap)
    exact = embed_whole("minilm", ["one", "two", "three"], store.root)
    assert np.asarray(vectors, np.float32) == pytest.approx(exact, abs=1e-3)


def test_messages_are_read_as_what_they_say() -> None:
    frame = pl.DataFrame(
        {
            "id": ["a"],
            "history": [[{"role": "user", "content": "x"}, {"role": "assistant", "content": None}]],
            "q": [None],
        },
        schema_overrides={"q": pl.String},
    )
    assert texts_of(frame, ("history", "q")) == ["x\n"]


def known(store: Store, path: Path, rows: list[dict[str, Any]]) -> tuple[str, str]:
    manifest = ingest(store, SourceSettings(path=str(write_jsonl(path, rows))), 2, "run", KNOWN_PROMPTS)
    return KNOWN_PROMPTS.stage, manifest.key


def test_earlier_rows_stand_first_and_never_change(store: Store, tmp_path: Path) -> None:
    published = known(
        store, tmp_path / "old.jsonl", [{"id": "old", "prompt": "Name three rivers"}, {"prompt": "x y z"}]
    )
    frame = frame_of({"a": "name three RIVERS", "old": "Name three rivers", "z": "x  y z"}, score=[9.0, 0.0, 9.0])
    stage = WORDS.model_copy(update={"against": (published,)})
    assert verdicts(frame, stage, store.root) == {"a": "old", "old": None, "z": "line-2"}
    others = frame_of(
        {"old": "An unlike row with the same id", "b": "an unlike ROW with the same id"}, score=[0.0, 1.0]
    )
    assert verdicts(others, stage, store.root) == {"old": "b", "b": None}  # an id alone makes no row an earlier one
    within = stage.model_copy(update={"within": ("note",)})
    assert verdicts(frame.with_columns(note=pl.col("id")), within, store.root)["a"] == "old"


def test_one_run_after_the_other_keeps_what_one_run_keeps_of_the_first(store: Store) -> None:
    draw = random.Random(0)
    rows = {f"{n:03}": " ".join(draw.choices("abcdef", k=6)) for n in range(120)}
    first, second = dict(list(rows.items())[:60]), dict(list(rows.items())[60:])
    stage = WORDS.model_copy(update={"jaccard": 0.3})
    before, _ = stage.apply(frame_of(first), store.root)
    assert 5 < before["kept"].sum() < 55
    ids = before["id"].to_list()
    seal = seal_part(store, "unique_rows", "p", before.to_arrow(), (), ids_in=ids)
    from synthmill.schemas.artifacts import Manifest

    write_manifest(store, Manifest(stage="unique_rows", key="k", identity={}, parts=(seal,)))
    later = stage.model_copy(update={"against": (("unique_rows", "k"),)})
    after = verdicts(frame_of(rows), later, store.root)
    ranked = frame_of(rows, score=[1.0] * 60 + [0.0] * 60)
    assert after == verdicts(ranked, stage)  # as if all had come at once, the earlier ones first
    assert {row: other for row, other in after.items() if row in first} == dict(
        before.select("id", "duplicate_of").iter_rows()
    )
    assert verdicts(frame_of(second), later, store.root) == {row: after[row] for row in second}


def test_of_earlier_rows_only_what_is_compared_is_read(store: Store) -> None:
    """Their answers may be gigabytes. Here they cannot be read at all."""
    from synthmill.schemas.artifacts import Manifest
    from synthmill.schemas.hashing import file_checksum

    words = ["".join(random.Random(n).choices("abcdef ", k=400)) for n in range(300)]
    rows = pl.DataFrame({"id": [f"{n}" for n in range(300)], "prompt": words, "chosen": words, "kept": [True] * 300})
    seal = seal_part(store, "unique_rows", "p", rows.to_arrow(), (), ids_in=rows["id"].to_list())
    path = store.root / seal.file
    answers = pq.read_metadata(path).row_group(0).column(2)
    start = answers.dictionary_page_offset or answers.data_page_offset
    path.write_bytes(path.read_bytes()[:start] + bytes(200) + path.read_bytes()[start + 200 :])
    seal = seal.model_copy(update={"checksum": file_checksum(path)})
    with pytest.raises(OSError, match=r"(?i)data|page|zstd"):
        pq.read_table(path, columns=["chosen"])
    write_manifest(store, Manifest(stage="unique_rows", key="k", identity={}, parts=(seal,)))
    later = WORDS.model_copy(update={"against": (("unique_rows", "k"),)})
    assert verdicts(frame_of({"new": words[7]}), later, store.root) == {"new": "7"}


def test_what_was_dropped_before_models_were_asked_may_be_published(store: Store) -> None:
    from synthmill.schemas.artifacts import Manifest

    rows = pl.DataFrame(to_arrow(Instruction, [Instruction(id="a", prompt="Name three rivers")]))
    seal = seal_part(store, "unique_instructions", "p", rows.to_arrow(), (), ids_in=["a"])
    write_manifest(store, Manifest(stage="unique_instructions", key="k", identity={}, parts=(seal,)))
    later = WORDS.model_copy(update={"against": (("unique_instructions", "k"),)})
    assert verdicts(frame_of({"b": "name three RIVERS"}), later, store.root) == {"b": "a"}


def test_earlier_verdicts_are_not_counted_as_provenance() -> None:
    frame = frame_of({"a": "same", "b": "same"}, benchmark=[None, "mt_bench"], layer=[None, "words"])
    assert verdicts(frame) == {"a": None, "b": "a"}


def test_before_models_are_asked_duplicates_are_dropped(tmp_path: Path) -> None:
    rows = [Instruction(id="a", prompt="Name three rivers"), Instruction(id="b", prompt="name three rivers")]
    kept, dropped = UniqueInstructions(layers=("exact",)).apply(pl.DataFrame(to_arrow(Instruction, rows)), tmp_path)
    assert kept["id"].to_list() == ["a"]
    assert set(kept.columns) == set(Instruction.model_fields)
    assert [(row.id, row.reason, row.detail) for row in dropped] == [("b", "duplicate", "of a (exact, 1.000)")]
    assert UniqueInstructions(rows_per_part=2).parts_begin(pa.table({"id": list("abcde")})) == [0, 2, 4]


def test_settings_that_change_no_verdict_change_no_key() -> None:
    words = UniquePairs(layers=("exact",))
    assert words.identity({}) == words.model_copy(update={"embedder": "other", "vectors": "k"}).identity({})
    meaning = UniquePairs(layers=("meaning",))
    assert meaning.identity({}) != meaning.model_copy(update={"vectors": "k"}).identity({})


LONG = "Compare the rainfall of three coastal cities over ten years and explain which one needs better drains first."
BENCHMARK = [
    {"id": "one", "prompt": LONG},
    {"id": "one", "turns": ["Name four rivers of Spain in alphabetical order please", "Who wrote it?"]},
]


def contaminated(store: Store, path: Path, texts: list[str], **fields: Any) -> tuple[pl.DataFrame, CleanRows]:
    _, key = known(store, path, BENCHMARK)
    given = {"embedder": "minilm", "layers": ("words",), **fields}
    stage = CleanRows(benchmarks=(("bench", key),), **given)
    marked, dropped = stage.apply(frame_of({str(n): text for n, text in enumerate(texts)}), store.root)
    assert dropped == []
    assert isinstance(stage, CleanRows)
    return marked, stage


def test_benchmark_prompts_are_found_by_runs_of_words(store: Store, tmp_path: Path) -> None:
    texts = [
        f"Please help. {LONG} Thanks!",
        "please: name four rivers of spain in alphabetical order, please, with lengths",
        "WHO wrote it",
        "Who wrote it, and when was the first edition sold?",
        "Compare the rainfall of three coastal cities over five years.",
        "",
    ]
    marked, stage = contaminated(store, tmp_path / "b.jsonl", texts)
    assert marked["contaminated"].to_list() == [True, True, True, False, False, False]
    assert marked["kept"].to_list() == [False, False, False, True, True, True]
    assert marked["benchmark"].to_list()[:4] == ["bench", "bench", "bench", None]
    assert marked["matched_id"].to_list()[:4] == ["one", "one", "one", None]
    assert marked["evidence"].to_list()[1:3] == [
        "8 words: name four rivers of spain in alphabetical order",
        "the same words: who wrote it",
    ]
    assert marked["evidence"][0].startswith("13 words: compare the rainfall of three")
    only_marked, _ = contaminated(store, tmp_path / "b.jsonl", texts, found="mark")
    assert only_marked["kept"].all()
    assert stage.identity({})["settings"]["benchmarks"] != ()


def test_benchmark_prompts_are_found_by_meaning(store: Store, tmp_path: Path) -> None:
    texts = ["Please list four Spanish rivers in alphabetical order", "Bake a cake"]
    marked, _ = contaminated(store, tmp_path / "b.jsonl", texts, layers=("words", "meaning"), threshold=0.8)
    assert marked["contaminated"].to_list() == [True, False]
    assert marked["evidence"][0].startswith("cosine 0.")
    strict, _ = contaminated(store, tmp_path / "b.jsonl", texts, layers=("meaning",), threshold=0.999)
    assert not strict["contaminated"].any()


def test_contaminated_instructions_are_dropped_before_models_are_asked(store: Store, tmp_path: Path) -> None:
    _, key = known(store, tmp_path / "b.jsonl", BENCHMARK)
    frame = pl.DataFrame(to_arrow(Instruction, [Instruction(id="a", prompt=LONG), Instruction(id="b", prompt="hello")]))
    given = {"benchmarks": (("bench", key),), "embedder": "minilm", "layers": ("words",)}
    kept, dropped = CleanInstructions(**given).apply(frame, store.root)
    assert kept["id"].to_list() == ["b"]
    assert kept.columns == frame.columns
    assert (dropped[0].id, dropped[0].reason) == ("a", "contaminated")
    assert dropped[0].detail.startswith("bench one: 13 words: compare")
    marked, dropped = CleanInstructions(**given, found="mark").apply(frame, store.root)
    assert (marked.height, dropped) == (2, [])


def test_hashes_that_agree_by_chance_are_no_match() -> None:
    index = WordIndex(["one two three four five six seven eight nine"])
    index.turns = ["other " * 9]
    assert index.find(["one two three four five six seven eight nine"]) == {}


def test_work_is_told_around(store: Store) -> None:
    notes: dict[str, Any] = {}
    WORDS.apply_in_context(frame_of({"a": "x"}), StageContext(store.root, run_locally, notes))
    assert notes == {"rows": 1, "kept": 1, "known": 0, "by_layer": {"exact": 0, "words": 0}}
