"""Neuron statistics: the order of rank keys, moments for any cut into shards, quantiles, exact top lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csp_index.ordering import mix, rank_keys, split_keys
from csp_index.records import LayerKey
from csp_index.store.schema import QUANTILES
from csp_index.store.values import statistics
from csp_index.store.values.statistics import NeuronStatistics, as_lists

KEY = LayerKey("m", "l")
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def gather(values: np.ndarray, cuts: Sequence[int] = (), top: int = 100) -> dict[str, list]:
    """Statistics of activations [M, N] taken in between the cuts."""
    found = NeuronStatistics(len(values), top)
    for low, high in zip([0, *sorted(cuts)], [*sorted(cuts), values.shape[1]], strict=True):
        found.update(torch.from_numpy(values[:, low:high].copy()))
    assert found.images == values.shape[1]
    return found.to_arrow(KEY).to_pydict()


def some(neurons: int = 4, images: int = 300, seed: int = 0) -> np.ndarray:
    """Activations with ties, a dead neuron, and a neuron without ReLU."""
    rng = np.random.default_rng(seed)
    values = np.round(np.maximum(rng.standard_normal((neurons, images)), 0), 1).astype(np.float32)
    values[0] = 0
    values[-1] = rng.standard_normal(images) - 5
    return values


@given(st.lists(FLOATS, min_size=1, max_size=30))
def test_rank_keys_order_by_activation_then_by_lower_id(values):
    a = np.array(values, dtype=np.float32)
    keys = rank_keys(torch.from_numpy(a)[None], torch.arange(len(a)))[0]
    assert len(keys.unique()) == len(a)
    assert keys.argsort(descending=True).tolist() == np.lexsort((np.arange(len(a)), -a)).tolist()


@given(st.lists(FLOATS, min_size=1, max_size=30), st.integers(0, 2**32 - 31))
def test_split_keys_gives_back_values_and_ids(values, first):
    a = torch.tensor([values], dtype=torch.float32)
    ids = torch.arange(first, first + len(values))
    found, names = split_keys(rank_keys(a, ids))
    assert found.dtype == torch.float32
    assert found.tolist() == a.tolist()
    assert names.tolist() == [ids.tolist()]


def test_minus_zero_ties_with_zero_and_extremes_keep_their_places():
    tiny, huge = float(np.nextafter(np.float32(0), np.float32(1))), float(np.finfo(np.float32).max)
    values = torch.tensor([[-0.0, 0.0, -tiny, tiny, huge, -huge, -0.0]])
    keys = rank_keys(values, torch.arange(7))[0]
    assert keys.argsort(descending=True).tolist() == [4, 3, 0, 1, 6, 2, 5]
    assert torch.signbit(split_keys(keys)[0]).tolist() == [False, False, True, False, False, True, False]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_moments_equal_numpy_for_any_cut_into_shards(data):
    images = data.draw(st.integers(1, 40))
    offset = data.draw(st.sampled_from([0.0, -3.0, 1e4]))
    rows = data.draw(
        st.lists(st.lists(st.floats(-100, 100, width=32), min_size=images, max_size=images), min_size=1, max_size=3)
    )
    values = (np.array(rows) + offset).astype(np.float32)
    found = gather(values, data.draw(st.lists(st.integers(0, images), max_size=6)))
    exact = values.astype(np.float64)
    np.testing.assert_allclose(found["mean"], exact.mean(1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found["std"], exact.std(1), rtol=1e-9, atol=1e-7)
    assert found["min"] == values.min(1).tolist()
    assert found["max"] == values.max(1).tolist()
    assert found["firing_rate"] == (values > 0).mean(1).tolist()
    assert found["images"] == [images] * len(values)


def test_a_large_offset_does_not_eat_the_deviation():
    values = (1e6 + np.random.default_rng(0).standard_normal((1, 500))).astype(np.float32)
    assert gather(values, [100, 300])["std"][0] == pytest.approx(values.astype(np.float64).std(), rel=1e-9)


@pytest.mark.parametrize("images", [1, 2, 7, 100, statistics.SAMPLE])
def test_quantiles_are_exact_up_to_the_sample(images):
    values = some(images=images, seed=images)
    found = gather(values, [images // 3])
    ordered = np.sort(values, axis=1)
    place = np.round(np.array(QUANTILES) * (images - 1)).astype(int)
    np.testing.assert_array_equal(found["quantiles"], ordered[:, place])


def test_quantiles_of_more_images_come_from_a_fair_sample():
    images = 3 * statistics.SAMPLE
    values = np.sort(np.random.default_rng(0).uniform(0, 1, (1, images)), axis=1).astype(
        np.float32
    )  # rising with the id
    found = np.array(gather(values, [1000, 9000])["quantiles"][0])
    np.testing.assert_allclose(found, QUANTILES, atol=0.03)
    assert found[0] == values.min()
    assert found[-1] == values.max()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=8), st.integers(1, 120))
def test_the_cut_into_shards_changes_nothing(cuts, top):
    values = some()
    whole, parts = gather(values, [], top), gather(values, cuts, top)
    np.testing.assert_allclose(parts.pop("mean"), whole.pop("mean"), rtol=1e-12)
    np.testing.assert_allclose(parts.pop("std"), whole.pop("std"), rtol=1e-12)
    assert parts == whole


def test_the_sample_does_not_depend_on_the_cut(monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLE", 50)
    values = some(images=400)
    assert gather(values)["quantiles"] == gather(values, [13, 60, 61, 399])["quantiles"]


def test_top_images_equal_the_oracle():
    values = some()
    found = gather(values, [50, 51, 220], top=40)
    for neuron, a in enumerate(values):
        order = oracle.activating(a, 40, floor=-np.inf)
        assert found["top_images"][neuron] == order.tolist()
        assert found["top_activations"][neuron] == a[order].tolist()
    assert found["top_images"][0] == list(range(40))  # all tie: the lower ids


def test_trap_5_the_top_images_are_kept_in_full_precision():
    images = 200
    values = np.full((1, images), 1.0, np.float32)
    for place in range(images):  # neighbours in float32: the same number in bfloat16 and float16
        values[0, place] = np.float32(1.0) + np.float32(place) * np.finfo(np.float32).eps
    assert len(np.unique(values)) == images
    assert len(torch.from_numpy(values).bfloat16().unique()) == 1
    found = gather(values, [64, 128], top=100)
    assert found["top_images"][0] == list(range(199, 99, -1))
    assert found["top_activations"][0] == values[0, 199:99:-1].tolist()


@pytest.mark.parametrize("shards", [[10, 1], [1], [3, 3, 1], [1, 1, 1], [5, 0, 2]])
def test_trap_7_a_short_batch_and_fewer_images_than_the_top_list(shards):
    values = some(images=sum(shards))
    found = gather(values, np.cumsum(shards)[:-1].tolist(), top=30)
    for neuron, a in enumerate(values):
        assert found["top_images"][neuron] == oracle.activating(a, 30, floor=-np.inf).tolist()
        assert len(found["top_images"][neuron]) == min(30, len(a))


def test_an_empty_update_changes_nothing():
    found = NeuronStatistics(2)
    found.update(torch.zeros(2, 0))
    assert found.images == 0
    found.update(torch.ones(2, 3))
    assert found.to_arrow(KEY)["std"].to_pylist() == [0.0, 0.0]


def test_the_hash_is_not_negative_spreads_and_depends_on_the_seed():
    numbers = torch.arange(20_000)
    hashes = mix(numbers)
    assert bool((hashes >= 0).all())
    assert len(hashes.unique()) == len(numbers)
    assert abs((hashes.double() / 2**63).mean().item() - 0.5) < 0.01
    assert not torch.equal(hashes, mix(numbers, 1))
    assert torch.equal(hashes[100:200], mix(numbers[100:200]))


@pytest.mark.parametrize("shape", [(3, 2), (0, 4), (3, 0)])
def test_as_lists_keeps_rows(shape):
    rows = torch.arange(shape[0] * shape[1], dtype=torch.float32).reshape(shape)
    assert as_lists(rows).to_pylist() == rows.tolist()
    assert as_lists(rows.T).to_pylist() == rows.T.tolist()
