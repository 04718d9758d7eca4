"""The digest of a report: the same as long as the index says the same; else it tells which part is another one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from audited import audit, make_audited

from csp_index import Index, SourceError, open_index
from csp_index.studies.reporting.check import check_report
from csp_index.studies.reporting.seal import FORMAT, META, closed, digest_of, is_intact, stated_seal


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    own = make_audited(tmp_path_factory.mktemp("own"))
    audit(own)
    return own


def test_an_index_that_says_the_same_gives_the_same_digest(index: Index, tmp_path: Path) -> None:
    file = index.report(index.stored_audit(), tmp_path / "r.html")
    again = index.report(index.stored_audit(), tmp_path / "again.html")
    found = index.check_report(file)
    assert found.good and found.same and found.intact and not found.differing
    assert stated_seal(file.read_bytes()) == stated_seal(again.read_bytes()) and found.digest in file.read_text()
    assert "the file is as it was written" in found.lines()[0] and found.digest in found.lines()[1]


def test_what_the_index_now_says_otherwise_is_named(index: Index, tmp_path: Path) -> None:
    index = open_index(shutil.copytree(index.uri, tmp_path / "copy"))
    file = index.report(index.stored_audit(), tmp_path / "r.html")
    index.note(f"finding:{index.stored_audit().findings[0].finding}", "reject", by="Ann")
    found = index.check_report(file)
    assert found.intact and not found.same and not found.good
    assert found.differing == ("verdicts", "what was not looked at")
    assert "another digest" in found.lines()[1] and "verdicts" in found.lines()[1]
    audit(index, expected=("star", "ring", "pink"))
    assert {"audit", "findings"} < set(index.check_report(file).differing)
    with index.store.write_lock():
        index.store.delete("audits", "true")
    gone = index.check_report(file)
    assert gone.now is None and not gone.good and "no such audit any more" in gone.lines()[1]
    assert gone.as_json()["now"] is None


def test_a_file_that_was_changed_is_told_from_one_that_was_not(index: Index, tmp_path: Path) -> None:
    file = index.report(index.stored_audit(), tmp_path / "r.html")
    whole = file.read_bytes()
    assert is_intact(whole)
    for changed in (whole.replace(b"more than its class", b"less than its class"), whole + b"<p>", whole[:-1]):
        assert changed != whole
        file.write_bytes(changed)
        found = index.check_report(file)
        assert found.same and not found.intact and "was changed" in found.lines()[0]
    forged = whole.rpartition(b"<!--")[0].decode().replace("&#34;verdicts&#34;: &#34;", "&#34;verdicts&#34;: &#34;0")
    file.write_bytes(closed(forged))
    assert is_intact(file.read_bytes()) and not index.check_report(file).intact, "the digest is not that of its parts"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<p>nothing</p>",
        f'<meta name="{META}" content="[1]">',
        f'<meta name="{META}" content="{{}}">',
        f'<meta name="{META}" content=\'{{"format": "{FORMAT}", "model": 1, "layer": "l", "by": "b", "digest": "d", '
        '"parts": {}}\'>',
        f'<meta name="{META}" content="{"[" * 30_000}">',
    ],
)
def test_other_files_are_no_reports(index: Index, tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.html"
    file.write_text(text)
    with pytest.raises(SourceError, match="is no report of an audit"):
        check_report(index.store, file)


def test_a_file_that_cannot_be_read_is_named(index: Index, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.html", tmp_path):
        with pytest.raises(SourceError, match=f"the report {path} cannot be read"):
            check_report(index.store, path)


def test_a_digest_depends_on_values_and_not_on_the_order_of_names() -> None:
    assert digest_of({"a": [1, 2], "b": None}) == digest_of({"b": None, "a": [1, 2]})
    assert len({digest_of(value) for value in ({"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, [1], [[1]])}) == 6
