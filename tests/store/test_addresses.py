"""Addresses of neurons: how they are written, read, and refused."""

from __future__ import annotations

import pytest
from imported_arrays import build

from csp_index.errors import AddressError, NotFoundError
from csp_index.records import LayerKey, NeuronKey
from csp_index.store.addresses import named_layers, parse_neurons, resolve
from csp_index.store.connect import create_store


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0", [0]), ("0,5,9", [0, 5, 9]), ("10-12", [10, 11, 12]), (" 1 , 3-4 ", [1, 3, 4]), ("7-7", [7])],
)
def test_neurons_are_named_by_numbers_and_ranges(text, numbers):
    assert parse_neurons("m/l", text) == [f"m/l/{n}" for n in numbers]
    assert parse_neurons("m/l", "all") == ["m/l"]


@pytest.mark.parametrize("text", ["", ",", "a", "1-", "-1", "5-2", "1.5", "²", "0x1", "1,,2"])
def test_other_ways_to_name_neurons_are_refused(text):
    with pytest.raises(AddressError, match="are too many"):
        parse_neurons("m/l", "0-99999999999")
    with pytest.raises(AddressError, match="write all, 0,5,9 or 10-20"):
        parse_neurons("m/l", text)


@pytest.mark.parametrize("text", ["m", "m/l", "/l/0", "m//0", "m/l/x", "m/l/-1", "m/l/²", "a/b/c/0", ""])
def test_addresses_that_are_none(text):
    with pytest.raises(AddressError, match="is not an address"):
        NeuronKey.parse(text)


@pytest.mark.parametrize("given", [LayerKey("m", "l"), [NeuronKey("m", "l", 7)], 7])
def test_objects_are_no_addresses(given, tmp_path):
    with pytest.raises(AddressError, match=r"an object (LayerKey|NeuronKey|int) is no address: write MODEL/LAYER or"):
        resolve(create_store(str(tmp_path / "db")), given)


def test_addresses_are_read_as_they_are_written():
    key = NeuronKey.parse("resnet50/layer4.0/77")
    assert str(key) == "resnet50/layer4.0/77"
    assert key.layer_key == LayerKey.parse("resnet50/layer4.0")
    assert NeuronKey.parse("m/l/2") < NeuronKey.parse("m/l/10")


def test_layers_are_named_one_by_one_or_all(tmp_path):
    index, _, paths = build(tmp_path, images=8, neurons=2)
    index.import_arrays(paths["activations"], "net/b,c")
    assert named_layers(index.store, "all") == ["m/l", "net/b,c"]
    assert named_layers(index.store, "net/b,c") == ["net/b,c"]  # a name that is there is not taken apart
    assert named_layers(index.store, " m/l , net/x,m/l") == ["m/l", "net/x"]
    with pytest.raises(AddressError, match="'c' is not an address"):
        named_layers(index.store, "m/l,c")


def test_all_layers_of_an_index_without_one_are_refused(tmp_path):
    with pytest.raises(NotFoundError, match="has no layer: add one"):
        named_layers(create_store(str(tmp_path / "db")), "all")
