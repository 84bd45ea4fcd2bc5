"""The flow `retpo` and the command `rank`, whole, against the local chat server; and TRL on what they make."""

import gzip
from pathlib import Path
from typing import Any

import duckdb
import orjson
import polars as pl
import pytest
import yaml

from synthmill.flows.cli import split_set
from synthmill.flows.methods.retpo import plan as plan_retpo
from synthmill.flows.methods.retpo.settings import RetpoSettings
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings_files import read_settings
from tests.command import ROOT, synthmill
from tests.conftest import ChatServer, write_jsonl
from tests.tiny import make_tiny_model, one_step

EXAMPLE = ROOT / "examples" / "retpo"
WORDS = ["river", "stone", "light", "field", "seven", "birds", "circle", "mill", "bridge", "quiet", "over", "and"]


def turns(count: int) -> list[dict[str, Any]]:
    """Conversations of four turns about words that the chat server's guesses are made of."""
    return [
        {
            "conversation": f"c{n // 4}",
            "turn": n % 4 + 1,
            "history": [{"role": "user", "content": "hello"}, {"role": "agent", "content": "yes"}] * (n % 4),
            "question": f"what of the {WORDS[n % 12]} and the {WORDS[(n * 5) % 11]}?",
            "gold": [f"p{n % 40}"],
            "answer": f"the answer {n}",
            "topic": f"t{n // 2}",
        }
        for n in range(count)
    ]


