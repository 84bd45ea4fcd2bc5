"""The rules as a union of settings: stored keys and records stay, and a new rule is one file."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

import synthmill.tasks.cuts.rules as rules_room
from synthmill.flows.cli import cli
from synthmill.flows.commands.list_settings import settings_of
from synthmill.flows.methods.preferences.settings import PoolSettings, PreferencesSettings
from synthmill.schemas.hashing import content_hash
from synthmill.tasks.cuts.cut import CutSettings, cut
from synthmill.tasks.cuts.pool_pairs import ALWAYS_IN_KEYS, PoolPairs, Preferences
from synthmill.tasks.cuts.rules import rules
from synthmill.tasks.cuts.rules.rip import Rip
from synthmill.tasks.cuts.rules.sweet_spot import SweetSpot

STORED: list[tuple[dict[str, Any], str, str]] = [
    ({"rule": "max-min"}, "953fb51026c69c5e8980e5ec5c51ceb9", "603f79b16e44e469b133c9c3d2d706d8"),
    ({"rule": "sweet-spot"}, "7c343d0309e85d907bb50b61d448a716", "e2f3737ae0cb6d3906c5a6f542279e30"),
    ({"rule": "rip"}, "66bb1a4f712213e9816289cf24ad0165", "058a657ddae64604254647cf8649d061"),
    ({"rule": "scalable"}, "b9cc2de96c1b839e9b4fbe98be3dab74", "0fbfb018e5227f66a178f1ce036b4d6a"),
    ({"rule": "best-random"}, "2baabf94b4199b8f40295b6ee8131e94", "dd6c98fc8cdd472db3e868bef5274a1a"),
    ({"rule": "best-bottom"}, "98870a6d6fdf3384f2118037eebb5e1d", "a499b5f0322be7ca4398f3d7171b4d81"),
    ({"rule": "top-k"}, "cfe5b1ea56129bef4fed22c89e3efb94", "ecc5fe53b07aafc65f60ac4149b72268"),
    ({"rule": "random-pairs"}, "c40d3db4bf5369f66c5322d8ea81a3c0", "18d5b6742f68143a87574de414350c91"),
    ({"rule": "tournament"}, "4de03aba22c2b3ebf5e7cfbd333ef64a", "cf00497489d901c9e340ad7f0f7d705f"),
    ({"rule": "max-min", "name": "ends"}, "26bf111eb8feb7d69916c7f0cc59aa79", "ebbc880b7edc2745aaa455af36f714e7"),
    (
        {"rule": "sweet-spot", "chosen": "mu+s", "rejected": "mu-s", "ddof": 1},
        "6da69ad37e11adb1e930e38df6436f3a",
        "25e15b8c4a957db056324b769379ca34",
    ),
    (
        {"rule": "rip", "gap": 1, "gap_quantile": None, "length": "tokens", "tokenizer": "folder"},
        "67c26a49942084c87c6c77a0e07e6f1a",
        "427187c07a09c5b2ae7d94b67c030e9e",
    ),
    (
        {"rule": "rip", "rejected_reward": 0.5, "rejected_length_quantile": 0.25},
        "5cb59fb36e912b3dca7c8bfe793b1f1c",
        "81b7c379674eca90acde7453d201f5ea",
    ),
    ({"rule": "rip", "preset": "helpsteer2"}, "ef157919f96be1afaeaf1269547f3819", "a55e6e4f66064aca1dec9c183e6dff34"),
    (
        {"rule": "rip", "thresholds": "limits.json"},
        "b1ee006eb20ef62724d9af9f5451a0b2",
        "a96ef524128c3801cc41b7dcbce83258",
    ),
    (
        {"rule": "scalable", "draw": 9, "seed": 3},
        "e5f1e3c4447b617c76738fe0223f8f1e",
        "596f5498c2c97f0150d85b9f9b10c24b",
    ),
    ({"rule": "best-random", "seed": 3}, "9329b8f1be626a0b903888ac19afa0be", "795f649840fcf7f996a16bfe2945a7d4"),
    (
        {"rule": "best-bottom", "bottom_percent": 10},
        "5242f99afb1f44dbcf5235ea58940bb1",
        "2d6171e09fb8d53d55158bf903c80f59",
    ),
    ({"rule": "top-k", "count": 3}, "9cb015152227a2c83dd76de60a83fbc6", "e1b44bfe861558e6a1bc716091af803b"),
    (
        {"rule": "random-pairs", "count": 4, "seed": 3},
        "bd617379e08e4f7a7d570b4b823b359a",
        "f20cf1966b6ca6e7b36b0aa9dae89116",
    ),
    ({"rule": "tournament", "seed": 3}, "f5767927bfdbe5f4a6abe51df9fd9120", "9b0f9c5d268f6e8183d919cb82ad17b3"),
]
"""Settings, and the keys that stores have of `pool_pairs` and `preferences` with this rule alone."""


@pytest.mark.parametrize(("settings", "pool_pairs", "preferences"), STORED, ids=lambda value: str(value)[:80])
def test_stored_pairs_keep_their_keys(settings: dict[str, Any], pool_pairs: str, preferences: str) -> None:
    cuts: Any = [settings]
    assert content_hash(PoolPairs(reward="r3", cuts=cuts).identity({})) == pool_pairs
    assert content_hash(Preferences(cuts=cuts).identity({})) == preferences


def test_every_rule_has_a_stored_key() -> None:
    """Of those that were there when one model held the settings of all."""
    alone = [settings["rule"] for settings, *_ in STORED if len(settings) == 1]
    fields = {name for rule in alone for name in CutSettings.kinds()[rule].model_fields}
    assert fields == {"rule", "name", "cut_answers", *ALWAYS_IN_KEYS}


@pytest.mark.parametrize("settings", [settings for settings, *_ in STORED], ids=str)
def test_stored_records_are_read(settings: dict[str, Any]) -> None:
    """A record of an older version holds the fields of all rules."""
    record = json.loads(json.dumps({"name": "", **ALWAYS_IN_KEYS, **settings}))
    rule = CutSettings.model_validate(record)
    assert rule == CutSettings.model_validate(settings)
    assert {**record, **rule.model_dump(mode="json")} == record
    assert CutSettings.model_validate(rule.model_dump(exclude_defaults=True)) == rule


def test_a_rule_is_written_as_its_name_or_with_settings() -> None:
    def read(cuts: Any) -> tuple[CutSettings, ...]:
        return PreferencesSettings.model_validate({"source": "x.jsonl", "cuts": cuts}).cuts

    assert read(["rip", {"spec": "sweet-spot", "rejected": "mu-s"}]) == (Rip(), SweetSpot(rejected="mu-s"))
    assert read({"rule": "rip", "gap": 2}) == (Rip(gap=2),)
    assert read("rip") == (Rip(),)
    for cuts, fault in (
        ("zip", "no rule is called 'zip' \\(did you mean rip\\?\\); expected band, best-bottom, .* or wrpo"),
        ({"gap": 1}, "there is no rule; expected band, best-bottom, .* or wrpo"),
        ({"spec": "max-min", "gap_quantile": None}, "gap_quantile means nothing to max-min; it belongs to rip"),
        ({"spec": "rip", "seed": 1}, "seed means nothing to rip; it belongs to .*scalable, tournament"),
    ):
        with pytest.raises(ValidationError, match=fault):
            read(cuts)


def test_files_are_called_as_their_rules() -> None:
    assert list(rules()) == sorted(CutSettings.kinds()) and all(rules().values())


NEW_RULE = '''
"""The highest reward over the second highest."""

from typing import Literal

from synthmill.tasks.cuts.cut import CutSettings, Places
from synthmill.tasks.cuts.points import ordered


class Photofinish(CutSettings):
    rule: Literal["photo-finish"] = "photo-finish"
    behind: int = 1

    def places(self, pools, seven, ids):
        order = ordered(pools, ascending=False)
        rejected = order[pools.starts[:-1] + self.behind]
        return Places(seven.places[:, 6:], rejected[:, None], {"behind": [self.behind] * len(pools)})
'''


def test_a_new_rule_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo_finish.py").write_text(NEW_RULE)
    monkeypatch.setattr(rules_room, "__path__", [*rules_room.__path__, str(tmp_path)])
    settings = PreferencesSettings.model_validate(
        {"source": "x.jsonl", "cuts": ["rip", "photo-finish", {"spec": "photo-finish", "name": "third", "behind": 2}]}
    )
    assert [rule.label for rule in settings.cuts] == ["rip", "photo-finish", "third"]
    assert PreferencesSettings.model_validate_json(settings.model_dump_json()) == settings
    answers, rewards = [["a", "b", "c"]], [[1.0, 3.0, 2.0]]
    table = pa.table({"prompt_id": ["p"], "answers": answers, "rewards": rewards})
    for rule, rejected in zip(settings.cuts, ("a", "c", "a"), strict=True):
        assert cut(table, rule).pairs.select(["chosen", "rejected"]).to_pylist() == [
            {"chosen": "b", "rejected": rejected}
        ]
    assert "third" in str(PoolPairs(cuts=settings.cuts).identity({}))
    assert "The highest reward over the second highest" in CliRunner().invoke(cli, ["pairs", "--help"]).output
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"prompt_id": "p", "prompt": "P?", "answers": answers[0], "rewards": rewards[0]})
    )
    source, out = str(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    done = CliRunner().invoke(cli, ["pairs", source, "--rule", "photo-finish", "--out", str(out)])
    assert done.exit_code == 0 and json.loads(out.read_text())["rejected"] == "c"
    meanings = {name: meaning for name, _, meaning in settings_of(PoolSettings)}
    assert "photo-finish" in meanings["cuts.rule"] and meanings["cuts.behind"] == "photo-finish: "
    with pytest.raises(ValidationError, match="behind means nothing to rip; it belongs to photo-finish"):
        CutSettings.model_validate({"spec": "rip", "behind": 2})
