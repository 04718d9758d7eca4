"""What the newest evaluation that judged a method stored of a neuron, and where each figure stands in the layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from planted import PLANTED, make_planted

from csp_index import open_index
from csp_index.records import NeuronKey
from csp_index.service.documents.held_out import held_out
from csp_index.service.snapshot import Snapshot
from csp_index.store import schema

VALUES = np.array([0.1, 0.9, 0.5, 0.7, 0.3, 0.2])
KEY = NeuronKey.parse(f"{PLANTED}/3")


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_planted(tmp_path_factory.mktemp("judged"))
    store = open_index(made).store
    rows = [row("run-1", "csp", "f1", neuron, 0.0) for neuron in range(6)]  # of an older evaluation
    rows += [row("run-2", "csp", "f1", neuron, float(value)) for neuron, value in enumerate(VALUES)]
    rows += [row("run-2", "csp", "wpmi", 3, None, "no image shows the concept")]
    rows += [row("run-2", "", "clarity", neuron, float(value)) for neuron, value in enumerate(VALUES)]
    rows += [row("run-3", "semanticlens", "f1", neuron, 1.0) for neuron in range(6)]
    with store.write_lock():
        store.append(schema.EVALUATIONS, pa.Table.from_pylist(rows, schema.table_schema(schema.EVALUATIONS)))
    return made


def row(run: str, method: str, metric: str, neuron: int, value: float | None, note: str = "") -> dict[str, object]:
    model, layer = PLANTED.split("/")
    place = {"run_id": run, "settings_hash": run, "model": model, "layer": layer, "neuron": neuron}
    judged = {"kind": "", "method": method, "text": "striped" if method else None}
    return place | judged | {"metric": metric, "value": value, "note": note}


def test_the_newest_evaluation_of_the_method_is_shown(db: Path) -> None:
    found = held_out(Snapshot(db), KEY, "csp")
    assert found is not None and (found["run_id"], found["text"]) == ("run-2", "striped")
    figures = {one["metric"]: one for one in found["figures"]}
    assert list(figures) == ["f1", "clarity", "wpmi"]  # what speaks for its family comes first
    assert figures["f1"]["value"] == 0.7 and figures["f1"]["first"]
    assert figures["f1"]["above_layer"] == pytest.approx(np.sum(VALUES < 0.7) / 5)
    assert (figures["wpmi"]["value"], figures["wpmi"]["note"]) == (None, "no image shows the concept")
    assert figures["wpmi"]["above_layer"] is None
    assert "recall" in figures["f1"]["summary"] and figures["f1"]["high"] == 1.0


def test_nothing_where_nobody_evaluated_it(db: Path) -> None:
    snapshot = Snapshot(db)
    assert held_out(snapshot, KEY, "pmi") is None
    assert held_out(snapshot, NeuronKey.parse("net/concepts/0"), "csp") is None
    alone = held_out(snapshot, KEY, None)
    assert alone is not None and [one["metric"] for one in alone["figures"]] == ["clarity"] and alone["text"] is None
