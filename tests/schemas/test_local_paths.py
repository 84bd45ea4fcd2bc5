"""What names a file says so by its type, and is published without its folder."""

from pydantic import Field

from schemas.calls import Frozen
from schemas.local_paths import LocalPath, RowsPath, names_of_paths
from storage.published.provenance import sources_of, strip_private


class Inner(Frozen):
    lexicon: LocalPath = ""


class OwnSettings(Frozen):
    sheets: tuple[RowsPath, ...] = ()
    grammar: LocalPath | None = None
    inner: Inner = Inner()
    title: str = Field("", description="no path, whatever it begins with")


def test_paths_are_known_by_their_type() -> None:
    assert {"lexicon", "sheets", "grammar"} <= names_of_paths() and "title" not in names_of_paths()
    assert "sheets" in names_of_paths(rows=True) and "grammar" not in names_of_paths(rows=True)
    own = {"sheets": ["/a/b.csv"], "grammar": "/a/c.txt", "inner": {"lexicon": "~/d.txt"}, "title": "/not/here"}
    assert strip_private(own) == {
        "sheets": ["b.csv"],
        "grammar": "c.txt",
        "inner": {"lexicon": "d.txt"},
        "title": "/not/here",
    }
    assert [source.name for source in sources_of(own)] == ["b.csv"]
