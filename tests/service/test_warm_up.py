"""What the first page needs is there before models load."""

from __future__ import annotations

import logging
import threading

import pytest
from planted import Served, make_arrays, make_planted, opened

from csp_index.errors import StoreError
from csp_index.records import NeuronKey
from csp_index.service import warm_up
from csp_index.service.editions import Edition
from csp_index.service.warm_up import read_first_page


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return opened(make_planted(tmp_path_factory.mktemp("warm")))


def test_the_layer_is_in_memory_and_no_model_is(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, engine = served
    key = read_first_page(snapshot, engine)
    assert key is not None and not snapshot.layer(key.layer_key).dead[key.neuron] and not engine.ready
    monkeypatch.setattr(snapshot.store, "read", None)  # tables read as a whole; notes and studies read by their own
    assert snapshot.layer(key.layer_key) is not None and engine.concepts(key.layer_key) is not None


def test_a_page_that_cannot_be_made_is_logged_and_models_load(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*given: object) -> None:
        raise StoreError("the labels are damaged")

    monkeypatch.setattr(warm_up, "neuron_document", fail)
    snapshot, engine = served
    with caplog.at_level(logging.ERROR, "csp_index.service"):
        assert read_first_page(snapshot, engine) is None
    assert "cannot be made: the labels are damaged" in caplog.text
    began = threading.Event()
    monkeypatch.setattr(engine, "start", began.set)
    monkeypatch.setattr(warm_up, "neuron_document", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Edition(None, snapshot, engine, None).load()  # type: ignore[arg-type]
    assert began.is_set()


def test_without_layers_there_is_nothing_to_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    snapshot, engine = opened(make_arrays(tmp_path_factory.mktemp("warm arrays")))
    assert read_first_page(snapshot, engine) == NeuronKey("m", "l", 0)
    snapshot._layers.clear()
    assert read_first_page(snapshot, engine) is None
