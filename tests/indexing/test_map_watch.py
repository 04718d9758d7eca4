"""Maps are taken of all images that end among the top ones, in whatever order batches come, and rows are renumbered."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from csp_index.indexing.map_watch import BatchMaps, PairWatch, TopWatch, WatchedLayer, joined_maps

TOP = 3


@pytest.mark.parametrize("order", ["as they come", "backwards", "half precision"])
def test_every_map_of_a_top_image_is_taken(order: str) -> None:
    half = order == "half precision"
    values = torch.relu(torch.randn(40, 6, generator=torch.Generator().manual_seed(1)))
    values[:, 2] = 0  # it never fires
    values[10:, 3] = values[:30, 3]  # ties
    stored = values.half().float() if half else values
    maps = values[:, :, None, None] * torch.rand(40, 6, 2, 2)
    watch = TopWatch({"l": WatchedLayer("mean", 6, half=half)}, TOP)
    batches = [torch.arange(start, start + 5) for start in range(0, 40, 5)]
    taken: set[tuple[int, int]] = set()
    for rows in reversed(batches) if order == "backwards" else batches:
        watch("l", values[rows], maps[rows])
        watch("vector", values[rows], None)
        (found,) = watch.taken().values()
        taken |= set(zip(rows[found.rows].tolist(), found.neurons.tolist(), strict=True))
        watch.learn("l", values[rows])
    top = np.argsort(-stored.numpy(), axis=0, kind="stable")[:TOP]
    wanted = {(int(image), neuron) for neuron in range(6) for image in top[:, neuron] if stored[image, neuron] > 0}
    assert wanted <= taken
    assert len(taken) < 40 * 6 / 2 and not watch.taken()


def test_expected_pairs_are_taken_and_no_others() -> None:
    maps = torch.rand(3, 4, 2, 2)
    watch = PairWatch({"l": "mean"})
    watch.expect({"l": (np.array([2, 0]), np.array([1, 3]))})
    watch("l", maps.mean((2, 3)), maps)
    watch("other", maps.mean((2, 3)), maps)
    found = watch.taken()["l"]
    assert found.rows.tolist() == [2, 0] and found.neurons.tolist() == [1, 3]
    assert found.scales.tolist() == [maps[2, 1].max(), maps[0, 3].max()]


def made(rows: list[int]) -> BatchMaps:
    numbers = np.array(rows)
    return BatchMaps(numbers, numbers * 10, numbers.astype(np.float32), np.zeros((len(rows), 1, 1), np.uint8))


def test_rows_count_among_those_that_stay() -> None:
    some = made([0, 0, 1, 3, 4]).of([0, 3, 5])
    assert (some.rows.tolist(), some.neurons.tolist()) == ([0, 0, 1], [0, 0, 30])
    both = joined_maps([(made([0, 1, 2]), 1, 3), (made([0, 2]), 0, 2), (made([]), 0, 4), (made([3]), 3, 4)])
    assert (both.rows.tolist(), both.neurons.tolist()) == ([0, 1, 2, 8], [10, 20, 0, 30])
    assert made([0, 1]).numbered(np.array([7, 5])).rows.tolist() == [7, 5]
