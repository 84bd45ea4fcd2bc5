"""What the owner of a dataset writes into its card stays when the dataset is written again."""

from typing import Any

import pytest
import yaml

from synthmill.schemas.errors import InputError
from synthmill.storage.published.cards import BEGIN, END, merged_card, outline, outline_of, parse_card

HEAD: dict[str, Any] = {
    "language": ["en"],
    "license": "apache-2.0",
    "pretty_name": "Preference pairs",
    "tags": ["synthetic", "synthmill"],
    "dataset_info": {"config_name": "preference", "splits": [{"name": "train", "num_examples": 3}]},
    "configs": [{"config_name": "preference", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
}
BODY = "# Preference pairs\n\nThree rows.\n\n## How it was made\n\nBy a model.\n\n```python\n## no heading\n```\n"


def card(body: str = BODY, marks: bool = True, **head: Any) -> str:
    text = f"{BEGIN}\n{body}{END}\n" if marks else body
    return f"---\n{yaml.safe_dump({**HEAD, **head}, sort_keys=False)}---\n{text}"


def merged(theirs: str, ours: str = "", written: str = "", **more: Any) -> tuple[dict[str, Any], str, list[str]]:
    """(head, body, what was kept) of a card of ours over theirs, after we had written `written`."""
    result = merged_card(ours or card(), theirs, outline(written or card()), "README.md", **more)
    return *parse_card(result.text, "README.md"), result.kept


def test_a_card_that_nobody_edited_is_written_as_it_is() -> None:
    new = card(BODY.replace("Three", "Four"), size_categories=["n<1K"])
    assert merged_card(new, card(), outline(card()), "README.md") == (new, [])
    assert merged_card(new, "", {}, "README.md") == (new, [])
    assert merged_card(new, card(tags=["synthmill"]), outline(card(tags=["synthmill"])), "README.md") == (new, [])


def test_keys_sections_and_configurations_of_the_owner_stay() -> None:
    extra = {"config_name": "mine", "data_files": "mine.csv", "default": True}
    theirs = card(
        license="cc-by-4.0",
        pretty_name="My name",
        tags=["my-tag", "synthetic"],
        doi="10.1/2",
        configs=[*HEAD["configs"], extra],
    )
    theirs = theirs.replace(BEGIN, f"My own words first.\n\n{BEGIN}") + "\n## Ethics\n\nWritten by hand.\n"
    ours = card(BODY.replace("Three", "Four"), license="mit", tags=["synthetic", "synthmill", "new"], language=["de"])
    head, body, kept = merged(theirs, ours)
    assert (head["license"], head["pretty_name"], head["doi"]) == ("cc-by-4.0", "My name", "10.1/2")
    assert head["tags"] == ["my-tag", "synthetic", "new"]  # the owner's without ours that went, and our new one
    assert head["language"] == ["de"] and [one["config_name"] for one in head["configs"]] == ["preference", "mine"]
    assert "Four rows." in body and "Three rows." not in body
    assert body.index("My own words first.") < body.index(BEGIN) < body.index(END) < body.index("## Ethics")
    assert {"license: cc-by-4.0", "configs: mine", "the text above our part", "the text below our part"} <= set(kept)
    again = merged_card(ours, merged_card(ours, theirs, outline(card()), "R").text, outline(ours), "R")
    assert parse_card(again.text, "R") == (head, body)  # and so it stays


def test_a_key_that_the_owner_took_away_does_not_come_back_and_ours_that_goes_goes() -> None:
    theirs = card(license_name="own", license="other").replace("pretty_name: Preference pairs\n", "")
    head, _, kept = merged(theirs, written=card(license_name="own", license="other"))
    assert "pretty_name" not in head and "license_name" not in head and kept == ["no pretty_name"]
    assert merged(card(), card(), card(license="mit"))[0]["license"] == "apache-2.0"  # theirs, as is its name


def test_own_sections_between_ours_move_below_them() -> None:
    theirs = card(BODY.replace("## How it", "## Ethics\n\nBy hand.\n\n## How it"))
    _, body, kept = merged(theirs)
    assert body.index(END) < body.index("## Ethics") and body.count("## How it was made") == 1
    assert kept == ["the section 'Ethics'"]


@pytest.mark.parametrize(
    ("theirs", "named"),
    [
        (card(BODY.replace("By a model.", "By a model, and read by me.")), "## How it was made"),
        (card(BODY.replace("# Preference pairs", "# My pairs")), "# Preference pairs"),
        (card(configs=[{"config_name": "preference", "data_files": "other.csv"}]), "configs: data_files of preference"),
    ],
)
def test_what_was_changed_within_our_part_stops_it_and_is_named(theirs: str, named: str) -> None:
    with pytest.raises(InputError, match="was changed where synthmill writes") as raised:
        merged(theirs)
    assert named in raised.value.message and "--force" in raised.value.message
    head, body, _ = merged(theirs, force=True)
    assert head["configs"] == HEAD["configs"] and "By a model.\n" in body


def test_a_head_that_cannot_be_read_stops_it() -> None:
    theirs = card().replace("license: apache-2.0", "license: [apache")
    with pytest.raises(InputError, match="the head of README is no YAML"):
        merged_card(card(), theirs, outline(card()), "README")
    assert merged(theirs, force=True)[0] == HEAD


def test_a_card_from_before_there_were_marks_keeps_what_is_surely_the_owners() -> None:
    marker = {"configs": {"old": {}, "preference": {}}}
    old = {"config_name": "old", "data_files": "data/old/train-*"}
    theirs = card(
        BODY + "\n## Ethics\n\nBy hand.\n\n## Known limits\n\n- ours\n",
        marks=False,
        license="cc-by-4.0",
        tags=["my-tag", "synthetic"],
        configs=[*HEAD["configs"], old],
    )
    head, body, kept = parsed_of(merged_card(card(), theirs, outline_of(marker), "README.md"))
    assert head["license"] == "cc-by-4.0" and head["tags"] == ["my-tag", "synthetic", "synthmill"]
    assert head["configs"] == HEAD["configs"]  # what we had written then and no longer do
    assert "## Ethics" in body and "Known limits" not in body and body.count("# Preference pairs") == 1
    assert "license: cc-by-4.0" in kept and "the section 'Ethics'" in kept


def test_somebody_elses_card_stays_below_ours() -> None:
    head, body, _ = parsed_of(merged_card(card(), "# Mine\n\nwords", outline_of(None), "README.md", force=True))
    assert head == HEAD and body.index(END) < body.index("# Mine\n\nwords")


def parsed_of(result: Any) -> tuple[dict[str, Any], str, list[str]]:
    return *parse_card(result.text, "README.md"), result.kept
