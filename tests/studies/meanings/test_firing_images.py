"""Which images facets rest on: those that fire enough, the strongest and a spread of others; silent ones counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from meant import IMAGES, LAYER, NEURONS, make_meant, scenes

from csp_index.contrast.selection import Selection
from csp_index.records import LayerKey
from csp_index.store import catalog
from csp_index.studies.meanings import firing_images as module
from csp_index.studies.meanings.firing_images import fired_by_rank, firing_images, spread


def test_images_that_fire_half_as_much_as_the_strongest_count() -> None:
    values = np.random.default_rng(0).random(400).astype(np.float32)
    bound = np.sort(values)[-30:].mean() / 2
    found = fired_by_rank(values)
    assert set(found.tolist()) == set(np.flatnonzero(values >= bound).tolist())
    assert (np.diff(values[found]) <= 0).all()
    assert fired_by_rank(np.zeros(9)).tolist() == [] and fired_by_rank(np.full(9, -1.0)).tolist() == []
    assert fired_by_rank(np.array([0.0, 1.0, 0.0])).tolist() == [1], "silent images do not lower the bound"


@pytest.mark.parametrize("count", [0, 1, 200, 201, 4321])
def test_ranks_are_distinct_and_reach_the_last(count: int) -> None:
    places = spread(count)
    assert len(set(places.tolist())) == len(places) == min(count, 200)
    assert places[:30].tolist() == [*range(min(30, count))] and (not count or places[-1] >= count - count // 150 - 1)


@pytest.mark.parametrize("at_once", [64, 3])
def test_sets_of_an_index_are_those_of_its_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(module, "SAMPLE", 100)
    monkeypatch.setattr(module, "_BYTES", at_once * 4 * IMAGES)
    store, (embeddings, activations, _, _) = make_meant(tmp_path).store, scenes()
    selection = Selection(
        catalog.encoder(store), catalog.layer(store, LayerKey.parse(LAYER)), np.arange(NEURONS, dtype=np.int64)
    )
    means = activations.mean(0)
    found = firing_images(store, selection, means)
    assert found.counts[-1] == 0 and (found.ids[-1] == -1).all()
    for neuron in range(NEURONS):
        ranked = fired_by_rank(activations[:, neuron])
        assert found.counts[neuron] == len(ranked)
        shown = found.ids[neuron, : len(ranked)]
        assert shown.tolist() == ranked[spread(len(ranked))].tolist() + [-1] * (len(shown) - min(len(ranked), 200))
    assert np.array_equal(found.silent.counts, (activations < means).sum(0))
    places = [int(np.abs(embeddings - row).sum(1).argmin()) for row in found.silent.vectors]
    assert len(set(places)) == 100
    assert np.array_equal(found.silent.silent, (activations[places] < means).T)
    part = found.of_neurons(slice(2, 4))
    assert np.array_equal(part.ids, found.ids[2:4]) and np.array_equal(part.silent.counts, found.silent.counts[2:4])
