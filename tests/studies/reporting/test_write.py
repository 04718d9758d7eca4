"""The report of an audit: one file that needs nothing but itself, whole or not there, safe with any text."""

from __future__ import annotations

import html
import json
import math
import re
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from audited import audit, make_audited
from PIL import Image

from csp_index import Index, NotFoundError, SettingError, StudyError
from csp_index.images.decode import thumbnail
from csp_index.studies.reporting.content import images_of, report_content
from csp_index.studies.reporting.pictures import Album, stored_pictures
from csp_index.studies.reporting.printing import find_browser
from csp_index.studies.reporting.write import named_audit, write_audit_report

EVIL = "<script>alert('pink')</script>"
PINK = ("pink", "ring", "ring")


def with_thumbnails(index: Index, images: int) -> None:
    """Give the first images small pictures; the next one gets bytes that are none."""
    rows = index.store.read("images").to_pylist()
    for row in rows[:images]:
        row["thumbnail"] = thumbnail(Image.new("RGB", (20, 10), (row["image_id"] % 256, 0, 0)))
    rows[images]["thumbnail"] = b"<svg onload=alert(1)>"
    with index.store.write_lock():
        kind = index.store.read("images").schema
        index.store.replace("images", pa.Table.from_pylist(rows, schema=kind))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    own = make_audited(tmp_path_factory.mktemp("audited"), value=EVIL)
    with_thumbnails(own, 2)
    found = audit(own, PINK)
    own.note(f"finding:{found.findings[0].finding}", "accept", "the frame is on 9 of 10 stars", by="Ann")
    own.note("net/pooled/0", "rename", "pink frame", by="Bea")
    own.note("net/pooled/2", "comment", "noise", by="Bea")
    return own


