"""Embeddings of crops: stored once, found by image and box."""

from __future__ import annotations

from pathlib import Path

import fakes
import numpy as np
import pytest

from csp_index import open_index
from csp_index.errors import StoreError
from csp_index.store import catalog, column_tables
from csp_index.store.values.crops import append_crops, crop_rows, crop_vectors


def test_crops_are_found_by_image_and_box(tmp_path: Path) -> None:
    fakes.write_images(tmp_path / "images", 3)
    index = open_index(tmp_path / "db")
    index.add_images(tmp_path / "images", encoders=["python:fakes:encoder"])
    source = catalog.encoder(index.store)
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 4, (9, 5))
    keys[8] = keys[2]  # embedded twice, by two runs
    vectors = rng.normal(size=(9, source.width)).astype(np.float32)
    assert (crop_rows(index.store, source, keys) == -1).all()
    with index.store.write_lock():
        append_crops(index.store, source, keys[:5], vectors[:5], "a")
        append_crops(index.store, source, keys[5:], vectors[5:], "b")
        append_crops(index.store, source, keys[:0], vectors[:0], "c")
    asked = np.concatenate([keys[::-1], keys[:2] + np.array([0, 0, 0, 0, 9])])
    rows = crop_rows(index.store, source, asked)
    assert rows[:9].tolist() == [2, 7, 6, 5, 4, 3, 2, 1, 0] and rows[9:].tolist() == [-1, -1]
    read = np.concatenate(list(crop_vectors(index.store, source, rows[:9])))
    np.testing.assert_array_equal(read, vectors[rows[:9]])
    assert index.store.count(column_tables.crops_table(source.name)) == 9


def test_damaged_embeddings_are_refused(tmp_path: Path) -> None:
    fakes.write_images(tmp_path / "images", 3)
    index = open_index(tmp_path / "db")
    index.add_images(tmp_path / "images", encoders=["python:fakes:encoder"])
    source = catalog.encoder(index.store)
    with index.store.write_lock():
        append_crops(index.store, source, np.zeros((1, 5), np.int64), np.full((1, source.width), np.nan), "a")
    with pytest.raises(StoreError, match=r"embeddings of crops in the table .* are damaged"):
        list(crop_vectors(index.store, source, np.array([0])))
