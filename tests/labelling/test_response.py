"""The response of neurons to all images: sums that do not hang on tiles, and the order of the leaders' images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from csp_index.labelling.response.dataset_sums import DatasetSums, dataset_sums
from csp_index.labelling.response.leader_ranks import LeaderRanks, label_filters
from csp_index.labelling.response.response_sums import FiringSums, WholeSums
from csp_index.labelling.response.share_means import ShareMeans, Weights
from csp_index.labelling.response.views import Firing, Response, Saturation, Silent

IMAGES, NEURONS, TEXTS, WIDTH, SCALE = 400, 6, 9, 8, 20.0


def world(seed: int = 0):
    """Unit embeddings [N, D], activations [M, N] of which neuron 5 is dead, unit texts [C, D]."""
    generator = torch.Generator().manual_seed(seed)
    e = torch.nn.functional.normalize(torch.randn(IMAGES, WIDTH, generator=generator), dim=1)
    t = torch.nn.functional.normalize(torch.randn(TEXTS, WIDTH, generator=generator), dim=1)
    a = (t[:NEURONS] @ e.T - 0.4).clamp(min=0) + 0.2 * (torch.rand(NEURONS, IMAGES, generator=generator) > 0.97)
    a[5] = 0
    return e, a, t


def dataset_of(e, t) -> DatasetSums:
    return dataset_sums([e], t, SCALE)


def response_of(e, a, t, tiles: int = 1, only_firing: bool = False) -> Response:
    dataset, saturation = dataset_of(e, t), Saturation.of(a.topk(min(30, len(e)), dim=1).values)
    adder = FiringSums(saturation, t, SCALE) if only_firing else WholeSums(saturation, t, SCALE, dataset)
    for place in torch.arange(len(e)).chunk(tiles):
        adder.add(e[place], dataset.totals[place], a[:, place], Weights.none())
    return adder.finish()


def precision_of(e, a, t, leaders, tiles: int = 1, pick: slice = slice(None)) -> torch.Tensor:
    saturation = Saturation.of(a.topk(30, dim=1).values).of_neurons(pick)
    ranks = LeaderRanks(dataset_of(e, t), t, saturation, leaders[pick])
    for place in torch.arange(IMAGES).chunk(tiles):
        ranks.add(e[place], a[pick][:, place])
    return ranks.finish()


def test_tiles_change_nothing():
    e, a, t = world()
    one, many = (response_of(e, a, t, tiles) for tiles in (1, 7))
    torch.testing.assert_close(one.linear, many.linear, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.agreement, many.agreement, atol=1e-5, rtol=1e-5)
    leaders = torch.arange(4).repeat(NEURONS, 1)
    torch.testing.assert_close(precision_of(e, a, t, leaders), precision_of(e, a, t, leaders, 7))


def test_both_views_favour_the_text_that_a_neuron_detects():
    e, a, t = world()
    found = response_of(e, a, t)
    assert found.linear[:5].argmax(1).tolist() == [0, 1, 2, 3, 4]
    assert found.agreement[:5].argmax(1).tolist() == [0, 1, 2, 3, 4]
    assert not found.linear[5].any() and not found.agreement[5].any()


def test_the_leaders_precision_is_the_average_precision_of_the_filtered_order():
    e, a, t = world()
    a = (a > 0).float()
    leaders = torch.tensor([[0, 3], [1, 4], [2, 0], [3, 1], [4, 2], [5, 6]])
    got = precision_of(e, a, t, leaders)
    dataset = dataset_of(e, t)
    for neuron in range(5):
        for column in range(2):
            order = (e - e.mean(0)) @ label_filters(dataset, t, leaders[neuron, column][None])[0]
            expected = average_precision_score(a[neuron].numpy() > 0, order.numpy())
            assert got[neuron, column].item() == pytest.approx(expected, abs=0.05)
    assert bool((got[:5, 0] > got[:5, 1]).all())
    assert got[5].tolist() == [0.0, 0.0]


def test_a_block_of_neurons_is_ranked_as_among_all():
    e, a, t = world()
    leaders = torch.tensor([[0, 3], [1, 4], [2, 0], [3, 1], [4, 2], [5, 6]])
    whole = precision_of(e, a, t, leaders)
    torch.testing.assert_close(precision_of(e, a, t, leaders, pick=slice(2, 5)), whole[2:5])


@pytest.mark.parametrize("density", [0.02, 0.6], ids=["few fire", "most fire"])
def test_the_firing_images_are_those_of_half_the_mean_activation(density):
    e, _, t = world()
    generator = torch.Generator().manual_seed(3)
    a = torch.rand(NEURONS, IMAGES, generator=generator) * (torch.rand(NEURONS, IMAGES, generator=generator) < density)
    a[5] = 0
    found = response_of(e, a, t, 3, only_firing=True)
    share = (20.0 * e @ t.T).softmax(1)
    for k in range(5):
        top = a[k].topk(30).values
        fires = a[k] >= 0.5 * top[top > 0].mean()
        weights = a[k][fires] / a[k][fires].sum()
        torch.testing.assert_close(found.firing.log[k], weights @ share[fires].log(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.firing.root[k], weights @ share[fires].sqrt(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.firing.share[k], weights @ share[fires], atol=1e-5, rtol=1e-4)
    assert not found.firing.log[5].any()


def test_rows_and_columns_of_a_response():
    parts = torch.arange(12.0).view(3, 4)
    found = Response(parts, parts + 1, parts + 2)
    assert found.of_neurons(slice(1, 2)).precision.tolist() == [[6.0, 7.0, 8.0, 9.0]]
    assert found.of_candidates(torch.tensor([3, 0]), 1).linear.tolist()[0] == [3.0, 0.0, 0.0]
    assert found.repeated(2).agreement[:, 0].tolist() == [1.0, 1.0, 5.0, 5.0, 9.0, 9.0]
    assert Response(parts, parts).repeated(2).precision is None
    whole = replace(found, firing=Firing(parts, parts + 1, parts + 2)).of_neurons(slice(1, 2))
    assert whole.firing.log.tolist() == [[4.0, 5.0, 6.0, 7.0]] and whole.firing.share.tolist() == [[6.0, 7.0, 8.0, 9.0]]


def test_the_firing_of_leaders_is_that_of_their_columns():
    e, a, t = world()
    firing = response_of(e, a, t, only_firing=True).firing
    places = torch.tensor([[3, 1], [8, 0], [2, 7], [0, 1], [4, 5], [6, 2]])
    leaders = firing.of_leaders(places)
    selected = torch.tensor([0, 1, 2, 3, 8])
    rows = Response(leaders=leaders).of_neurons(slice(1, 4)).of_candidates(selected).firing
    for got, whole in zip((rows.log, rows.root, rows.share), (firing.log, firing.root, firing.share), strict=True):
        assert got[0, 4] == whole[1, 8] and got[0, 0] == whole[1, 0] and not got[0, 1:4].any()
        assert got[1].tolist() == [0.0, 0.0, whole[2, 2], 0.0, 0.0]


def test_one_image_or_one_text_is_no_error():
    e, a, t = world()
    found = response_of(e[:1], a[:, :1], t[:1])
    assert np.isfinite(found.linear.numpy()).all() and np.isfinite(found.agreement.numpy()).all()


def test_sums_over_the_dataset_are_those_of_a_softmax_and_grow_with_it():
    e, _, t = world()
    share = (SCALE * e @ t.T).softmax(1)
    whole = dataset_of(e, t)
    for found in (whole, dataset_of(e[:150], t).and_of(dataset_of(e[150:], t))):
        torch.testing.assert_close(found.totals, (SCALE * e @ t.T).logsumexp(1))
        torch.testing.assert_close(found.share.float(), share.sum(0), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(found.root.float(), share.sqrt().sum(0), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(found.covariance.float(), e.T.cov(correction=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [3, 100])
@pytest.mark.parametrize("per_row", [2, 900])
def test_mean_shares_are_those_of_a_softmax(rows, per_row):
    generator = torch.Generator().manual_seed(1)
    e = torch.nn.functional.normalize(torch.randn(5000, WIDTH, generator=generator), dim=1)
    t = torch.nn.functional.normalize(torch.randn(700, WIDTH, generator=generator), dim=1)
    dense = torch.zeros(rows, len(e))
    places = torch.randint(0, len(e), (rows, per_row), generator=generator)
    dense.scatter_add_(1, places, torch.rand(places.shape, generator=generator))
    dense[1] = 0
    share = (SCALE * e @ t.T).softmax(1)
    means = ShareMeans(rows, t, SCALE)
    means.add(e, dataset_of(e, t).totals, Weights.of(dense))
    torch.testing.assert_close(means.share, dense @ share, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(means.root, dense @ share.sqrt(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(Weights.of(dense).sums(rows, e), dense @ e, rtol=1e-4, atol=1e-3)


def test_what_contrastive_images_show_comes_with_the_response():
    e, a, t = world()
    dataset, saturation = dataset_of(e, t), Saturation.of(a.topk(30, dim=1).values)
    share = (SCALE * e @ t.T).softmax(1)
    silent = Weights(torch.tensor([0, 0, 4]), torch.tensor([7, 9, 7]), torch.tensor([0.5, 0.5, 1.0]))
    for adder in (FiringSums(saturation, t, SCALE), WholeSums(saturation, t, SCALE, dataset)):
        adder.add(e, dataset.totals, a, silent)
        found = adder.finish().silent
        torch.testing.assert_close(found.share[0], share[[7, 9]].mean(0))
        torch.testing.assert_close(found.share[4], share[7])
        assert not found.share[1].any()
        if found.root is not None:
            torch.testing.assert_close(found.root[0], share[[7, 9]].sqrt().mean(0))
    rows = Response(silent=Silent(share[:3])).of_candidates(torch.tensor([2])).of_neurons(slice(0, 1))
    assert rows.silent.share.tolist() == [[share[0, 2]]] and rows.repeated(2).silent is None
