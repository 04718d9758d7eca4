"""Notes of readers: what can be said of what, one writer at a time, added and never changed."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from reviewed import LAYER, TEXTS, WORDS, add_finding, make_reviewed

from csp_index import open_index
from csp_index.errors import AddressError, LockedError, NotFoundError, SettingError
from csp_index.labelling.review.notes import read_notes, review_of, subject_of
from csp_index.store.connect import open_store
from csp_index.store.study_tables import NOTES
from csp_index.studies.reviewing import notes as writing
from csp_index.studies.reviewing.notes import Draft, write_notes

NEURON = f"{LAYER}/1"


@pytest.fixture
def index(tmp_path):
    return make_reviewed(tmp_path)


def test_a_note_keeps_who_when_and_the_label_that_was_shown(index):
    before = datetime.now(UTC)
    note = index.note(NEURON, "reject", "fires on the watermark", by=" ann ")
    shown = index.view(NEURON).label
    assert (note.reader, note.subject, note.action, note.text) == (
        "ann",
        f"neuron:{NEURON}",
        "reject",
        "fires on the watermark",
    )
    assert (note.label, note.method, note.label_run) == (shown.text, "csp", shown.run_id)
    assert before <= note.when <= datetime.now(UTC) and str(note.neuron) == NEURON
    assert read_notes(index.store) == (note,)
    row = index.sql("SELECT * FROM notes").rows()[0]
    assert row["address"] == NEURON and row["note_id"] == note.note_id
    assert index.notes(NEURON).rows()[0]["reader"] == "ann"
    run = index.sql("SELECT command, state FROM runs ORDER BY run_id DESC LIMIT 1").rows()[0]
    assert run == {"command": "note", "state": "done"}


def test_what_readers_say_comes_to_a_verdict_and_tags(index):
    for action, text in (
        ("accept", ""),
        ("tag", "fur"),
        ("tag", "odd"),
        ("untag", "odd"),
        ("reject", "no"),
        ("comment", "hm"),
    ):
        index.note(NEURON, action, text, by="ann")
    add_finding(index, "3f/a-b.c")
    index.note("finding:3f/a-b.c", "accept", "seen it", by="bob")
    review = review_of(read_notes(index.store, subject_of(NEURON)))
    assert (review.verdict.action, review.tags, len(review.notes)) == ("reject", ("fur",), 6)
    about = index.view(NEURON)
    assert about.review.line(about.label.text).startswith("rejected by ann on 20") and "tags: fur" in about.review.line(
        ""
    )
    assert "of the label" in about.review.line("another")
    finding = read_notes(index.store, "finding:3f/a-b.c")[0]
    assert (finding.neuron, finding.label, finding.layer_digest) == (None, None, "")
    assert index.sql("SELECT address FROM notes WHERE subject LIKE 'finding:%'").rows() == [{"address": None}]
    assert index.verify().findings == [] and not index.verify().notes


def test_a_finding_that_no_audit_has_is_refused_in_one_line(index):
    add_finding(index, "known")
    with pytest.raises(NotFoundError, match="no audit of this index has the finding 'typo': `csp-index audit` prints"):
        index.note("finding:typo", "accept", by="ann")
    assert index.note("finding:known", "accept", by="ann").subject == "finding:known"


@pytest.mark.parametrize(
    ("draft", "error", "match"),
    [
        ((NEURON, "praise", "ann"), SettingError, "the action of a note is 'praise': expected accept, reject, rename"),
        ((NEURON, "rename", "ann"), SettingError, "the name is empty"),
        ((NEURON, "tag", "ann", "x" * 61), SettingError, "the tag has 61 characters: expected at most 60"),
        ((NEURON, "accept", "  "), SettingError, "the reader is empty"),
        ((NEURON, "comment", "ann", "two\nlines"), SettingError, "cannot be shown"),
        ((NEURON, "rename", "ann", "red\x1b[2J"), SettingError, "cannot be shown"),
        ((NEURON, "rename", "an\u202en", "red"), SettingError, "the reader has characters that cannot be shown"),
        ((NEURON, "unname", "ann", "why"), SettingError, "unname takes no text"),
        (("finding:1", "rename", "ann", "red"), SettingError, "rename is for neurons, and finding:1 is none"),
        (("finding:<b>", "accept", "ann"), SettingError, "is no finding"),
        (("nobody", "accept", "ann"), AddressError, "is not an address"),
    ],
)
def test_what_cannot_be_said_is_refused_in_one_line(draft, error, match):
    with pytest.raises(error, match=match) as refused:
        Draft(*draft)
    assert "\n" not in str(refused.value)


def test_neurons_that_are_not_there_and_readers_without_a_name_are_refused(index, monkeypatch):
    with pytest.raises(NotFoundError, match="neuron net/l/99 does not exist"):
        index.note(f"{LAYER}/99", "accept", by="ann")
    with pytest.raises(SettingError, match="give --by NAME, or set CSP_INDEX_READER"):
        index.note(NEURON, "accept")
    monkeypatch.setenv("CSP_INDEX_READER", "eve")
    assert index.note(NEURON, "accept").reader == "eve"
    assert index.store.count(NOTES) == 1


def test_all_drafts_are_written_or_none(index):
    with pytest.raises(NotFoundError):
        write_notes(index.store, [Draft(NEURON, "accept", "ann"), Draft("net/none/0", "accept", "ann")])
    assert index.store.count(NOTES) == 0


def test_two_readers_at_once_are_both_kept(index, tmp_path):
    errors: list[BaseException] = []

    def say(reader: str) -> None:
        try:
            for number in range(2):
                open_index(index.uri).note(NEURON, "tag", f"{reader} {number}", by=reader)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=say, args=(reader,)) for reader in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    notes = read_notes(open_store(index.uri))
    assert sorted(note.text for note in notes) == ["ann 0", "ann 1", "bob 0", "bob 1"]
    assert len({note.note_id for note in notes}) == 4


def test_a_reader_who_cannot_wait_longer_is_told_who_writes(index):
    with (
        index.store.write_lock(),
        pytest.raises(LockedError, match=r"nothing was written, after 0 s: .* is being written by"),
    ):
        write_notes(open_store(index.uri), [Draft(NEURON, "accept", "ann")], wait=0)
    assert index.note(NEURON, "accept", by="ann").action == "accept"


def test_notes_follow_each_other_also_where_the_clock_is_set_back(index, monkeypatch):
    first = index.note(NEURON, "rename", "one", by="ann")

    class Back(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(days=300)

    monkeypatch.setattr(writing, "datetime", Back)
    second = index.note(NEURON, "rename", "two", by="bob")
    assert second.when > first.when and index.view(NEURON).label.text == "two"


def test_labeling_again_leaves_notes_as_they_are(index):
    index.note(NEURON, "rename", "mine", by="ann")
    before = index.store.read(NOTES).to_pylist()
    index.label(LAYER, "csp", vocabulary=WORDS, bootstrap=0, recompute=True)
    index.label(LAYER, "semanticlens", vocabulary=WORDS, bootstrap=0)
    assert index.store.read(NOTES).to_pylist() == before
    assert index.view(NEURON).label.text == "mine" and index.view(NEURON, "csp").label.text in TEXTS


def test_a_copy_without_some_images_keeps_notes(index, tmp_path):
    note = index.note(NEURON, "rename", "mine", by="ann")
    uri = index.sql("SELECT uri FROM images LIMIT 1").rows()[0]["uri"]
    index.copy(tmp_path / "copy", [uri])
    copied = open_index(tmp_path / "copy")
    assert read_notes(copied.store) == (note,) and copied.verify().findings == []
    assert copied.view(NEURON).label.text == "mine" and "changed" not in copied.view(NEURON).label.note
    assert copied.sql("SELECT text FROM neuron_labels WHERE method = 'pinned'").rows() == [{"text": "mine"}]
