"""Layers stored sparse: the same answers as dense ones, in fewer bytes; damaged rows are named, never read."""

from __future__ import annotations

import json
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
from fakes import write_arrays
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from csp_index import EvaluationOptions, Index, open_index
from csp_index.errors import SettingError, StoreError
from csp_index.evaluation.options import parse_methods
from csp_index.indexing.commit import value_rows
from csp_index.labelling.candidates import read_text_arrays
from csp_index.records import LayerKey
from csp_index.store import catalog, column_tables
from csp_index.store.catalog import LayerInfo, Shard
from csp_index.store.maintenance import table_state
from csp_index.store.values import streams
from csp_index.store.values.arrays import activations_of, fetch_tiles
from csp_index.store.values.sparse import wrong_places

KEY = LayerKey("net", "latents")
LAYER = str(KEY)
IMAGES, NEURONS = 100, 150  # three rows per shard, the last one not full


def latents(images: int = IMAGES, neurons: int = NEURONS) -> np.ndarray:
    """Return activations [images, neurons] of which one in ten is not 0; some are negative, some latents are dead."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal((images, neurons)).astype(np.float32)
    values[rng.random(values.shape) > 0.1] = 0
    values[:, 7] = 0
    values[5, 8] = -0.0
    return values


def make(folder: Path, storage: str, monkeypatch: pytest.MonkeyPatch, **options) -> Index:
    paths = write_arrays(folder, images=IMAGES)
    np.save(folder / "latents.npy", latents())
    monkeypatch.setenv("CSP_INDEX_ACTIVATION_STORAGE", storage)
    index = open_index(folder / f"{storage}.db")
    index.import_arrays(
        folder / "latents.npy", LAYER, embeddings=paths["embeddings"], logit_scale=30, **{"shard_size": 32} | options
    )
    monkeypatch.delenv("CSP_INDEX_ACTIVATION_STORAGE")
    return index


def of(index: Index) -> LayerInfo:
    return catalog.layer(index.store, KEY)


def own_info(neurons: int, dtype: str = "float32") -> LayerInfo:
    table = column_tables.activations_table(LAYER, sparse=True)
    return LayerInfo(KEY, neurons, "none", "arrays", None, dtype, {}, table)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sparse_rows_read_as_what_was_written(tmp_path, monkeypatch, dtype):
    index = make(tmp_path, "sparse", monkeypatch, dtype=dtype)
    store, info, expected = index.store, of(index), latents().T
    expected = expected.astype(np.float16).astype(np.float32) if dtype == "float16" else expected
    marks = catalog.shards(store, info.what)
    assert info.is_sparse and len(marks) == 4 and store.count(info.table) == 4 * 3
    assert np.array_equal(torch.cat(list(streams.activation_tiles(store, info, marks)), 1).numpy(), expected)
    for numbers in ([0], [149], [3, 64, 127, 128], list(range(60, 70)), [7, 8]):
        parts = list(fetch_tiles(store, info, marks, np.array(numbers)))
        assert [part.shape[1] for part in parts] == [32, 32, 32, 4] and parts[0].dtype == np.float32
        assert np.array_equal(np.concatenate(parts, 1), expected[numbers])
    assert np.array_equal(activations_of(store, info, 8, 64), expected[8, :64])


def test_the_files_of_many_shards_are_merged_and_a_pass_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("csp_index.indexing.import_arrays._GROUP_BYTES", 1)  # a file for each shard
    index = make(tmp_path, "sparse", monkeypatch, shard_size=8)
    assert len(catalog.shards(index.store, of(index).what)) == 13
    assert table_state(index.store, of(index).table).fragments == 1
    files = (tmp_path / "sparse.db" / f"{of(index).table}.lance" / "data").iterdir()
    assert len(list(files)) == 1  # those of one shard are gone
    assert [record.shown for record in index.store.log.records()] == [True] * len(index.store.log.records())
    assert index.verify(full=True).findings == []
    again = index.import_arrays(tmp_path / "latents.npy", LAYER)
    assert again.added == 0 and table_state(index.store, of(index).table).fragments == 1


def test_more_rows_than_are_read_by_number_are_scanned(tmp_path, monkeypatch):
    index = make(tmp_path, "sparse", monkeypatch)
    monkeypatch.setattr("csp_index.store.values.sparse._FETCHED", 1)
    marks, numbers = catalog.shards(index.store, of(index).what), np.array([2, 149])
    tiles = torch.cat(list(streams.activation_tiles(index.store, of(index), marks, numbers)), 1)
    assert np.array_equal(tiles.numpy(), latents().T[numbers])


def test_every_answer_is_that_of_the_dense_layer(tmp_path, monkeypatch):
    answers = []
    for storage in ("dense", "sparse"):
        index = make(tmp_path, storage, monkeypatch)
        texts = read_text_arrays(tmp_path / "text_embeddings.npy", tmp_path / "texts.txt")
        labels = [
            label.as_json() for method in ("csp", "pmi") for label in index.label(LAYER, method, vocabulary=texts)
        ]
        rows = index.sql(f"SELECT * FROM activations('{LAYER}/70') ORDER BY image_id").rows()
        statistics = index.sql("SELECT * FROM neurons ORDER BY neuron").rows()
        judged = index.evaluate(LAYER, EvaluationOptions(methods=parse_methods(["csp"])), vocabulary=texts).values
        examples = index.sql("SELECT * EXCLUDE (run_id) FROM examples ORDER BY ALL").rows()
        answers.append(json.dumps([labels, rows, statistics, examples, judged.to_pylist()], default=str))
        assert of(index).is_sparse == (storage == "sparse") and index.verify(full=True).findings == []
    assert answers[0] == answers[1]


@given(
    values=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 140)),
        elements=st.sampled_from([0.0, 0.0, 0.0, -0.0, 1.5, -2.0, 1e-7, 6e4]),
    ),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_any_values_come_back(values, dtype):
    info, shard = own_info(values.shape[1], dtype), Shard(3, 10, len(values), "")
    rows = value_rows(info, shard, torch.from_numpy(values))
    assert rows.num_rows == info.shard_rows and set(rows["shard"].to_pylist()) == {3}
    assert wrong_places(rows.to_batches()[0], info, len(values)) == ""
    tile = np.zeros(values.T.shape, np.float32)
    for row in rows.to_pylist():
        assert len(row["neurons"]) == len(row["images"]) == len(row["values"])
        for neuron, image, value in zip(row["neurons"], row["images"], row["values"], strict=True):
            tile[row["neuron"] + neuron, image] = value
    kept = values.astype(np.float16).astype(np.float32) if dtype == "float16" else values
    assert np.array_equal(tile, kept.T)


def test_values_beyond_float16_are_refused():
    with pytest.raises(SettingError, match="exceed the range of float16: index with --dtype float32"):
        value_rows(own_info(1, "float16"), Shard(0, 0, 1, ""), torch.tensor([[1e6]]))


def test_arrays_of_few_values_are_stored_sparse_without_being_asked(tmp_path):
    paths = write_arrays(tmp_path, images=IMAGES)
    index = open_index(tmp_path / "own.db")
    index.import_arrays(paths["activations"], "net/dense", embeddings=paths["embeddings"])
    assert head(tmp_path / "own.db")["format"] == "3"
    np.save(tmp_path / "latents.npy", latents())
    index.import_arrays(tmp_path / "latents.npy", LAYER)
    assert [info.is_sparse for info in catalog.layers(index.store)] == [False, True]
    assert [layer["storage"] for layer in index.status()["layers"]] == ["dense", "sparse"]
    assert head(tmp_path / "own.db") | {"format": "4", "needs": "0.2.0"} == head(tmp_path / "own.db")


def head(db: Path) -> dict[str, object]:
    fields: dict[str, object] = json.loads((db / "commits" / "HEAD").read_text())
    return fields


def test_a_layer_goes_on_as_it_was_begun(tmp_path, monkeypatch):
    make(tmp_path, "dense", monkeypatch)
    monkeypatch.setenv("CSP_INDEX_ACTIVATION_STORAGE", "sparse")
    index = open_index(tmp_path / "dense.db")
    index.import_arrays(tmp_path / "latents.npy", LAYER, shard_size=32)
    assert not of(index).is_sparse and len(catalog.layers(index.store)) == 1
    with pytest.raises(SettingError, match="activation_storage is 'few': expected one of auto, dense, sparse"):
        monkeypatch.setenv("CSP_INDEX_ACTIVATION_STORAGE", "few")
        index.import_arrays(tmp_path / "latents.npy", "net/other", shard_size=32)


CHANGES = {
    "a neuron that is not there": ("neurons", lambda v: [63] * len(v), "names neurons or images that are not there"),
    "an image that is not there": ("images", lambda v: [32] * len(v), "names neurons or images that are not there"),
    "an image before the first": ("images", lambda v: [-1] * len(v), "names neurons or images that are not there"),
    "a value too few": ("values", lambda v: v[1:], "are not equally long"),
    "another block of neurons": ("neuron", lambda v: 64, "out of order"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_rows_are_an_error_and_never_read(tmp_path, monkeypatch, change):
    index = make(tmp_path, "sparse", monkeypatch)
    column, do, message = CHANGES[change]
    info = of(index)
    rows = index.store.dataset(info.table).to_table().to_pylist()
    rows[2][column] = do(rows[2][column])
    changed = pa.Table.from_pylist(rows, schema=column_tables.sparse_schema("float32"))

    class Changed:
        """The store with other rows."""

        def __getattr__(self, name: str) -> object:
            return getattr(index.store, name)

        def dataset(self, name: str) -> object:
            return lance.write_dataset(changed, tmp_path / "changed.lance", mode="overwrite")

    with pytest.raises(StoreError, match=message):
        list(fetch_tiles(Changed(), info, catalog.shards(index.store, info.what), np.array([130])))


def test_verify_finds_values_that_are_not_in_order():
    info = own_info(2)
    rows = value_rows(info, Shard(0, 0, 3, ""), torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.0, 4.0]]))
    (row,) = rows.to_pylist()
    assert (row["neurons"], row["images"], row["values"]) == ([0, 0, 1, 1], [0, 1, 1, 2], [1.0, 2.0, 3.0, 4.0])
    for column, values in (("images", [1, 0, 1, 2]), ("images", [0, 0, 1, 2]), ("values", [1.0, 0.0, 3.0, 4.0])):
        batch = pa.Table.from_pylist([row | {column: values}], schema=rows.schema).to_batches()[0]
        assert "not in order, or not all different from 0" in wrong_places(batch, info, 3)
        assert wrong_places(batch, info, 3, ordered=False) == ""
