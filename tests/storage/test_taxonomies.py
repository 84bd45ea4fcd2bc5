"""Taxonomy files: the one that comes with synthmill, one's own, and bad ones."""

from pathlib import Path

import pytest

from synthmill.schemas.errors import InputError
from synthmill.storage.plain_files.taxonomies import read_taxonomy


def test_the_taxonomy_that_comes_with_synthmill() -> None:
    taxonomy = read_taxonomy("")
    assert [one.name for one in taxonomy.dimensions] == [
        "style",
        "background_knowledge",
        "informativeness",
        "harmlessness",
    ]
    assert sum(len(one.subdimensions) for one in taxonomy.dimensions) >= 18
    assert taxonomy.values >= 107
    assert len({len(one.values) for dimension in taxonomy.dimensions for one in dimension.subdimensions}) == 1


def test_ones_own_taxonomy_in_either_form(tmp_path: Path) -> None:
    tree = tmp_path / "tree.json"
    tree.write_text('{"Stil": {"Ton": {"warm": [], "knapp": []}}, "Wissen": {"Laie": {"keins": []}}}')
    taxonomy = read_taxonomy(str(tree))
    assert [one.name for one in taxonomy.dimensions] == ["Stil", "Wissen"]
    assert taxonomy.dimensions[0].subdimensions[0].values == ("warm", "knapp")
    named = tmp_path / "named.yaml"
    named.write_text("language: German\nStil: {Ton: [warm]}")
    assert (read_taxonomy(str(named)).language, len(read_taxonomy(str(named)).dimensions)) == ("German", 1)
    whole = tmp_path / "whole.yaml"
    whole.write_text(
        "name: mine\nlanguage: German\ndimensions:\n  Stil:\n    description: wie\n    subdimensions: {Ton: [warm]}\n"
    )
    taxonomy = read_taxonomy(str(whole))
    assert (taxonomy.language, taxonomy.dimensions[0].description) == ("German", "wie")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "holds list; expected a mapping"),
        ("a: [", "is not valid YAML"),
        ("dimensions: {}", "dimensions: Tuple should have at least 1 item"),
        ("style: {tone: []}", "values: Tuple should have at least 1 item"),
        ("style: {tone: [warm, 3]}", "values.1: Input should be a valid string (found 3)"),
        ("style: {tone: [warm, ' WARM ']}", "style: value 'warm' is there twice; name each once"),
        ("style: {tone: [warm], voice: [Warm]}", "style: value 'warm' is there twice"),
        ("style: {tone: [' ']}", "' ': expected 1 to 120 characters, letters or digits among them"),
        ("style: {tone: [warm, '🙂']}", "letters or digits among them"),
        ('style: {tone: ["\\ud800"]}', "letters or digits among them"),
        ("'': {tone: [warm]}", "dimensions.0.name"),
        ("style: {tone: [warm, Tone]}", "style: the value 'Tone' only names its subdimension or dimension"),
        ("style: {tone: [warm]}\nstyle: {mood: [dry]}", "'style' is there twice"),
        ("style: {tone: [warm], tone: [dry]}", "'tone' is there twice"),
        (f"style: {{tone: [{'x' * 130}]}}", "expected 1 to 120 characters"),
        ("style: {tone: [warm]}\nStyle: {mood: [dry]}", "dimension 'style' is there twice"),
        ("style: {tone: [a], Tone: [b]}", "subdimension 'tone' is there twice"),
        ("style: warm", "subdimensions: Input should be a valid tuple"),
        ("dimensions: {style: {subdimensions: {tone: [warm]}, colour: red}}", "colour: no such field"),
    ],
)
def test_a_bad_taxonomy_is_named_with_its_fault(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        read_taxonomy(str(file))
    assert said in error.value.message
    assert str(file) in error.value.message
    with pytest.raises(InputError, match="is not there"):
        read_taxonomy(str(tmp_path / "none.yaml"))
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_taxonomy(str(tmp_path))
