"""The commands of readers: note, notes; what show, status and export say of them."""

from __future__ import annotations

import pytest
from reviewed import LAYER, add_finding, make_reviewed

from csp_index import open_index

NEURON = f"{LAYER}/1"


@pytest.fixture
def db(tmp_path):
    return make_reviewed(tmp_path).uri


def test_a_name_is_written_shown_exported_and_taken_back(db, run):
    said = run("note", db, NEURON, "--rename", "striped fur", "--tag", "fur", "--by", "ann")
    assert said.status == 0 and said.out.splitlines()[0].partition(" ")[2].startswith("")
    assert f"ann named neuron:{NEURON}: striped fur   (label: concept" in said.out
    shown = run("show", db, NEURON).out
    assert (
        shown.startswith(f"{NEURON}: striped fur   (pinned)") and "named by ann on 20" in shown and "tags: fur" in shown
    )
    assert run("show", db, NEURON, "--json").rows[0]["review"]["tags"] == ["fur"]
    assert "pinned,labelled,0,striped fur" in run("export", db, "--layer", LAYER).out
    assert "2 notes of readers" in run("status", db).out and run("status", db, "--json").rows[0]["notes"] == 2
    assert run("note", db, NEURON, "--unname", "--by", "bob", "--json").rows[0]["action"] == "unname"
    assert run("show", db, NEURON).out.splitlines()[0].endswith("(csp)")


def test_a_verdict_takes_the_comment_as_its_reason(db, run):
    run("note", db, NEURON, "--reject", "--comment", "fires on the watermark", "--by", "ann")
    rows = run("notes", "list", db, NEURON, "--json").rows
    assert [(row["action"], row["text"]) for row in rows] == [("reject", "fires on the watermark")]
    assert "rejected by ann on 20" in run("show", db, NEURON).out
    assert f"ann rejected neuron:{NEURON}: fires on the watermark" in run("notes", "list", db).out


def test_notes_go_out_and_in(db, run, tmp_path):
    run("note", db, NEURON, "--rename", "mine", "--by", "ann")
    add_finding(open_index(db), "1")
    run("note", db, "finding:1", "--accept", "--by", "bob")
    assert run("notes", "export", db, tmp_path / "n.csv").out == f"{tmp_path / 'n.csv'}: 2 notes\n"
    fresh = make_reviewed(tmp_path, name="fresh").uri
    assert run("notes", "import", fresh, tmp_path / "n.csv").out.splitlines() == [
        "2 of 2 notes added, 0 were there already",
        "1 notes are about neurons or findings that this index does not have; they are kept",
    ]
    assert run("notes", "import", fresh, tmp_path / "n.csv", "--json").rows[0]["present"] == 2
    run("notes", "export", fresh, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "n.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("note", "DB", NEURON, "--by", "ann"), 2, "say something: --accept"),
        (("note", "DB", NEURON, "--accept", "--reject", "--by", "ann"), 2, "contradict each other"),
        (("note", "DB", NEURON, "--rename", "x", "--unname", "--by", "ann"), 2, "contradict each other"),
        (("note", "DB", NEURON, "--accept"), 1, "give --by NAME"),
        (("note", "DB", "net/l/99", "--accept", "--by", "ann"), 1, "does not exist"),
        (("note", "DB", "finding:1", "--accept", "--by", "ann"), 1, "no audit of this index has the finding '1'"),
        (("note", "DB", NEURON, "--rename", "a\nb", "--by", "ann"), 1, "cannot be shown"),
        (("notes", "export", "DB"), 2, "name the file"),
        (("notes", "import", "DB", "nowhere.csv"), 1, "cannot be read"),
        (("notes", "list", "DB", "nobody"), 1, "is not an address"),
        (("serve", "DB", "--host", "0.0.0.0", "--public-read", "--write", "--port", "0"), 1, "write needs a token"),
        (("serve", "DB", "--draw", "uniform", "--port", "0"), 2, "say how pictures for --rate are drawn"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(db, run, arguments, status, message):
    said = run(*(db if part == "DB" else part for part in arguments))
    assert said.status == status and message in said.err and "Traceback" not in said.err
    assert status == 2 or len(said.err.splitlines()) == 1