@pytest.fixture
def config(tmp_path: Path, server: ChatServer) -> Path:
    write_jsonl(tmp_path / "turns.jsonl", turns(24))
    passages = [{"_id": f"p{n}", "title": "", "text": f"{WORDS[n % 12]} {WORDS[n * 5 % 11]} {n}"} for n in range(40)]
    write_jsonl(tmp_path / "corpus.jsonl", passages)
    settings = {
        "source": "turns.jsonl",
        "corpus": "corpus.jsonl",
        "engines": {"teacher": server.spec},
        "retrievers": ["bm25", {"spec": "bm25:topiocqa", "name": "other"}, "dense"],
        "depth": 20,
        "rows_per_part": 10,
        "workers": 1,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "run.yaml"


def rows_of(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / "data" / name / "train-*.parquet")


@pytest.mark.ray
def test_turns_to_training_rows_then_nothing_to_do_then_only_what_is_new(
    config: Path, tmp_path: Path, server: ChatServer
) -> None:
    run = ("run", "retpo", "--config", config)
    out, _ = synthmill(*run, cwd=tmp_path)
    assert server.stats()["total"] == 18 * 3  # first turns are not rewritten
    assert "query_picks: 6 dropped, first_turn" in out
    assert "How far they disagree" in out and "the other way round" in out
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    picks, pairs, queries = rows_of(folder, "sft_bm25"), rows_of(folder, "dpo_bm25"), rows_of(folder, "queries")
    assert picks["turn"].min() == 2
    assert [message["role"] for message in picks["prompt"][0]] == ["system", "user", "assistant", "user"]
    assert (pairs["chosen_rank"] < pairs["rejected_rank"]).all()
    assert pairs.group_by("parent_id").len()["len"].max() <= 8
    assert pairs["agreement"].is_between(-1, 1).all()
    assert rows_of(folder, "sft_answers").height == 24
    pareto = rows_of(folder, "dpo_pareto")
    assert pareto["retrievers"].to_list()[0] == ["bm25", "other", "dense"]
    mined = rows_of(folder, "hard_negatives_dense")
    assert (mined["positive"] != mined["negative"]).all()
    assert queries.height == 3 * queries.unique(["id", "query"]).height
    card = (folder / "README.md").read_text()
    assert "**topic switch**" in card
    assert "| bm25 | question | 18 |" in card

    from datasets import get_dataset_config_names, load_dataset

    assert set(get_dataset_config_names(str(folder))) >= {"sft_bm25", "dpo_dense", "dpo_pareto", "queries"}
    assert len(load_dataset(str(folder), "dpo_bm25", split="train", cache_dir=str(tmp_path / "cache"))) == pairs.height
    catalog = duckdb.connect(str(tmp_path / "store" / "catalog.duckdb"), read_only=True)
    walk = (
        "SELECT count(*) FROM query_pairs p JOIN candidates c ON p.parent_id = c.id JOIN turns t ON c.id = t.id "
        "WHERE list_contains(list_transform(c.candidates, lambda x: x.query), p.chosen)"
    )
    whole = catalog.sql("SELECT count(*) FROM query_pairs").fetchall()
    assert catalog.sql(walk).fetchall() == whole
    assert catalog.sql("SELECT rows FROM bm25_index").fetchall() == [(40,)]
    catalog.close()

    _, err = synthmill(*run, cwd=tmp_path)
    assert "nothing to do" in err
    write_jsonl(tmp_path / "turns.jsonl", turns(28))
    synthmill(*run, "--workers", 0, cwd=tmp_path)
    assert server.stats()["total"] == 21 * 3
    assert server.stats()["repeated"] == 0
    synthmill(*run, "--workers", 0, "--set", "picks.top=2", "--set", "retrievers=[bm25]", cwd=tmp_path)
    assert server.stats()["total"] == 21 * 3  # ranks and cuts ask nothing


def test_the_rows_go_through_trl_unchanged(config: Path, tmp_path: Path) -> None:
    synthmill("run", "retpo", "--config", config, "--set", "retrievers=bm25", "--workers", 0, cwd=tmp_path)
    [folder] = (tmp_path / "store" / "datasets").iterdir()
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    model = make_tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    common = one_step(tmp_path)

    def rows(name: str) -> Any:
        return load_dataset(str(folder), name, split="train", cache_dir=str(tmp_path / "cache"))

    for name in ("sft_bm25", "sft_answers"):
        sft = SFTTrainer(str(model), args=SFTConfig(**common), train_dataset=rows(name), processing_class=tokenizer)
        first, row = sft.train_dataset[0], rows(name)[0]
        assert tokenizer.decode(first["input_ids"]) == tokenizer.apply_chat_template(
            row["prompt"] + row["completion"], tokenize=False
        )
        sft.train()
    dpo = DPOTrainer(str(model), args=DPOConfig(**common), train_dataset=rows("dpo_bm25"), processing_class=tokenizer)
    dpo.train()


def test_a_preview_and_a_dry_run(config: Path, tmp_path: Path, server: ChatServer) -> None:
    out, _ = synthmill("run", "retpo", "--config", config, "--dry-run", cwd=tmp_path)
    assert "turns.jsonl: 24 turns" in out
    assert "corpus.jsonl: 40 passages" in out
    assert server.stats()["total"] == 0
    out, _ = synthmill("run", "retpo", "--config", config, "--preview", 3, "--workers", 0, cwd=tmp_path)
    assert "bm25 " in out
    assert server.stats()["total"] == 6


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["corpus=nowhere.jsonl"], "nowhere.jsonl is not there"),
        (["source.qrels=nowhere.tsv"], "nowhere.tsv is not there"),
        (["retrievers=[bm26]"], "no retriever is called 'bm26'"),
        (["retrievers=[bm25, bm25]"], "two retrievers are called bm25"),
        (["retrievers=[run:nowhere.trec]"], "nowhere.trec is not there"),
        (["retrievers=[dense:nowhere]"], "there is no embedder 'nowhere'"),
        (["retrievers=[]"], "there is no retriever"),
        (["retrievers={spec: bm25, name: answers}"], "no retriever may be called answers"),
        (["retrievers={spec: bm25, stemmer: klingon}"], "no stemmer 'klingon'"),
        (["retrievers={kind: http}"], "http needs url"),
        (["candidates.methods=[plan, plan]"], "there twice"),
        (["candidates.fewest=20"], "fewest is 20, above most, 10"),
        (["candidates.methods=[guess]"], "candidates.methods"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_made(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as told:
        plan_retpo(read_settings(RetpoSettings, config, dict(split_set(one) for one in sets)))
    assert said in told.value.message


def test_what_a_setting_changes(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def keys(**more: Any) -> dict[str, str]:
        planned = plan_retpo(read_settings(RetpoSettings, config, more))
        return {step.stage.name: step.key for step in planned.stages}

    before = keys()
    assert keys(workers=3) == before
    assert keys(ignore_identical_ids=True) == before  # a corpus with _id is BEIR's
    kept = keys(ignore_identical_ids=False)
    assert kept["candidates"] == before["candidates"] and kept["bm25_ranks"] != before["bm25_ranks"]
    places = {plan_retpo(read_settings(RetpoSettings, config, {"instruction": one})).dataset for one in ("a", "b", "a")}
    assert len(places) == 2
    same = keys(**{"pairs.per_turn": 2})
    assert {name for name in before if before[name] != same[name]} == {"query_pairs", "pareto_pairs"}
    same = keys(**{"candidates.most": 7})
    assert before["dense_index"] == same["dense_index"]
    assert before["candidates"] != same["candidates"]
    (tmp_path / "qrels.tsv").write_text("c0_2\t0\tp1\t1\n")
    judged = keys(**{"source.qrels": "qrels.tsv"})
    assert judged["candidates"] != before["candidates"]
    (tmp_path / "qrels.tsv").write_text("c0_2\t0\tp2\t1\n")
    assert keys(**{"source.qrels": "qrels.tsv"})["candidates"] != judged["candidates"]


def example(tmp_path: Path, name: str = "queries.jsonl") -> list[Any]:
    """The example's questions and human rewrites as a plain file with its judgements."""
    rows = [orjson.loads(line) for line in (EXAMPLE / "turns.jsonl").read_bytes().splitlines()]
    named = [(f"{row['conversation']}-{row['turn']}", row) for row in rows]
    queries = [
        {"id": name, "candidates": {"question": row["question"], "human": row["human_rewrite"]}} for name, row in named
    ]
    write_jsonl(tmp_path / name, queries)
    judged = [f"{name}\t{passage}\t1\n" for name, row in named for passage in row["gold"]]
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    corpus = EXAMPLE / "passages.jsonl"
    return ["rank", "--queries", name, "--corpus", corpus, "--qrels", "qrels.tsv", "--out", "out.jsonl"]


def test_rank_prints_the_table_or_json_and_writes_a_row_per_query_and_candidate(tmp_path: Path) -> None:
    command = example(tmp_path)
    out, err = synthmill(*command, cwd=tmp_path)
    assert "24 of 24 rows" in err
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert float(rows["human"][2]) > float(rows["question"][2])
    said, err = synthmill(*command, "--json", "--k1", 0.9, "--b", 0.4, cwd=tmp_path)
    told = orjson.loads(said)
    assert {"R@10", "MRR@10", "nDCG@10", "R@100", "MAP"} <= set(told)
    assert told["forms"]["human"]["MRR"] > told["forms"]["question"]["MRR"]
    written = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert len(written) == 48
    assert list(written[0]) == ["id", "candidate", "query", "rank", "ranks", "reward"]
    mrr = sum(1 / row["rank"] for row in written if row["candidate"] == "human" and row["rank"] <= 100) / 24
    assert told["forms"]["human"]["MRR"] == pytest.approx(mrr)
    narrow, err = synthmill(*command, cwd=tmp_path, COLUMNS="80")
    assert "question  " in narrow and "nDCG@10" in narrow and "--json" in err
    synthmill(*command[:-1], "out.parquet", "--retriever", "fusion", "--depth", 5, "--by-group", cwd=tmp_path)
    assert pl.read_parquet(tmp_path / "out.parquet")["rank"].max() <= 6


def test_rank_says_what_it_left_out_and_what_is_wrong(tmp_path: Path) -> None:
    command = example(tmp_path)
    queries = (tmp_path / "queries.jsonl").read_text()
    (tmp_path / "queries.jsonl").write_text(queries + '{"id": "unknown", "query": "x"}\n{"id": \n')
    _, err = synthmill(*command, cwd=tmp_path)
    assert "queries: 1 left out, no relevant passage in the judgements" in err
    assert "queries: 1 left out, bad_json" in err
    (tmp_path / "qrels.tsv").write_text("light-1\tnowhere\t1\n")
    _, err = synthmill(*command, cwd=tmp_path, expect=2)
    assert "nowhere is not in the corpus" in err
    (tmp_path / "qrels.tsv").write_text("other\tmuseum\t1\n")
    _, err = synthmill(*command, cwd=tmp_path, expect=2)
    assert "none of the 26 rows can be used" in err
    for change, said in (
        (["--retriever", "bm26"], "no retriever is called 'bm26'"),
        (["--stemmer", "klingon"], "no stemmer 'klingon'"),
        (["--out", "out.txt"], "unknown ending"),
        (["--corpus", "queries.jsonl"], "has no column 'text'"),
        (["--qrels", "none.tsv"], "none.tsv is not there"),
        (["--out", "queries.jsonl"], "is the input, too"),
        (["--qrels", "q.jsonl", "--out", "q.jsonl"], "is the input, too"),
        (["--retriever", "dense", "--k1", 2], "k1 means nothing to dense"),
    ):
        _, err = synthmill(*example(tmp_path), *change, cwd=tmp_path, expect=2)
        assert said in err


def test_rank_leaves_a_querys_own_passage_out_of_beir_files_and_says_how_ties_stand(tmp_path: Path) -> None:
    question = "Do lamps help ships?"
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q", "text": question}])
    passages = {"q": question, "d": "Lamps guide ships to the harbour", "e": "Lamps guide ships to the harbour"}
    write_jsonl(
        tmp_path / "corpus.jsonl", [{"_id": name, "title": "", "text": text} for name, text in passages.items()]
    )
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    (tmp_path / "run.trec").write_text("q Q0 q 1 3 x\nq Q0 d 2 1 x\nq Q0 e 3 1 x\n")
    command = ["rank", "--queries", "queries.jsonl", "--corpus", "corpus.jsonl", "--qrels", "qrels.tsv"]
    for more, reciprocal, rules, notes in (
        ([], 1, {"ignore_identical_ids": True}, ["1 query has a passage of its own id: it is left out"]),
        (["--keep-identical-ids"], 0.5, {"ignore_identical_ids": False}, ["1 query has", "it is ranked as any other"]),
        (["--retriever", "run:run.trec"], 1, {"ties": "rank"}, ["in the order of its rank column"]),
        (["--retriever", "run:run.trec", "--ties", "trec_eval"], 0.5, {"ties": "trec_eval"}, ["ids from z to a"]),
    ):
        out, err = synthmill(*command, *more, "--json", "--out", "out.jsonl", cwd=tmp_path)
        said = orjson.loads(out)
        assert said["MRR"] == reciprocal and rules.items() <= said.items()
        assert all(note in err for note in notes)


def test_rank_reads_packed_files_and_beir_folders(tmp_path: Path) -> None:
    command = example(tmp_path)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress((EXAMPLE / "passages.jsonl").read_bytes()))
    write_jsonl(tmp_path / "beir.jsonl", [{"_id": "birds-1", "text": "Are there puffins on Varn?", "metadata": {}}])
    command[2:5:2] = ["beir.jsonl", "c.jsonl.gz"]
    out, _ = synthmill(*command, "--json", cwd=tmp_path)
    told = orjson.loads(out)
    assert (told["queries"], told["MRR"]) == (1, 1.0)
    assert "forms" not in told
