"""Derived images: stored beside the indexed ones, found by their ids, and never counted among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import write_arrays

from csp_index import Index, open_index
from csp_index.contrast.embeddings import all_embeddings
from csp_index.errors import StoreError
from csp_index.records import NeuronKey
from csp_index.store import catalog, column_tables
from csp_index.store.catalog import EncoderInfo
from csp_index.store.values.derived_images import (
    FIRST,
    DerivedImage,
    append_derived,
    derived_rows,
    find_derived,
    is_derived,
    read_derived,
)
from csp_index.store.values.streams import embeddings_of_derived


@pytest.fixture
def index(tmp_path: Path) -> Index:
    paths = write_arrays(tmp_path)
    made = open_index(tmp_path / "db")
    made.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"], shard_size=17)
    return made


def source_of(index: Index) -> EncoderInfo:
    return catalog.encoder(index.store)


def image(number: int, *, neuron: int = 2, hashed: str = "h", width: int = 12) -> DerivedImage:
    vector = np.eye(width, dtype=np.float32)[number % width]
    key = NeuronKey("m", "l", neuron)
    return DerivedImage("perturbation", number, key, number, hashed, 0.5, vector, b"png%d" % number, {"edit": "blur"})


def test_ids_follow_each_other_from_the_first_one_on(index):
    source = source_of(index)
    with index.store.write_lock():
        assert append_derived(index.store, source, []) == []
        assert append_derived(index.store, source, [image(n) for n in range(3)]) == [FIRST, FIRST + 1, FIRST + 2]
        assert append_derived(index.store, source, [image(9)]) == [FIRST + 3]
    assert is_derived(torch.tensor([5, FIRST])).tolist() == [False, True]


def test_rows_come_in_the_order_asked_for(index):
    source = source_of(index)
    append_derived(index.store, source, [image(n) for n in range(5)])
    asked = [FIRST + 4, FIRST, FIRST + 4, FIRST + 2]
    assert read_derived(index.store, source, asked)["origin"].to_pylist() == [4, 0, 4, 2]
    assert read_derived(index.store, source, []).num_rows == 0
    expected = np.eye(12)[[4, 0, 4, 2]]
    np.testing.assert_array_equal(embeddings_of_derived(index.store, source, np.array(asked)), expected)
    assert embeddings_of_derived(index.store, source, np.array([], dtype=np.int64)).shape == (0, 12)


def test_an_unknown_one_is_told(index):
    source = source_of(index)
    with pytest.raises(StoreError, match=f"derived image {FIRST} of arrays is not in the index"):
        read_derived(index.store, source, [FIRST])
    append_derived(index.store, source, [image(0)])
    with pytest.raises(StoreError, match=str(FIRST + 1)):
        read_derived(index.store, source, [FIRST, FIRST + 1])
    with pytest.raises(StoreError, match="3 dimensions"):
        append_derived(index.store, source, [image(0, width=3)])


def test_they_are_found_by_neuron_kind_and_settings(index):
    source, (target,) = source_of(index), catalog.layers(index.store)
    assert find_derived(index.store, source, target, [2], "perturbation", "h").num_rows == 0
    append_derived(index.store, source, [image(0), image(1, neuron=5), image(2, hashed="other"), image(3)])

    def origins(neurons: range | list[int], kind: str = "perturbation", hashed: str = "h") -> list[int]:
        return find_derived(index.store, source, target, neurons, kind, hashed)["origin"].to_pylist()  # type: ignore[arg-type]

    assert origins([2]) == [0, 3]
    assert origins(range(8)) == [0, 1, 3]
    assert origins([2], hashed="other") == [2]
    assert origins([2], kind="synthetic") == origins([]) == []


def test_embeddings_of_both_sorts_come_together(index, tmp_path):
    source = source_of(index)
    append_derived(index.store, source, [image(n) for n in range(4)])
    stored = np.load(tmp_path / "embeddings.npy")
    vectors = all_embeddings(index.store, source, 60)
    ids = torch.tensor([7, FIRST + 3, 59, FIRST, 7])
    expected = np.stack([stored[7], np.eye(12)[3], stored[59], np.eye(12)[0], stored[7]])
    for _ in range(2):  # fetched row by row, then from memory
        np.testing.assert_allclose(vectors.of(ids), expected, atol=1e-6)
        list(vectors.screen(torch.device("cpu"), torch.float32))
    embed = vectors.gather(ids)
    np.testing.assert_allclose(embed(torch.tensor([FIRST])), expected[3:4], atol=1e-6)
    assert vectors.of(torch.tensor([FIRST + 1])).argmax() == 1


def test_nothing_else_counts_them(index):
    source = source_of(index)
    before = index.status()
    append_derived(index.store, source, [image(n) for n in range(4)])
    after = index.status()
    assert after["encoders"][0]["derived"] == 4
    assert {**after, "encoders": 0} == {**before, "encoders": 0}
    assert after["images"] == index.sql("SELECT count(*) AS n FROM images").rows()[0]["n"] == 60
    assert index.sql("SELECT count(*) AS n FROM embeddings").rows() == [{"n": 60}]


def test_sql_sees_them_with_their_neuron(index):
    assert index.sql("SELECT * FROM derived").rows() == []
    append_derived(index.store, source_of(index), [image(0), image(1)])
    rows = index.sql("SELECT address, origin, recipe FROM derived ORDER BY origin").rows()
    assert rows[1] == {"address": "m/l/2", "origin": 1, "recipe": '{"edit": "blur"}'}


def test_two_encoders_share_no_id(index, tmp_path):
    other = np.load(tmp_path / "embeddings.npy")[:, :5]
    np.save(tmp_path / "other.npy", other)
    index.import_arrays(tmp_path / "activations.npy", "m/k", embeddings=tmp_path / "other.npy", encoder="small")
    first, second = catalog.encoders(index.store)
    assert append_derived(index.store, first, [image(0), image(1)]) == [FIRST, FIRST + 1]
    assert append_derived(index.store, second, [image(2, width=5)]) == [FIRST + 2]
    assert append_derived(index.store, first, [image(3)]) == [FIRST + 3]
    assert read_derived(index.store, first, [FIRST + 3])["origin"].to_pylist() == [3]
    found = derived_rows(index.store, [FIRST + 2, FIRST + 3, FIRST + 99], ["origin", "picture"])
    assert found == {FIRST + 2: {"origin": 2, "picture": b"png2"}, FIRST + 3: {"origin": 3, "picture": b"png3"}}
    assert index.sql("SELECT count(*) AS n, count(DISTINCT encoder) AS e FROM derived").rows() == [{"n": 4, "e": 2}]


def test_a_table_out_of_order_is_told(index):
    source = source_of(index)
    append_derived(index.store, source, [image(0), image(1)])
    rows = read_derived(index.store, source, [FIRST])
    index.store.append(column_tables.derived_table(source.name), rows)
    with pytest.raises(StoreError, match="out of order"):
        read_derived(index.store, source, [FIRST])
