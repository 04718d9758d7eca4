"""An index, its layers and its neurons as a notebook meets them."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest
from planted import CONCEPTS, make_arrays, serve_planted

from csp_index import Index, open_index
from csp_index.errors import AddressError, NotFoundError
from csp_index.query.layer_view import LayerView
from csp_index.query.neuron_view import NeuronView


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(serve_planted(tmp_path_factory)[0].store.uri)


def test_addresses_name_layers_and_neurons(index: Index) -> None:
    layer, neuron = index["planted/words"], index["planted/words/1"]
    assert isinstance(layer, LayerView) and isinstance(neuron, NeuronView)
    assert neuron.label == index.view("planted/words/1").label
    assert asdict(neuron.label)["neuron"]["neuron"] == 1  # the store behind its pictures stays out of it
    assert layer == index.layers["planted/words"] == index.layers[1] and index.layers[:1][0].key == index.layers[0].key
    with pytest.raises(NotFoundError, match=f"layer m/l is not in the index \\(has: {CONCEPTS}, planted/words\\)"):
        index["m/l"]
    for wrong in ("planted", 3, None):
        with pytest.raises(AddressError, match="is not an address"):
            index[wrong]  # type: ignore[index]
    assert "planted/words" in index.layers and layer in index.layers
    assert "m/l" not in index.layers and "planted" not in index.layers


def test_best_has_a_row_for_every_neuron(index: Index) -> None:
    rows = index.layers["planted/words"].best.rows()
    assert [row["neuron"] for row in rows] == [f"planted/words/{neuron}" for neuron in range(7)]
    assert (rows[0]["text"], rows[-1]["text"], rows[-1]["state"]) == ("striped", None, "dead")
    assert {row["method"] for row in rows[:-1]} == {"semanticlens"}
    unlabeled = index.layers[CONCEPTS].best.rows()[4:]
    assert len(unlabeled) == 6 and not any(row["text"] for row in unlabeled)


def test_layers_are_rows_with_counts(index: Index) -> None:
    rows = index.layers.to_arrow().to_pylist()
    assert [(row["layer"], row["neurons"], row["labelled"]) for row in rows] == [
        (CONCEPTS, 10, sum(bool(row["text"]) for row in index.layers[CONCEPTS].best.rows())),
        ("planted/words", 7, 6),
    ]
    assert len(index.layers) == 2 and len(index.layers[1]) == 7
    polars = pytest.importorskip("polars", reason="polars is not installed")
    assert polars.DataFrame(index.layers)["layer"].to_list() == [CONCEPTS, "planted/words"]


def test_each_is_a_short_line_and_a_view_with_pictures(index: Index) -> None:
    assert repr(index) == f"Index({index.uri!r}: 40 images, {CONCEPTS}, planted/words)"
    assert repr(index["planted/words"]) == "LayerView(planted/words: 7 neurons, 6 labeled, 1 dead)"
    assert repr(index["planted/words/0"]).startswith("NeuronView(Label(planted/words/0: 'striped' ")
    for one in (index, index["planted/words"], index["planted/words/0"], index.label("planted/words/0", keep=False)[0]):
        page = one._repr_html_()
        assert len(re.findall('<img [^>]*src="data:image/jpeg;base64,', page)) >= 6
        assert "<script" not in page
    assert "6 labeled" in index._repr_html_() and "40 images" in index._repr_html_()


def test_an_index_of_arrays_has_no_pictures_to_show(tmp_path) -> None:
    arrays = open_index(make_arrays(tmp_path))
    assert "<img" not in arrays._repr_html_() and "8 neurons, 0 labeled" in repr(arrays.layers)
    assert arrays["m/l"].best.rows()[0]["text"] is None


def test_nothing_yet_is_said_and_made(tmp_path) -> None:
    index = open_index(tmp_path / "db")
    assert index._repr_html_() == f"<p>Index(&#x27;{tmp_path / 'db'}&#x27;)</p>"
    with pytest.raises(Exception, match="no index at"):
        index.layers  # noqa: B018
