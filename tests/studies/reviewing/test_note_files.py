"""Notes leave an index as CSV and enter another: to the byte, added only, and what does not agree is said."""

from __future__ import annotations

import shutil

import pytest
from reviewed import LAYER, add_finding, make_reviewed

from csp_index import open_index
from csp_index.errors import SourceError
from csp_index.labelling.review.notes import read_notes
from csp_index.records import NeuronKey
from csp_index.store.study_tables import RATINGS
from csp_index.studies.reviewing.note_files import export_notes, import_notes, notes_text
from csp_index.studies.reviewing.rating_files import read_ratings
from csp_index.studies.reviewing.ratings import Question, write_rating

NEURON = f"{LAYER}/1"
HOSTILE = (
    "=cmd|' /C calc'!A0",
    "'=1+1",
    "+1",
    "-2",
    "@x",
    'a "quote", and a comma',
    "<script>alert(1)</script>",
    "'quoted'",
)


@pytest.fixture(scope="module")
def noted_once(tmp_path_factory):
    index = make_reviewed(tmp_path_factory.mktemp("noted"))
    for text in HOSTILE:
        index.note(NEURON, "comment", text, by="=ann")
    index.note(f"{LAYER}/2", "rename", "mine", by="ann")
    add_finding(index, "1")
    index.note("finding:1", "accept", by="bob")
    return index


@pytest.fixture
def noted(noted_once, tmp_path):
    return open_index(shutil.copytree(noted_once.uri, tmp_path / "db")), tmp_path


def test_out_and_in_and_out_again_is_the_same_to_the_byte(noted):
    index, folder = noted
    assert export_notes(index.store, folder / "a.csv") == (len(HOSTILE) + 2, 0)
    fresh = make_reviewed(folder, name="fresh")
    summary = import_notes(fresh.store, folder / "a.csv")
    assert (summary.rows, summary.added, summary.present, summary.conflicts) == (10, 10, 0, ())
    export_notes(fresh.store, folder / "b.csv")
    assert (folder / "b.csv").read_bytes() == (folder / "a.csv").read_bytes()
    assert read_notes(fresh.store) == read_notes(index.store)
    assert fresh.view(f"{LAYER}/2").label.text == "mine"
    again = import_notes(fresh.store, folder / "a.csv")
    assert (again.added, again.present) == (0, 10) and fresh.sql("SELECT count(*) AS n FROM notes").rows() == [
        {"n": 10}
    ]


def test_no_cell_is_a_formula_for_a_spreadsheet(noted):
    index, folder = noted
    export_notes(index.store, folder / "a.csv")
    for line in (folder / "a.csv").read_text().splitlines()[1:]:
        assert not [cell for cell in line.split(",") if cell.strip('"')[:1] in "=+-@" and cell.strip('"')]


def test_a_file_that_a_spreadsheet_saved_is_read(noted):
    index, folder = noted
    text = notes_text(read_notes(index.store))
    (folder / "a.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    fresh = make_reviewed(folder, name="fresh")
    assert import_notes(fresh.store, folder / "a.csv").added == 10
    assert notes_text(read_notes(fresh.store)) == text


def test_conflicts_and_other_names_are_said_and_nothing_is_changed(noted):
    index, folder = noted
    export_notes(index.store, folder / "a.csv")
    other = make_reviewed(folder, name="other")
    import_notes(other.store, folder / "a.csv")
    index.note(f"{LAYER}/2", "rename", "later", by="eve")
    export_notes(index.store, folder / "a.csv")
    changed = (folder / "a.csv").read_text().replace("<script>alert(1)</script>", "harmless")
    (folder / "a.csv").write_text(changed)
    summary = import_notes(other.store, folder / "a.csv")
    assert (summary.added, summary.present, len(summary.conflicts)) == (1, 9, 1)
    assert summary.renamed == (f"neuron:{LAYER}/2",) and other.view(f"{LAYER}/2").label.text == "later"
    assert "<script>alert(1)</script>" in {note.text for note in read_notes(other.store)}
    said = " | ".join(summary.lines())
    assert "1 of 11 notes added, 9 were there already" in said and "another content" in said and "another name" in said


def test_notes_about_a_layer_of_other_weights_are_kept_and_it_is_said(noted):
    index, folder = noted
    export_notes(index.store, folder / "a.csv")
    trained = make_reviewed(folder, seed=1, name="trained")
    import_notes(trained.store, folder / "a.csv")
    view = trained.view(f"{LAYER}/2")
    assert view.label.text == "mine" and "the layer's weights have changed since" in view.label.note
    assert trained.view(NEURON).review.changed and "other weights" in trained.view(NEURON).review.line("")
    assert trained.sql("SELECT layer_changed FROM pinned").rows() == [{"layer_changed": True}]


def test_notes_about_neurons_that_are_not_here_are_kept_and_counted(noted):
    index, folder = noted
    export_notes(index.store, folder / "a.csv")
    text = (folder / "a.csv").read_text().replace(f"neuron:{LAYER}/2", "neuron:vgg/layer/7")
    (folder / "a.csv").write_text(text)
    fresh = make_reviewed(folder, name="fresh")
    summary = import_notes(fresh.store, folder / "a.csv")
    assert summary.added == 10 and summary.elsewhere == 2 and "are kept" in summary.lines()[-1]
    verified = fresh.verify()
    assert verified.findings == [] and any("vgg/layer/7" in note for note in verified.notes)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("note_id,", "id,"), "has the columns id, when"),
        ((",rename,", ",praise,"), r"line 10 of .* is no note: the action of a note is 'praise'"),
        (("+00:00,", ","), "expected a time with its zone"),
        ((",mine,", ',"mi\nne",'), "cannot be shown"),
        ((f"neuron:{LAYER}/2", f"neuron:{LAYER}/02"), "not as notes are written"),
        ((f"neuron:{LAYER}/2", "neuron:nobody"), "is not an address"),
        ((",mine,", ",mine,surplus,"), r"has 11 cells: expected 10"),
        ((",20", ",29"), "not in the future"),
        (("bob", '"bob'), "cannot be read"),
        ((",mine,", f",{'m' * 131_073},"), r"line \d+ of .* has a cell of more than 131,072 characters, which no note"),
    ],
)
def test_a_file_that_no_export_wrote_adds_nothing(noted_once, tmp_path, change, match):
    store = noted_once.store
    (tmp_path / "a.csv").write_text(notes_text(read_notes(store)).replace(*change))
    before = store.versions()
    with pytest.raises(SourceError, match=match):
        import_notes(store, tmp_path / "a.csv")
    assert store.versions() == before


