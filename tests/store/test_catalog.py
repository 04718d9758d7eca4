"""The catalogue: only marked shards exist, tiles follow them, disorder is told, one neuron reads its own rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from fakes import write_arrays

from csp_index import Index, open_index
from csp_index.errors import NotFoundError, SettingError, StoreError
from csp_index.records import LayerKey
from csp_index.store import catalog, column_tables, schema
from csp_index.store.tables import Store
from csp_index.store.values import arrays as fetching
from csp_index.store.values import streams

IMAGES, NEURONS, WIDTH = 60, 8, 12
KEY = LayerKey("m", "l")


@pytest.fixture(params=[7, 60, 4096], ids=lambda size: f"shards of {size}")
def held(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Store, dict[str, np.ndarray]]:
    return make(tmp_path, request.param)


def make(folder: Path, shard_size: int = 7, **sizes: int) -> tuple[Store, dict[str, np.ndarray]]:
    paths = write_arrays(folder, **sizes)
    index = open_index(folder / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"], shard_size=shard_size)
    return index.store, {name: np.load(paths[name]) for name in ("embeddings", "activations")}


def rewrite(store: Store, table: str, rows: pa.Table) -> None:
    store.delete(table, "true")
    store.append(table, rows)


def test_tiles_put_together_are_the_arrays(held):
    store, arrays = held
    source, target = catalog.encoder(store), catalog.layer(store, KEY)
    marks = catalog.shards(store, source.what)
    embeddings = list(streams.embedding_tiles(store, source, marks))
    assert [len(tile) for tile in embeddings] == [mark.rows for mark in marks]
    np.testing.assert_array_equal(torch.cat(embeddings), arrays["embeddings"])
    activations = list(streams.activation_tiles(store, target, marks))
    assert [tile.shape[1] for tile in activations] == [mark.rows for mark in marks]
    np.testing.assert_array_equal(torch.cat(activations, 1), arrays["activations"].T)


@pytest.mark.parametrize("neurons", [[0], [7], [2, 5], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_chosen_neurons_come_in_their_order(held, neurons):
    store, arrays = held
    target = catalog.layer(store, KEY)
    found = list(streams.activation_tiles(store, target, catalog.shards(store, target.what), np.array(neurons)))
    np.testing.assert_array_equal(torch.cat(found, 1), arrays["activations"].T[neurons])


def test_covered_names_the_first_shards(tmp_path):
    store, _ = make(tmp_path, 7)
    target = catalog.layer(store, KEY)
    assert [m.number for m in catalog.covered(store, target.what, 14)] == [0, 1]
    with pytest.raises(StoreError, match="does not hold the 20 images"):
        catalog.covered(store, target.what, 20)


def test_embeddings_by_id_in_any_order_and_repeated(held):
    store, arrays = held
    ids = np.array([59, 0, 31, 31, 7, 59])
    np.testing.assert_array_equal(streams.embeddings_of(store, catalog.encoder(store), ids), arrays["embeddings"][ids])
    assert streams.embeddings_of(store, catalog.encoder(store), np.array([], np.int64)).shape == (0, WIDTH)


def test_rows_without_a_mark_are_ignored(tmp_path):
    store, arrays = make(tmp_path, 20)
    source, target = catalog.encoder(store), catalog.layer(store, KEY)
    for table in (source.table, target.table):
        rows = store.read(table, where="shard = 2")
        rows = rows.set_column(rows.schema.get_field_index("shard"), "shard", pa.array([3] * rows.num_rows, pa.int32()))
        if "image_id" in rows.column_names:
            rows = rows.set_column(0, "image_id", pa.array(range(IMAGES, IMAGES + rows.num_rows)))
        store.append(table, rows.cast(store.dataset(table).schema))
    assert catalog.image_count(store) == IMAGES
    np.testing.assert_array_equal(fetching.activations_of(store, target, 2, IMAGES), arrays["activations"][:, 2])
    marks = catalog.shards(store, source.what)
    np.testing.assert_array_equal(torch.cat(list(streams.embedding_tiles(store, source, marks))), arrays["embeddings"])
    found = list(streams.activation_tiles(store, target, marks))
    np.testing.assert_array_equal(torch.cat(found, 1), arrays["activations"].T)


def bytes_read(store: Store, target: catalog.LayerInfo, neurons: list[int]) -> int:
    """Bytes that Lance reads from disk for the activations of some neurons."""
    dataset = store.dataset(target.table)
    dataset.io_stats_incremental()  # forget what was read before
    found = list(streams.activation_tiles(store, target, catalog.shards(store, target.what), np.array(neurons)))
    assert sum(tile.shape[1] for tile in found) == catalog.image_count(store, target.what)
    return int(dataset.io_stats_incremental().read_bytes)


def test_trap_3_one_neuron_does_not_scan_the_store(tmp_path):
    neurons, images, shard = 256, 2000, 500
    store, _ = make(tmp_path, shard, images=images, neurons=neurons)
    target = catalog.layer(store, KEY)
    one, whole = bytes_read(store, target, [77]), bytes_read(store, target, list(range(neurons)))
    assert whole >= neurons * images * 4 / 8  # the values may be compressed
    assert one <= 4 * images * 4


def test_the_next_step_reads_no_activations_again_and_has_its_own(tmp_path):
    store, arrays = make(tmp_path, 20)
    target = catalog.layer(store, KEY)
    marks = catalog.shards(store, target.what)
    first = [tile.copy() for tile in fetching.fetch_tiles(store, target, marks[:2], np.array([3]))]
    for tile in fetching.fetch_tiles(store, target, marks[:2], np.array([3])):
        tile[:] = 0
    whole = fetching.activations_of(store, target, 3, IMAGES)
    np.testing.assert_array_equal(np.concatenate(first, 1)[0], whole[: sum(mark.rows for mark in marks[:2])])
    np.testing.assert_array_equal(whole, arrays["activations"][:, 3])
    assert bytes_read(store, target, [3]) == 0
    assert bytes_read(store, target, [2]) > 0


def test_python_and_sql_read_one_neuron_by_that_way_only(tmp_path, monkeypatch):
    make(tmp_path, 20)
    index = Index(tmp_path / "db")
    asked = []
    whole = fetching.fetch_tiles

    def watched(store, info, marks, neurons):
        asked.append(neurons.tolist())
        return whole(store, info, marks, neurons)

    monkeypatch.setattr(fetching, "fetch_tiles", watched)
    index.activations("m/l/5")
    index.sql("SELECT max(activation) FROM activations('m/l/2')")
    assert asked == [[5], [2]]


@pytest.mark.parametrize("shard_size", [7, 60])
def test_disorder_is_told(tmp_path, shard_size):
    store, _ = make(tmp_path, shard_size)
    source, target = catalog.encoder(store), catalog.layer(store, KEY)
    marks = catalog.shards(store, source.what)
    rows = store.read(source.table)
    rewrite(store, source.table, rows.take(list(range(IMAGES))[::-1]))
    with pytest.raises(StoreError, match="embeddings of arrays are out of order at image 0: index again"):
        list(streams.embedding_tiles(store, source, marks))
    with pytest.raises(StoreError, match="out of order"):
        streams.embeddings_of(store, source, np.array([0, 1]))
    rewrite(store, source.table, rows.slice(0, IMAGES - 1))
    with pytest.raises(StoreError, match=f"end before shard {marks[-1].number}"):
        list(streams.embedding_tiles(store, source, marks))
    rows = store.read(target.table)
    swapped = [1, 0, *range(2, rows.num_rows)]
    rewrite(store, target.table, rows.take(swapped))
    with pytest.raises(StoreError, match="activations of m/l are out of order"):
        list(streams.activation_tiles(store, target, marks))
    rewrite(store, target.table, rows.slice(0, rows.num_rows - 1))
    with pytest.raises(StoreError, match="activations of m/l end before shard"):
        list(streams.activation_tiles(store, target, marks))


def test_a_shard_of_another_length_is_told(tmp_path):
    store, _ = make(tmp_path, 30)
    target = catalog.layer(store, KEY)
    rows = store.read(target.table).to_pylist()
    for row in rows:
        row["values"] = row["values"][:-1]
    rewrite(store, target.table, pa.Table.from_pylist(rows, schema=column_tables.activations_schema("float32")))
    with pytest.raises(StoreError, match="do not fill shard 0"):
        fetching.activations_of(store, target, 1, IMAGES)


def test_marks_with_a_gap_are_told(tmp_path):
    store, _ = make(tmp_path, 20)
    store.delete(schema.SHARDS, "shard = 1")
    with pytest.raises(StoreError, match="shards of images do not follow each other at shard 2"):
        catalog.shards(store, schema.IMAGES)


def test_unknown_encoders_and_layers_are_told_with_the_known_ones(tmp_path):
    store, _ = make(tmp_path)
    with pytest.raises(NotFoundError, match=r"encoder 'clip' is not in the index .has: arrays."):
        catalog.encoder(store, "clip")
    with pytest.raises(NotFoundError, match=r"layer m/other is not in the index .has: m/l."):
        catalog.layer(store, LayerKey("m", "other"))
    store.delete(schema.NEURONS, "true")
    with pytest.raises(NotFoundError, match="not finished: run `csp-index index` again"):
        catalog.neuron_rows(store, catalog.layer(store, KEY))


def test_several_encoders_must_be_named(tmp_path):
    store, _ = make(tmp_path)
    rows = store.read(schema.ENCODERS)
    table = rows.schema.get_field_index("table")
    rows = rows.set_column(0, "encoder", pa.array(["second"]))
    rows = rows.set_column(table, "table", pa.array([column_tables.embeddings_table("second")]))
    store.append(schema.ENCODERS, rows.cast(store.read(schema.ENCODERS).schema))
    assert catalog.encoder(store).name == "arrays"  # without a committed shard the second is none yet
    marks = store.read(schema.SHARDS, where="what = 'embeddings:arrays'")
    renamed = pa.array(["embeddings:second"] * marks.num_rows)
    store.append(schema.SHARDS, marks.set_column(0, "what", renamed).cast(marks.schema))
    with pytest.raises(SettingError, match=r"name one .has: arrays, second."):
        catalog.encoder(store)
    assert catalog.encoder(store, "second").name == "second"


def test_names_with_quotes_are_only_names(tmp_path):
    paths = write_arrays(tmp_path)
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m'x/l' OR 1=1", embeddings=paths["embeddings"], encoder="it's")
    assert index.activations("m'x/l' OR 1=1/3").sum() == 0
    assert catalog.image_count(index.store, "embeddings:it's") == IMAGES
    assert catalog.neuron_rows(index.store, catalog.layers(index.store)[0], [1]).num_rows == 1
