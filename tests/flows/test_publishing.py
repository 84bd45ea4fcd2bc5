"""From a finished run to trainers, the Hub and people: export, lineage, report, difference."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from synthmill.flows.pages.report import report_page
from synthmill.storage.artifacts import Store
from synthmill.storage.published.configurations import Dataset, Table
from synthmill.storage.runs import RunRecord
from tests.command import synthmill
from tests.conftest import ChatServer, prompts, write_jsonl
from tests.hub_server import Fault, HubServer
from tests.tiny import make_tiny_model, one_step, tiny_reward_model

ROWS = 24
TOKENS = {"a-token": ("me", ["my-lab"]), "other-token": ("other", [])}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, session_server: ChatServer) -> Path:
    """A folder with a store of two finished runs of `synthesize`; the second one has a row more and another setting."""
    home = tmp_path_factory.mktemp("publishing")
    (home / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Rows to start from\n")
    settings: dict[str, Any] = {
        "source": "in.jsonl",
        "engines": {"teacher": session_server.spec},
        "answers": {"count": 3},
        "dedup": {"layers": ["exact"]},  # the prompts differ by a number only
        "workers": 0,
    }
    for rows in (ROWS, ROWS + 1):
        write_jsonl(home / "in.jsonl", prompts(rows))
        (home / "run.yaml").write_text(yaml.safe_dump(settings))
        synthmill("run", "synthesize", "--config", "run.yaml", cwd=home, OPENAI_API_KEY="sk-planted-secret-42")
        settings["decontaminate"] = {"layers": ["words"]}
    return home


def runs(home: Path) -> list[str]:
    return sorted(path.stem for path in (home / "store" / "runs").glob("*.json"))


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(TOKENS) as server:
        yield server


def test_a_folder_that_trainers_load(home: Path, tmp_path: Path) -> None:
    formats = ("as-made", "sft", "dpo-plain", "kto", "reward", "prompts", "sharegpt", "alpaca", "openai")
    chosen = [part for one in formats for part in ("--format", one)]
    command = ("export", "synthesize", "--to", tmp_path / "out", *chosen, "--test", 0.3)
    synthmill(*command, cwd=home, OPENAI_API_KEY="sk-planted-secret-42", HF_TOKEN="hf_planted_secret_43")
    from datasets import get_dataset_config_names, load_dataset
    from huggingface_hub import DatasetCard

    names = get_dataset_config_names(str(tmp_path / "out"))
    assert names == ["preference", *(f"preference_{one.replace('-', '_')}" for one in formats[1:-1])]
    ids: dict[str, set[str]] = {"train": set(), "test": set()}
    for name in names:
        loaded = load_dataset(str(tmp_path / "out"), name, cache_dir=str(tmp_path / "cache"))
        assert set(loaded) == {"train", "test"}
        for split, rows in loaded.items():
            ids[split] |= {one.partition("-")[0] for one in rows["id"]}
    assert not ids["train"] & ids["test"] and len(ids["train"] | ids["test"]) == ROWS + 1
    lines = (tmp_path / "out" / "openai" / "preference-train.jsonl").read_text().splitlines()
    assert len(lines) == len((tmp_path / "out" / "ids" / "preference_openai-train.txt").read_text().split())
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "cc-by-4.0" and card.data.language == ["en"]
    assert {one["config_name"] for one in card.data["dataset_info"]} == set(names)
    assert "No prompt is in both" in card.text and runs(home)[1] in card.text
    assert re.search(r"`multifaceted/system_message@\w+`", card.text)
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"planted" not in data and str(home).encode() not in data, path
    config = yaml.safe_load((tmp_path / "out" / "synthmill.yaml").read_text())
    assert "base_url" not in config["engines"]["teacher"] and config["source"]["path"] == "in.jsonl"
    again = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    synthmill(*command, cwd=home)
    assert again == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_an_export_for_a_trainer_takes_the_place_of_one_for_another(home: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    out = tmp_path / "out"
    synthmill("export", "synthesize", "--to", out, "--for", "axolotl", "--as", "sft", cwd=home)
    assert yaml.safe_load((out / "preference_sft.yaml").read_text())["datasets"][0]["type"] == "chat_template"
    synthmill("export", "synthesize", "--to", out, "--for", "llama-factory", "--test", 0.3, cwd=home)
    info = json.loads((out / "dataset_info.json").read_text())
    assert set(info) == {"preference_pairs", "preference_pairs_test"} and not (out / "preference_sft.yaml").exists()
    loaded = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].num_rows + loaded["test"].num_rows == ROWS + 1
    lines = (out / info["preference_pairs"]["file_name"]).read_text().splitlines()
    assert len(lines) == loaded["train"].num_rows and json.loads(lines[0])["chosen"]["from"] == "gpt"
    card = (out / "README.md").read_text()
    assert "For LLaMA-Factory (read with version 0.9.5):" in card and "It opens with `datasets` 4.0 or newer." in card


def test_what_export_refuses(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "theirs").mkdir()
    marker = {"configs": {}, "files": [], "written": [], "flow": "other"}
    (tmp_path / "theirs" / "synthmill.json").write_text(json.dumps(marker))
    for arguments, said in (
        (
            ("nothing", "--to", tmp_path / "out"),
            "has no run with a dataset 'nothing'; expected an id, its beginning, `latest`",
        ),
        (("2", "--to", tmp_path / "out"), "2 runs begin with '2'"),
        (("latest", "--to", tmp_path / "mine"), "holds something else"),
        (("latest", "--to", tmp_path / "mine" / "thesis.txt", "--force"), "is a file"),
        (("latest", "--to", "store", "--force"), "lie within each other"),
        (("latest", "--to", "hf://me/pairs"), "is no place on the Hub"),
        (("latest", "--to", tmp_path / "mine" / "thesis.txt" / "x"), "is a file"),
        (("latest", "--to", tmp_path / "out", "--test", "nan"), "test: "),
        (("latest", "--to", tmp_path / "theirs"), "holds another dataset: its flow is other"),
        (("latest", "--to", tmp_path / "out", "--format", "triplets"), "cannot|triplets; there is preference"),
        (("latest", "--to", tmp_path / "out", "--shard-size", "many"), "'many' is no size"),
        (("latest", "--to", tmp_path / "out", "--for", "trl", "--format", "sft"), "exclude each other"),
        (("latest", "--to", tmp_path / "out", "--for", "mlx-lm"), "MLX LM reads sft; nothing here can be written"),
    ):
        _, err = synthmill("export", *arguments, cwd=home, expect=2)
        assert any(one in err for one in said.split("|")), err
    assert not (tmp_path / "out").exists()
    out, _ = synthmill("export", "latest", "--to", tmp_path / "out", "--dry-run", cwd=home)
    assert "data/train-00000-of-00001.parquet" in out and not (tmp_path / "out").exists()
    leaked = pl.read_parquet(next((home / "store" / "datasets").glob("*/data/*.parquet")))["chosen"][0][0]["content"]
    _, err = synthmill("export", "latest", "--to", tmp_path / "out", cwd=home, expect=2, MY_API_KEY=leaked)
    assert "MY_API_KEY" in err and leaked not in err


def test_a_row_leads_back_to_its_input(home: Path, tmp_path: Path) -> None:
    synthmill("export", "latest", "--to", tmp_path / "out", "--format", "kto", cwd=home)
    row = pl.read_parquet(tmp_path / "out" / "data" / "*.parquet").row(3, named=True)
    out, _ = synthmill("show", row["id"], cwd=home, COLUMNS="400")
    stages = re.findall(r"^(\w+)_[0-9a-f]{8}  row", out, re.MULTILINE)
    made = [
        "instructions",
        "preference_sets",
        "system_messages",
        "variants",
        "answers",
        "rewards",
        "pairs",
        "unique_pairs",
    ]
    assert stages == made
    assert out.count("  call ") == 1 + 1 + 3
    asked = " ".join(row["prompt"][-1]["content"].split())
    assert f"prompt: {asked}" in out and "multifaceted/preference_set@" in out and "rewards: " in out
    _, err = synthmill("show", "no-such-row", cwd=home, expect=2)
    assert "no artifact and no row 'no-such-row'" in err


def test_what_changed_between_two_runs(home: Path) -> None:
    one, other = runs(home)
    out, _ = synthmill("diff", one, other, cwd=home)
    assert 'decontaminate.layers: ["words","meaning"] -> ["words"]' in out
    assert f"{ROWS:,} rows in both, 0 changed, 0 lost, 1 gained" in out
    told = json.loads(synthmill("diff", one, other, "--json", cwd=home)[0])
    assert told["stages"]["instructions"] == [ROWS, ROWS + 1, 0, 0]
    assert told["prompts"] == {} and told["models"] == {}
    assert told["distributions"]["preference: chosen_reward"][0][0] == ROWS


def test_the_report_of_a_run(home: Path) -> None:
    out, _ = synthmill("report", "latest", "--rows", 5, cwd=home)
    page = Path(out.strip()).read_text()
    assert page.count("<article") == 5 and page.count("<svg") == 5 and "5 of 25, evenly spaced" in page
    for said in ("all answers", "What became of the rows", "system_messages", "<mark>"):
        assert said in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)


HOSTILE = (
    "<script>document.title='owned'</script>",
    "</script><img src=x onerror=\"document.title='owned'\">",
    "![x](http://127.0.0.1:9/pixel.png) [a](javascript:document.title='owned')",
    "\u202eright to left override\u202c \x1b[31mred\x07 {{ 7 * 7 }}",
    "مرحبا بالعالم",
)


def hostile_page(folder: Path, times: int = 1) -> Path:
    rows = [
        {
            "id": f"{text}{n}",
            "prompt": [{"role": "user", "content": text}],
            "chosen": [{"role": "assistant", "content": text + " better"}],
            "rejected": [{"role": "assistant", "content": text}],
            "chosen_reward": 1.0,
            "rejected_reward": 0.5,
        }
        for n, text in enumerate(HOSTILE * times)
    ]
    dataset = Dataset(HOSTILE[0], HOSTILE[1], {HOSTILE[0]: Table.of(pl.DataFrame(rows), "preferences", HOSTILE[1])})
    run = RunRecord(id="r", flow=HOSTILE[0], started_at="2026-01-01", error=HOSTILE[1])
    path = folder / "report.html"
    path.write_text(report_page(Store(folder), run, dataset, len(rows)))
    return path


def test_a_hostile_row_is_text(tmp_path: Path) -> None:
    page = hostile_page(tmp_path).read_text()
    assert page.count("<script") == 1 and "<img" not in page and "\x1b" not in page and "\x07" not in page
    assert "&lt;script&gt;" in page and "49" not in re.sub(
        r"\d{3,}|[\d.]+[,% ]|#\w+", "", page.split("Rows to read")[-1]
    )


def test_five_thousand_rows_are_one_page(tmp_path: Path) -> None:
    page = hostile_page(tmp_path, 1000).read_text()
    assert page.count("<article") == 5000 and len(page) < 20e6


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_hostile_row_does_nothing_in_a_browser(tmp_path: Path) -> None:
    path = hostile_page(tmp_path)
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=2000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "<title>&lt;script&gt;document.title='owned'&lt;/script&gt;</title>" in done.stdout, done.stderr[-500:]
    assert 'class="live"' in done.stdout  # our own script did run


def push(
    home: Path, hub: HubServer, tmp_path: Path, *more: Any, expect: int = 0, token: str = "a-token"
) -> tuple[str, str]:
    given = hub.environment(tmp_path, token=token) | {"HF_HUB_OFFLINE": "0"}
    arguments = ("export", "latest", "--to", "hf://datasets/my-lab/pairs", "--shard-size", "2KB", *more)
    return synthmill(*arguments, cwd=home, expect=expect, **given)


def test_push_load_compare(home: Path, hub: HubServer, tmp_path: Path) -> None:
    out, _ = push(home, hub, tmp_path, "--dry-run")
    assert "send" in out and "my-lab/pairs" not in hub.repos
    out, err = push(home, hub, tmp_path, "--private", "--test", 0.3)
    tag = runs(home)[1]
    assert f'load_dataset("my-lab/pairs", revision="{tag}")' in out and "files sent" in err
    assert hub.repos["my-lab/pairs"].private and len(hub.repos["my-lab/pairs"].commits) <= 2
    there = hub.files("my-lab/pairs", tag)
    shards = [name for name in there if name.endswith(".parquet")]
    assert len(shards) > 3
    script = (
        "from datasets import load_dataset\n"
        f"rows = load_dataset('my-lab/pairs', 'preference', revision={tag!r})\n"
        "print(sorted([*rows['train']['id'], *rows['test']['id']]))"
    )
    given = {**hub.environment(tmp_path, token="a-token"), "HF_HUB_OFFLINE": "0"}
    told = python(script, tmp_path, given)
    local = pl.read_parquet(next(iter(sorted((home / "store" / "datasets").glob("*/data/*.parquet"), key=age))))
    assert told == str(sorted(local["id"]))
    (tmp_path / "nobody").mkdir()
    stranger = {**given, "HF_TOKEN": "", "HF_HOME": str(tmp_path / "nobody")}
    assert "DatasetNotFoundError" in python(script, tmp_path / "nobody", stranger, fails=True)

    valid = "from huggingface_hub import DatasetCard\nDatasetCard.load('my-lab/pairs').validate()\nprint('valid')"
    assert python(valid, tmp_path, given) == "valid"

    commits = len(hub.repos["my-lab/pairs"].commits)
    _, err = push(home, hub, tmp_path, "--test", 0.3)
    assert "nothing to send" in err and len(hub.repos["my-lab/pairs"].commits) == commits
    out, _ = push(home, hub, tmp_path, "--format", "kto")
    assert f'revision="{tag}-2"' in out  # another version of the same run
    assert set(hub.files("my-lab/pairs", tag)) == set(there)
    now = hub.files("my-lab/pairs")
    assert any("/test-" in name for name in shards) and not any("/test-" in name for name in now)
    out, _ = push(home, hub, tmp_path, "--revision", "next", "--tag", "v2")
    assert "v2" in out and set(hub.files("my-lab/pairs", "next")) != set(now)


def age(path: Path) -> float:
    return -path.stat().st_mtime


def python(script: str, folder: Path, given: dict[str, str], fails: bool = False) -> str:
    import sys

    from tests.command import environment

    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(folder, **given), capture_output=True, text=True
    )
    assert fails or done.returncode == 0, done.stderr[-2000:]
    return (done.stderr if fails else done.stdout).strip()


def test_pushing_goes_on_after_faults(home: Path, hub: HubServer, tmp_path: Path) -> None:
    hub.faults += [Fault("PUT", ".", "cut", skip=1), Fault("PUT", ".", 403, times=99, skip=3)]
    _, err = push(home, hub, tmp_path, expect=1)
    assert "run the same command again" in err and "Traceback" not in err
    hub.faults.clear()
    before = dict(hub.repos["my-lab/pairs"].lfs)
    hub.requests.clear()
    push(home, hub, tmp_path)
    assert before and not [
        path for method, path in hub.requests if method == "PUT" and any(oid in path for oid in before)
    ]

    # somebody writes in between: we look again, and their file stays
    def meddle() -> None:
        hub.commit("my-lab/pairs", {"LICENSE": b"mine"})

    hub.faults.append(Fault("POST", "/commit/", None, before=meddle))
    _, err = push(home, hub, tmp_path, "--format", "reward")
    assert "412" in err and "looking again" in err and hub.files("my-lab/pairs")["LICENSE"] == b"mine"
    hub.faults.append(Fault("POST", "/commit/", 409))
    push(home, hub, tmp_path, "--format", "sft")
    hub.faults[:] = [Fault("POST", "/commit/", 500, times=9)]
    _, err = push(home, hub, tmp_path, "--format", "kto", expect=1)
    assert "the Hub answered 500" in err
    hub.faults.clear()
    push(home, hub, tmp_path, "--format", "kto", "--tag", "v1")
    _, err = push(home, hub, tmp_path, "--format", "alpaca", "--tag", "v1", expect=2)
    assert "has a tag v1 of another version already" in err
    hub.faults.append(Fault("POST", "/tag/", 409))
    push(home, hub, tmp_path, "--format", "alpaca")
    assert set(hub.repos["my-lab/pairs"].tags) == {"v1", *(runs(home)[1] + end for end in ("", "-2", "-3", "-4"))}


def test_whose_dataset_it_is(home: Path, hub: HubServer, tmp_path: Path) -> None:
    for token, expect, said in (
        ("", 2, "no token"),
        ("wrong", 2, "refuses this token"),
        ("other-token", 2, "is not yours"),
    ):
        _, err = push(home, hub, tmp_path, token=token, expect=expect)
        assert said in err
    hub.commit("my-lab/pairs", {"README.md": b"# Mine", "data.csv": b"a,b"})
    _, err = push(home, hub, tmp_path, expect=2)
    assert "that synthmill did not make" in err
    _, err = push(home, hub, tmp_path, "--dry-run", expect=2)
    _, err = push(home, hub, tmp_path, "--revision", "mine", expect=2)  # a new branch would begin with their files
    assert "that synthmill did not make" in err and "mine" not in hub.repos["my-lab/pairs"].branches
    _, err = push(home, hub, tmp_path, "--force", "--private", expect=2)
    assert "is public already" in err
    push(home, hub, tmp_path, "--force")
    assert "data.csv" in hub.files("my-lab/pairs")
    marker = json.loads(hub.files("my-lab/pairs")["synthmill.json"]) | {"sources": ["other.jsonl"]}
    hub.commit("my-lab/pairs", {"synthmill.json": json.dumps(marker).encode()})
    _, err = push(home, hub, tmp_path, expect=2)
    assert "is another dataset: its sources" in err


def owners(card: str) -> str:
    """A card as its owner has edited it."""
    own = "- config_name: mine\n  data_files: data/mine/*.parquet\n"
    for ours, theirs in (
        ("license: cc-by-4.0", "license: cc0-1.0"),
        ("tags:\n", "tags:\n- my-own-tag\n"),
        ("pretty_name: Preference pairs", "pretty_name: My pairs"),
        ("configs:\n", f"configs:\n{own}"),
    ):
        assert ours in card
        card = card.replace(ours, theirs, 1)
    return f"{card}\n\n## Ethics\n\nWritten by hand.\n"


def is_owners(card: str) -> bool:
    wanted = ("license: cc0-1.0", "- my-own-tag", "pretty_name: My pairs", "config_name: mine", "Written by hand.")
    return all(text in card for text in wanted)


def test_what_the_owner_wrote_on_the_hub_stays(home: Path, hub: HubServer, tmp_path: Path) -> None:
    push(home, hub, tmp_path)
    mine = {
        "data/mine/own.parquet": b"PAR1",
        "README.md": owners(hub.files("my-lab/pairs")["README.md"].decode()).encode(),
    }
    hub.commit("my-lab/pairs", mine)
    _, err = push(home, hub, tmp_path, "--dry-run", "--format", "kto")
    assert "kept in README.md, as its owner has it: license: cc0-1.0" in err
    script = (  # as a weekly deployment does it
        "from synthmill.flows.deployed import publish\nfrom synthmill.schemas.export_settings import ExportSettings\n"
        f"publish.fn(ExportSettings(store={str(home / 'store')!r}, to='hf://datasets/my-lab/pairs', formats=('kto',)))"
    )
    given = {**hub.environment(tmp_path, token="a-token"), "HF_HUB_OFFLINE": "0"}
    python(script, tmp_path, given)
    files = hub.files("my-lab/pairs")
    card = files["README.md"].decode()
    assert is_owners(card) and "config_name: preference_kto" in card and files["data/mine/own.parquet"] == b"PAR1"
    assert "config_name: preference\n" not in card and not any(name.startswith("data/preference/") for name in files)
    python(script, tmp_path, given)
    assert hub.files("my-lab/pairs") == files

    within = card.replace("## Known limits\n", "## Known limits\n\n- one that I found\n")
    hub.commit("my-lab/pairs", {"README.md": within.encode()})
    for more in ((), ("--dry-run",)):
        _, err = push(home, hub, tmp_path, *more, expect=2)
        assert "was changed where synthmill writes (## Known limits)" in err
    assert hub.files("my-lab/pairs")["README.md"] == within.encode()
    push(home, hub, tmp_path, "--force")
    card = hub.files("my-lab/pairs")["README.md"].decode()
    assert is_owners(card) and "one that I found" not in card


def test_what_the_owner_wrote_into_a_folders_card_stays(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthmill("export", "latest", "--to", out, cwd=home)
    (out / "README.md").write_text(owners((out / "README.md").read_text()))
    for more in (("--dry-run",), ()):
        _, err = synthmill("export", "latest", "--to", out, "--format", "kto", *more, cwd=home)
        assert "kept in README.md, as its owner has it: the text below our part" in err
    assert is_owners((out / "README.md").read_text()) and "preference_kto" in (out / "README.md").read_text()


def test_a_run_of_other_settings_is_still_looked_at(home: Path, tmp_path: Path) -> None:
    """Its record has a setting that no model of today knows, and one of a kind that it may not have."""
    shutil.copytree(home / "store", tmp_path / "store")
    for path in (tmp_path / "store" / "runs").glob("*.json"):
        record = json.loads(path.read_text())
        record["settings"] |= {"gone_by_now": 3, "answers": {"count": "three", "was_here": True}}
        path.write_text(json.dumps(record))
    one, other = runs(home)
    for command in (
        ("export", "latest", "--to", "out", "--test", 0.2),
        ("report", "latest"),
        ("diff", one, other),
        ("ls",),
    ):
        synthmill(*command, cwd=tmp_path)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: unknown" in card and "| `in.jsonl` | unknown |" in card  # its source's card is not in this folder
    assert yaml.safe_load((tmp_path / "out" / "synthmill.yaml").read_text())["answers"] == {"count": 3}
    row = pl.read_parquet(tmp_path / "out" / "data" / "train-*.parquet")["id"][0]
    assert "unique_pairs" in synthmill("show", row, cwd=tmp_path)[0]


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_damaged_dataset_is_found_and_written_anew(
    home: Path, tmp_path: Path, session_server: ChatServer, damage: str
) -> None:
    copied = tmp_path / "home"
    shutil.copytree(home, copied)
    latest = json.loads((copied / "store" / "runs" / f"{runs(home)[1]}.json").read_text())
    [shard] = (copied / "store" / "datasets" / Path(latest["dataset"]).name / "data").glob("*.parquet")
    whole = shard.read_bytes()
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(whole[:200] + bytes([whole[200] ^ 4]) + whole[201:])
    out, _ = synthmill("verify", cwd=copied, expect=1)
    assert f"{shard.name} {'is gone' if damage == 'gone' else 'does not match its checksum'}" in " ".join(out.split())
    _, err = synthmill("export", "latest", "--to", tmp_path / "out", cwd=copied, expect=1)
    assert "run its flow again" in err and not (tmp_path / "out").exists()
    asked = session_server.stats()["total"]
    synthmill("run", "synthesize", "--config", "run.yaml", cwd=copied)
    assert shard.read_bytes() == whole and session_server.stats()["total"] == asked
    synthmill("verify", cwd=copied)


def test_every_format_goes_through_its_trainer(home: Path, tmp_path: Path) -> None:
    formats = ("sft", "dpo", "dpo-plain", "kto", "reward")
    chosen = [part for one in formats for part in ("--format", one)]
    synthmill("export", "latest", "--to", tmp_path / "out", *chosen, cwd=home)
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    model = str(make_tiny_model(tmp_path / "model"))
    scorer = tiny_reward_model(tmp_path / "scorer", 1)
    common = one_step(tmp_path / "trained")
    trainers: list[tuple[str, Any, Any, Any]] = [
        ("sft", SFTTrainer, SFTConfig, model),
        ("dpo", DPOTrainer, DPOConfig, model),
        ("dpo_plain", DPOTrainer, DPOConfig, model),
        ("kto", KTOTrainer, KTOConfig, model),
        (
            "reward",
            RewardTrainer,
            RewardConfig,
            AutoModelForSequenceClassification.from_pretrained(scorer, num_labels=1),
        ),
    ]
    for name, trainer, config, start in trainers:
        rows = load_dataset(
            str(tmp_path / "out"), f"preference_{name}", split="train", cache_dir=str(tmp_path / "cache")
        )
        made = trainer(
            model=start,
            args=config(**common),
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(model),
        )
        made.train()
        assert made.state.global_step == 1, name
