"""Activation maps in the files of the store: how many bytes they take, and that they come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from csp_index.models.layers.coarse_maps import as_levels
from csp_index.records import LayerKey
from csp_index.store import column_tables
from csp_index.store.catalog import LayerInfo
from csp_index.store.connect import create_store
from csp_index.store.values.activation_maps import Frame, MapPairs, packed, read_maps

NEURONS, KEPT = 64, 30
TARGET = LayerInfo(LayerKey("net", "conv"), NEURONS, "mean", "none", None, "float32", {}, "activations")
TABLE = column_tables.maps_table("net/conv")


def test_maps_of_noise_take_at_most_200_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count = NEURONS * KEPT
    levels, scales = as_levels(torch.from_numpy(rng.random((count, 14, 14), np.float32)))
    images = np.concatenate([rng.choice(1_281_167, KEPT, replace=False) for _ in range(NEURONS)])
    pairs = MapPairs(
        np.repeat(np.arange(NEURONS), KEPT), images, scales.numpy() * rng.random(count, np.float32), levels.numpy()
    )
    store = create_store(tmp_path / "db")
    store.append(TABLE, packed(Frame(14, 14, 1.0), pairs, np.arange(NEURONS), 0, 1_281_167))
    files = (tmp_path / "db" / f"{TABLE}.lance" / "data").iterdir()
    assert sum(file.stat().st_size for file in files) <= 200 * count
    for number, own in read_maps(store, TARGET, range(NEURONS)).items():
        rows = pairs.neurons == number
        np.testing.assert_array_equal(own.images, pairs.images[rows])
        np.testing.assert_array_equal(own.scales, pairs.scales[rows])
        np.testing.assert_array_equal(own.maps, pairs.maps[rows])
