"""Layers are compared over the images that both have, joined by their bytes, in whatever order they lie."""

from __future__ import annotations

from pathlib import Path

import fakes
import numpy as np
import pytest

from csp_index import Index, NetworkSource, open_index
from csp_index.errors import SourceError
from csp_index.records import LayerKey
from csp_index.store import catalog
from csp_index.studies.comparison.shared_images import Side, paired_tiles, shared_images

NETWORK = NetworkSource("python:fakes:network", ("concepts",), name="net")


def side(index: Index, layer: str) -> Side:
    return Side(index.store, catalog.layer(index.store, LayerKey.parse(layer)))


def indexed(folder: Path, source: Path, shard_size: int) -> Index:
    index = open_index(folder)
    index.add_images(source, encoders=["python:fakes:encoder"], networks=[NETWORK], shard_size=shard_size)
    return index


def activations(index: Index, layer: str) -> np.ndarray:
    count = catalog.layer(index.store, LayerKey.parse(layer)).neurons
    return np.stack([index.activations(f"{layer}/{neuron}") for neuron in range(count)])


@pytest.mark.parametrize("rename", [False, True])
def test_two_indexes_are_joined_by_the_bytes_of_their_images(tmp_path: Path, rename: bool) -> None:
    fakes.write_images(tmp_path / "one", 14)
    fakes.write_images(tmp_path / "two", 17, start=3)  # 11 are the same
    if rename:  # the same pictures in the reverse order
        names = sorted((tmp_path / "two").rglob("*.png"), key=lambda file: file.name)
        for place, file in enumerate(names):
            file.rename(file.parent.parent / f"{99 - place}.png")
    first, second = (indexed(tmp_path / f"{n}.db", tmp_path / n, size) for n, size in (("one", 5), ("two", 4)))
    sides = side(first, "net/concepts"), side(second, "net/concepts")
    shared = shared_images(*sides)
    assert (len(shared), shared.only_first, shared.only_second) == (11, 3, 6)
    assert shared.is_ordered is not rename
    tiles = list(paired_tiles(*sides, shared))
    one, two = (np.concatenate(parts, 1) for parts in zip(*tiles, strict=True))
    np.testing.assert_array_equal(one, activations(first, "net/concepts")[:, shared.first])
    np.testing.assert_allclose(one, two, atol=1e-5)  # the same network sees the same pictures
    some = np.array([1, 4])
    few = np.concatenate([tile for tile, _ in paired_tiles(*sides, shared, some)], 1)
    np.testing.assert_array_equal(few, one[some])


def test_indexes_without_a_common_image_are_refused(tmp_path: Path) -> None:
    fakes.write_images(tmp_path / "one", 4)
    fakes.write_images(tmp_path / "two", 4, start=10)
    indexes = [indexed(tmp_path / f"{name}.db", tmp_path / name, 4) for name in ("one", "two")]
    with pytest.raises(SourceError, match=r"has 4 images and .* 4, and 0 of them are the same by sha256"):
        shared_images(*(side(index, "net/concepts") for index in indexes))
