"""What names a file says so by its type, and is published without its folder."""

from pydantic import Field

from synthmill.schemas.calls import Frozen
from synthmill.schemas.local_paths import LocalPath, RowsPath, path_settings
from synthmill.storage.published.provenance import sources_of, strip_private


class Inner(Frozen):
    lexicon: LocalPath = ""


class OwnSettings(Frozen):
    sheets: tuple[RowsPath, ...] = ()
    grammar: LocalPath | None = None
    inner: Inner = Inner()
    title: str = Field("", description="no path, whatever it begins with")


def test_paths_are_known_by_their_type() -> None:
    assert {"lexicon", "sheets", "grammar"} <= path_settings() and "title" not in path_settings()
    assert "sheets" in path_settings(rows=True) and "grammar" not in path_settings(rows=True)
    own = {"sheets": ["/a/b.csv"], "grammar": "/a/c.txt", "inner": {"lexicon": "~/d.txt"}, "title": "/ no path"}
    assert strip_private(own) == {
        "sheets": ["b.csv"],
        "grammar": "c.txt",
        "inner": {"lexicon": "d.txt"},
        "title": "/ no path",
    }
    assert strip_private({"nobody_knows": "/home/me/x.yaml"}) == {"nobody_knows": "x.yaml"}
    assert [source.name for source in sources_of(own)] == ["b.csv"]
