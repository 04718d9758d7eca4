"""An audit of an index: the planted artefact is found, stored with its evidence, read again, made again when stale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from audited import CLASSES, IMAGES, UNCLASSED, audit, effects, make_audited

from csp_index import Index, NotFoundError, SettingError, StudyError
from csp_index.studies.auditing.audit import AuditOptions
from csp_index.studies.auditing.columns import MOST_VALUES
from csp_index.studies.auditing.expected import ExpectedConcepts
from csp_index.studies.auditing.stored_audits import audited, read_audit


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_audited(tmp_path_factory.mktemp("audited"))


def test_the_planted_artefact_is_first_and_has_its_evidence(index: Index) -> None:
    found = audit(index)
    first = found.findings[0]
    assert (first.kind, str(first.neuron), first.class_name) == ("artefact", "net/pooled/0", "star")
    assert (first.column_name, first.value, first.rank) == ("frame", "pink", 0)
    assert first.above and first in found.above
    assert all(one.neuron.neuron == 0 for one in found.above), "the neuron of rings follows rings"
    activations = index.activations("net/pooled/0")
    cells = {(cell["of_class"], cell["with_value"]): cell for cell in first.evidence["cells"]}
    assert sum(cell["count"] for cell in cells.values()) == IMAGES - UNCLASSED
    for cell in cells.values():
        for image in cell["images"]:
            assert image["activation"] == pytest.approx(activations[image["image"]])
    assert cells[True, True]["mean"] > 0.9 > 0.2 > cells[True, False]["mean"]
    silent = first.evidence["counter_examples"]["class_without_firing"]
    assert [one["activation"] for one in silent] == sorted(one["activation"] for one in silent)
    assert first.evidence["effects"][0] == {"class_name": "star", "effect": 2.0}
    assert [pair["image"] for pair in first.evidence["pairs"]] == [0, 2, 4]


def test_what_was_not_looked_at_is_said(index: Index) -> None:
    found = audit(index, expected=("star", "ring", "comet"))
    notes = "\n".join(found.notes)
    assert found.columns == ("frame", "size") and "column id is not looked at" in notes and str(MOST_VALUES) in notes
    assert set(found.unknown) == {"star", "ring", "comet"} and "'comet'" in notes and "comet" in found.expected
    assert f"{UNCLASSED} of {IMAGES} images have no class" in notes


def test_an_audit_is_read_again_and_made_again_when_something_changes(index: Index) -> None:
    first = audit(index)
    runs = len(index.sql("SELECT * FROM runs"))
    assert audit(index) == first and len(index.sql("SELECT * FROM runs")) == runs
    again = audit(index, recompute=True)
    assert again.run_id != first.run_id and [one.finding for one in again.findings] == [
        one.finding for one in first.findings
    ]
    other = audit(index, expected=("pink",))
    assert other.settings_hash != first.settings_hash
    assert not [one for one in other.findings if one.column_name == "frame"], "pink is expected now"
    assert index.store.count("audits") == 1, "the audit of a layer by a column replaces the one before"
    assert read_audit(index.store, "net") == other and read_audit(index.store, "net", "pooled", "class") == other


def test_a_label_that_is_not_expected_is_a_finding_too(index: Index) -> None:
    found = audit(index, ("pink", "ring", "ring"))
    (one,) = [one for one in found.above if one.kind == "unexpected-label"]
    assert (one.subject, one.class_name, one.neuron.neuron) == ("pink", "star", 0)
    assert not [
        one
        for one in audit(index, ("pink", "ring", "ring"), expected=("pink", "ring")).findings
        if one.label == "pink" and one.kind == "unexpected-label"
    ]


def test_only_named_columns_count_as_artefacts(index: Index) -> None:
    found = audit(index, artefacts=("size",))
    assert found.columns == ("size",) and not found.above
    with pytest.raises(NotFoundError, match="no image has the metadata column 'camera'"):
        audit(index, artefacts=("camera",))
    with pytest.raises(SettingError, match="column 'class' has the classes"):
        audit(index, artefacts=("class",))


def test_effects_are_found_by_name_or_number_and_else_refused(index: Index) -> None:
    assert audit(index, of=effects(("Star", "RING"))).above
    with pytest.raises(StudyError, match="no class of the images is a logit of the network"):
        audit(index, of=effects(("dog", "cat")))
    only = audit(index, of=effects(("star", "cat")))
    assert "no logit is called like 'ring'" in "\n".join(only.notes)


def test_nothing_is_above_a_threshold_that_nothing_reaches(index: Index) -> None:
    found = audit(index, threshold=1.0)
    assert found.findings and not found.above
    with pytest.raises(SettingError, match="threshold is 2"):
        AuditOptions("class", ExpectedConcepts(CLASSES), (), 2)


def test_an_audit_that_is_not_there_says_how_to_make_one(index: Index) -> None:
    audit(index)
    assert [str(key) for key in audited(index.store)] == ["net/pooled"]
    with pytest.raises(NotFoundError, match=r"no audit of other \(has: net/pooled\): run `csp-index audit"):
        read_audit(index.store, "other")
    with pytest.raises(NotFoundError, match="no audit of net by kind"):
        read_audit(index.store, "net", by="kind")


def test_findings_are_rows_of_a_table(index: Index) -> None:
    found = audit(index)
    rows = found.to_arrow().to_pylist()
    assert len(rows) == len(found) and rows[0]["neuron"] == "net/pooled/0" and "<table>" in found._repr_html_()
    shown = index.sql("SELECT address, subject FROM findings WHERE above ORDER BY rank").rows()
    assert shown[0] == {"address": "net/pooled/0", "subject": "frame: pink"}
    assert np.isclose(rows[0]["score"], rows[0]["effect"] * rows[0]["doubt"])


def test_a_verified_index_is_sound_and_damage_is_seen(tmp_path: Path) -> None:
    own = make_audited(tmp_path / "own")
    audit(own)
    assert own.verify().sound
    rows = own.store.read("findings")
    for name, value, what in (
        ("score", 0.9, "scores are not effect x doubt"),
        ("rank", 7, "findings are missing"),
        ("evidence", "{}", "evidence has another form"),
        ("effect", float("nan"), "not finite"),
    ):
        damaged = rows.to_pylist()
        damaged[0][name] = value
        with own.store.write_lock():
            own.store.replace("findings", rows.from_pylist(damaged, schema=rows.schema))
        assert any(what in finding.what for finding in own.verify().findings), what
    own.verify(repair=True)
    assert own.verify().sound and not own.store.count("audits")