def test_a_time_before_the_first_year_of_utc_is_refused(noted_once, tmp_path):
    text = notes_text(read_notes(noted_once.store))
    when = text.splitlines()[1].split(",")[1]
    (tmp_path / "a.csv").write_text(text.replace(when, "0001-01-01T00:00:00+14:00", 1))
    with pytest.raises(SourceError, match=r"line 2 of .* is no note: date value out of range"):
        import_notes(noted_once.store, tmp_path / "a.csv")


def test_the_same_note_twice_in_a_file_and_no_file_are_refused(noted):
    index, folder = noted
    text = notes_text(read_notes(index.store))
    (folder / "a.csv").write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(SourceError, match="more than once: expected each once"):
        import_notes(index.store, folder / "a.csv")
    with pytest.raises(SourceError, match="cannot be read"):
        import_notes(index.store, folder / "nowhere.csv")
    with pytest.raises(SourceError, match="cannot be written"):
        export_notes(index.store, folder / "no" / "folder.csv")


def rate(index, image: int = 3, text: str = "=red", verdict: str = "yes") -> str:
    key = NeuronKey.parse(NEURON)
    question = Question(key, text, image, "csp", "a run", "digest", "importance", 0.1, -0.3)
    return write_rating(index.store, question, "ann", verdict)


@pytest.fixture(scope="module")
def rated_text(noted_once, tmp_path_factory):
    """A file with a rating."""
    index = open_index(shutil.copytree(noted_once.uri, tmp_path_factory.mktemp("rated") / "db"))
    rate(index)
    return notes_text(read_notes(index.store), read_ratings(index.store))


def test_ratings_go_out_and_in_with_the_notes_to_the_byte(noted):
    index, folder = noted
    rate(index), rate(index, 5, verdict="unsure")
    assert export_notes(index.store, folder / "a.csv") == (10, 2)
    fresh = make_reviewed(folder, name="fresh")
    summary = import_notes(fresh.store, folder / "a.csv")
    assert (summary.rows, summary.ratings, summary.ratings_added, summary.ratings_elsewhere) == (10, 2, 2, 0)
    assert "2 of 2 ratings added" in summary.lines()
    export_notes(fresh.store, folder / "b.csv")
    assert (folder / "b.csv").read_bytes() == (folder / "a.csv").read_bytes()
    kept = fresh.store.read(RATINGS).drop_columns(["run_id"]).to_pylist()
    assert kept == index.store.read(RATINGS).drop_columns(["run_id"]).to_pylist() and fresh.verify().findings == []
    assert import_notes(fresh.store, folder / "a.csv").ratings_added == 0


def test_ratings_find_their_pictures_under_other_numbers_or_are_left_out(noted, tmp_path):
    index, folder = noted
    rate(index), rate(index, 39)
    export_notes(index.store, folder / "a.csv")
    uris = index.sql("SELECT uri FROM images WHERE image_id NOT BETWEEN 2 AND 30").to_arrow()["uri"].to_pylist()
    index.copy(tmp_path / "copy", uris)  # without those
    copied = open_index(tmp_path / "copy")
    with copied.store.write_lock():
        copied.store.delete(RATINGS, "true")
    summary = import_notes(copied.store, folder / "a.csv")
    assert (summary.ratings_added, summary.ratings_elsewhere) == (1, 1) and "left out" in summary.lines()[-1]
    assert copied.sql("SELECT uri FROM ratings JOIN images USING (image_id)").rows() == [{"uri": "array#3"}]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ((",yes,", ",perhaps,"), "is no rating: the verdict is 'perhaps': expected yes, no, unsure"),
        (("importance", "chance"), "the draw is 'chance'"),
        ((",0.1,", ",nan,"), "a weight > 0"),
        ((",0.1,", ",much,"), "is no rating: could not convert"),
        (("importance,", ""), "has 13 cells: expected 14"),
    ],
)
def test_a_rating_that_no_export_wrote_adds_nothing(rated_text, noted_once, tmp_path, change, match):
    (tmp_path / "a.csv").write_text(rated_text.replace(*change))
    before = noted_once.store.versions()
    with pytest.raises(SourceError, match=match):
        import_notes(noted_once.store, tmp_path / "a.csv")
    assert noted_once.store.versions() == before
