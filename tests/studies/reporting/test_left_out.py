"""What an audit did not look at, and what an index holds, as a report says it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from audited import LAYER, audit, make_audited

from csp_index import Index
from csp_index.store import catalog, schema
from csp_index.store.study_tables import EFFECT_CLASSES, EFFECTS
from csp_index.studies.reporting.indexed import index_facts
from csp_index.studies.reporting.left_out import what_was_left_out
from csp_index.studies.reporting.reviews import reviews_of


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    own = make_audited(tmp_path_factory.mktemp("audited"))
    audit(own)
    return own


def entries(index: Index) -> list[dict[str, Any]]:
    found, target = index.stored_audit(), catalog.layer(index.store, LAYER)
    return what_was_left_out(index.store, found, target, reviews_of(index.store, found, target))


def append(index: Index, table: str, *rows: dict[str, Any]) -> None:
    with index.store.write_lock():
        index.store.append(table, pa.Table.from_pylist(list(rows), schema=schema.table_schema(table)))
        index.store.commit("", "test")


def test_what_is_missing_is_said_with_names(tmp_path: Path) -> None:
    own = make_audited(tmp_path / "own")
    audit(own)
    before = "\n".join(entry["text"] for entry in entries(own))
    assert "could not be read" not in before and "without an image" not in before and "Dead" not in before
    assert "keeps no effects of this layer" in before and "Layers of the index without labels: 1" in before
    of = {"run_id": "r", "settings_hash": "h", "model": "net", "layer": "pooled"}
    skipped = {"uri": "/home/ann/pictures/x.png", "reason": "/home/ann/pictures/x.png is no image"}
    append(own, schema.FAILURES, skipped | {"when": datetime.now(UTC), "run_id": "r"})
    classes = [{"class_index": 0, "class_name": "star", "images": 3}, {"class_index": 1, "images": 0}]
    append(own, EFFECT_CLASSES, *(of | one for one in classes))
    append(own, EFFECTS, of | {"neuron": 0, "by": "linear", "head": "fc", "images": 3, "checked": 0})
    label = of | {"method": "csp", "state": "labelled", "rank": 0, "text": "star", "neuron": 0}
    append(own, schema.LABELS, label, label | {"state": "ambiguous", "rank": -1, "neuron": 1})
    rows = own.store.read(schema.NEURONS).to_pylist()
    with own.store.write_lock():
        dead = [row | ({"max": 0.0} if row["neuron"] == 2 else {}) for row in rows]
        own.store.replace(schema.NEURONS, pa.Table.from_pylist(dead, schema=own.store.read(schema.NEURONS).schema))
        own.store.commit("", "test")
    said = {entry["text"]: entry["names"] for entry in entries(own)}
    assert said["Images that could not be read or used, and are in no figure: 1."] == ["x.png: x.png is no image"]
    assert said["Classes of the network without an image here: 1."] == ["output 1"]
    assert said["Dead neurons, which fire on no indexed image: 1 of 3."] == ["2"]
    assert said["Neurons without a known effect: 2 of 3."] == ["1", "2"]
    assert said["Neurons without a label by csp: 2 of 3."] == ["1", "2"]
    assert not any("without labels" in text for text in said), "the one layer has a label now"
    (methods,) = [names for text, names in said.items() if "were not run" in text]
    assert "csp" not in methods and "semanticlens" in methods and not {"random-label"} & set(methods)


def test_a_verdict_takes_a_finding_from_the_list(index: Index) -> None:
    first = index.stored_audit().above[0]
    (before,) = [one for one in entries(index) if "nobody has accepted" in one["text"]]
    index.note(f"finding:{first.finding}", "reject", by="Ann")
    after = [one for one in entries(index) if "nobody has accepted" in one["text"]]
    assert first.finding in str(before["names"]) and first.finding not in str(after)


def test_what_was_indexed_has_hashes_and_versions(index: Index) -> None:
    facts = index_facts(index.store, index.stored_audit())
    (layer,), (encoder,) = facts["layers"], facts["encoders"]
    assert (layer["layer"], layer["neurons"], layer["audited"], layer["images"]) == ("net/pooled", 3, True, 400)
    marks = index.store.read(schema.SHARDS, where="what = 'activations:net/pooled'").sort_by("shard")
    assert layer["hash"] == hashlib.sha256(" ".join(marks["digest"].to_pylist()).encode()).hexdigest()
    assert len({layer["hash"], encoder["hash"], facts["hash"]}) == 3
    assert [run["command"] for run in facts["runs"]] == ["import", "metadata", "audit"]
    assert facts["versions"]["lancedb"] and all(len(own) == 1 for own in facts["versions"].values())
    index.note("net/pooled/1", "comment", "seen", by="Ann")
    assert index_facts(index.store, index.stored_audit()) == facts, "a note is no part of what was indexed"


def test_a_shard_without_a_digest_gives_no_hash(tmp_path: Path) -> None:
    own = make_audited(tmp_path / "own")
    audit(own)
    rows = own.store.read(schema.SHARDS)
    kept = [
        row | ({"digest": None} if row["what"] == "images" and row["shard"] == 1 else {}) for row in rows.to_pylist()
    ]
    with own.store.write_lock():
        own.store.replace(schema.SHARDS, pa.Table.from_pylist(kept, schema=rows.schema))
        own.store.commit("", "test")
    facts = index_facts(own.store, own.stored_audit())
    assert facts["hash"] is None and facts["layers"][0]["hash"]
    assert own.report(own.stored_audit(), tmp_path / "r.html").exists()