@pytest.fixture(scope="module")
def page(index: Index, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("report") / "r.html"
    assert index.report(index.stored_audit(), file) == file
    return file.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


def test_the_page_has_findings_evidence_verdicts_and_what_was_left_out(index: Index, page: str) -> None:
    text, found = text_of(page), index.stored_audit()
    first = found.findings[0]
    for said in (first.statement, first.refutation, first.finding, str(first.neuron), "00000.png", f"frame: {EVIL}"):
        assert said in text
    assert "accepted by Ann" in text and "the frame is on 9 of 10 stars" in text
    assert "pink frame" in text and "Bea" in text and "1 note is about other neurons" in text
    for note in found.notes:
        assert f"{note[:1].upper()}{note[1:]}." in text
    for said in ("no effects of this layer", "was not evaluated", "not verified", "Heat maps were not asked for"):
        assert said in text
    assert "lancedb" in text and found.run_id in text


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(page: str) -> None:
    assert "<script" not in page and "onload=" not in page and EVIL not in page
    sources = re.findall(r"""(?:src|href)="([^"#][^"]{0,21})""", page)
    assert sources and all(source.startswith("data:image/jpeg;base64") for source in sources)
    assert "url(" not in page and "@import" not in page and "default-src &#39;none&#39;" in page


def test_what_the_index_has_no_picture_of_is_said(index: Index, page: str) -> None:
    known = stored_pictures(index.store, range(4))
    assert [bool(known[image].data) for image in range(4)] == [True, True, False, False]
    assert "no picture: 00002.png" in page and re.search(r"\d+ pictures of which the index keeps no small copy", page)


def test_pictures_stop_at_the_bound_and_that_is_said(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSP_INDEX_REPORT_BYTES", "1")
    text = index.report(index.stored_audit(), tmp_path / "small.html").read_text()
    assert "<img" not in text and "so that the file stays small" in text
    album = Album(stored_pictures(index.store, [0, 1]), 2_000)
    addresses = [album.address(0) for _ in range(9)]
    assert addresses[0] and not addresses[-1] and album.beyond and album.taken <= 2_000


def test_a_file_that_is_there_stays_unless_told(index: Index, tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    file.write_text("mine")
    with pytest.raises(StudyError, match="is there already, and a report is a record"):
        index.report(index.stored_audit(), file)
    assert file.read_text() == "mine"
    index.report(index.stored_audit(), file, force=True)
    assert "Audit of net/pooled" in file.read_text() and list(tmp_path.iterdir()) == [file]


def test_places_where_nothing_can_be_written_are_refused(index: Index, tmp_path: Path) -> None:
    found = index.stored_audit()
    with pytest.raises(StudyError, match="does not exist: make it"):
        index.report(found, tmp_path / "no" / "r.html")
    with pytest.raises(StudyError, match="is a folder: name a file in it"):
        index.report(found, tmp_path)
    with pytest.raises(SettingError, match="have the same name"):
        index.report(found, tmp_path / "r.html", pdf=tmp_path / "r.html")
    with pytest.raises(SettingError, match="a report is of what `evaluate` or `audit` returned, not of a str"):
        index.report("net", tmp_path / "r.html")  # type: ignore[arg-type]


def browser(folder: Path, script: str) -> str:
    """Return a program in place of a browser: it gets the target as $pdf and the page as $page."""
    file = folder / "browser"
    setting = (
        'for a in "$@"; do case "$a" in --print-to-pdf=*) pdf="${a#*=}";; file:*) page="${a#file://}";; esac; done'
    )
    file.write_text(f"#!/bin/sh\n{setting}\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def test_the_same_page_is_printed(index: Index, tmp_path: Path) -> None:
    program = browser(tmp_path, 'printf "%%PDF-1.7 " > "$pdf"; cat "$page" >> "$pdf"')
    page = index.report(index.stored_audit(), tmp_path / "r.html", pdf=tmp_path / "r.pdf", browser=program)
    assert (tmp_path / "r.pdf").read_bytes() == b"%PDF-1.7 " + page.read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"browser", "r.html", "r.pdf"}


@pytest.mark.parametrize(
    ("script", "message"),
    [("exit 3", "printed no PDF"), ('echo page > "$pdf"', "printed no PDF"), ("sleep 5", "did not print .* 0.2 s")],
)
def test_where_printing_fails_neither_file_is_written(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setenv("CSP_INDEX_PRINT_SECONDS", "0.2")
    program = browser(tmp_path, script)
    with pytest.raises(StudyError, match=message):
        index.report(index.stored_audit(), tmp_path / "r.html", pdf=tmp_path / "r.pdf", browser=program)
    assert [file.name for file in tmp_path.iterdir()] == ["browser"]


def test_without_a_browser_one_line_says_so_and_nothing_is_written(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StudyError, match="no browser that prints a PDF is on the PATH"):
        index.report(index.stored_audit(), tmp_path / "r.html", pdf=tmp_path / "r.pdf")
    with pytest.raises(StudyError, match="nothing is no program that can be run"):
        index.report(index.stored_audit(), tmp_path / "r.html", pdf=tmp_path / "r.pdf", browser="nothing")
    assert not list(tmp_path.iterdir())


def test_which_audit_is_reported(index: Index, tmp_path: Path) -> None:
    assert named_audit(index.store) == named_audit(index.store, "net", "pooled", "class") == index.stored_audit("net")
    with pytest.raises(NotFoundError, match="there is no audit of other"):
        index.stored_audit("other")
    np.save(tmp_path / "A.npy", np.eye(4, 2, dtype=np.float32))
    np.save(tmp_path / "E.npy", np.eye(4, dtype=np.float32))
    bare = Index(tmp_path / "db")
    bare.import_arrays(tmp_path / "A.npy", "net/l", embeddings=tmp_path / "E.npy")
    with pytest.raises(NotFoundError, match="the index has no audit: run `csp-index audit"):
        bare.stored_audit()


def test_heat_maps_without_a_network_are_said_to_be_missing(index: Index, tmp_path: Path) -> None:
    text = text_of(index.report(index.stored_audit(), tmp_path / "r.html", heat_maps=True).read_text())
    assert "Heat maps were not made, or not all: layer net/pooled came as arrays" in text


def test_content_is_what_json_can_say_and_names_each_image_once(index: Index) -> None:
    content = report_content(index.store, index.stored_audit())
    json.dumps(content.parts(), allow_nan=False)
    shown = [image for finding in index.stored_audit().above for image in images_of(finding)]
    assert set(content.pictures) == set(shown)
    assert len(images_of(index.stored_audit().above[0])) == len(set(images_of(index.stored_audit().above[0])))


def test_a_report_loads_no_torch(index: Index, tmp_path: Path) -> None:
    from other_process import run_python

    code = """
import sys
from csp_index.index import open_index
index = open_index(sys.argv[1])
index.report(index.stored_audit(), sys.argv[2])
assert index.check_report(sys.argv[2]).good
assert not {"torch", "matplotlib", "lancedb"} & set(sys.modules), sorted(sys.modules)
"""
    done = run_python(code, index.uri, tmp_path / "r.html")
    assert done.returncode == 0, done.stderr


def test_arguments_are_those_of_the_function(index: Index, tmp_path: Path) -> None:
    written = write_audit_report(index.store, index.stored_audit(), tmp_path / "r.html", lambda: pytest.fail("loaded"))
    assert written == tmp_path / "r.html"


def test_what_no_csp_index_writes_is_shown_as_text(index: Index, tmp_path: Path) -> None:
    found = index.stored_audit()
    strange = {"kind": "<b>kind", "subject": "</style><script>", "class_name": "{{ 7 * 7 }}", "score": math.nan}
    strange["label"] = "safe\u202eerutluv"
    odd = replace(found, findings=(replace(found.findings[0], **strange),), encoder="python:/home/ann/x:y")
    page = index.report(odd, tmp_path / "r.html").read_text()
    assert "<b>kind" not in page and "<script" not in page and "{{ 7 * 7 }}" in page and "/home/ann" not in page
    assert "safe\\u202eerutluv" in page and "\u202e" not in page  # else the rest of its line would read backwards
    assert index.check_report(tmp_path / "r.html").differing == ("audit", "findings", "what was not looked at")


@pytest.mark.slow
@pytest.mark.browser
def test_a_real_browser_prints_the_page(index: Index, tmp_path: Path) -> None:
    try:
        find_browser()
    except StudyError as exc:
        pytest.skip(str(exc))
    index.report(index.stored_audit(), tmp_path / "r.html", pdf=tmp_path / "r.pdf")
    assert (tmp_path / "r.pdf").read_bytes().count(b"/Type /Page\n") >= 3
