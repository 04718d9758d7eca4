"""The response of neurons to all images: sums that do not hang on tiles, and the order of the leaders' images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from csp_index.labelling.response import Firing, LeaderRanks, Response, ResponseSums

IMAGES, NEURONS, TEXTS, WIDTH = 400, 6, 9, 8


def world(seed: int = 0):
    """Unit embeddings [N, D], activations [M, N] of which neuron 5 is dead, unit texts [C, D]."""
    generator = torch.Generator().manual_seed(seed)
    e = torch.nn.functional.normalize(torch.randn(IMAGES, WIDTH, generator=generator), dim=1)
    t = torch.nn.functional.normalize(torch.randn(TEXTS, WIDTH, generator=generator), dim=1)
    a = (t[:NEURONS] @ e.T - 0.4).clamp(min=0) + 0.2 * (torch.rand(NEURONS, IMAGES, generator=generator) > 0.97)
    a[5] = 0
    return e, a, t


def sums_of(e, a, t, tiles: int = 1) -> ResponseSums:
    found = ResponseSums(a.topk(30, dim=1).values, t, 20.0)
    for place in torch.arange(IMAGES).chunk(tiles):
        found.add(e[place], a[:, place])
    return found


def precision_of(e, a, t, leaders, tiles: int = 1, pick: slice = slice(None)) -> torch.Tensor:
    ranks = LeaderRanks(sums_of(e, a, t), leaders[pick], pick)
    for place in torch.arange(IMAGES).chunk(tiles):
        ranks.add(e[place], a[pick][:, place])
    return ranks.finish()


def test_tiles_change_nothing():
    e, a, t = world()
    one, many = (sums_of(e, a, t, tiles).finish() for tiles in (1, 7))
    torch.testing.assert_close(one.linear, many.linear, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.agreement, many.agreement, atol=1e-5, rtol=1e-5)
    leaders = torch.arange(4).repeat(NEURONS, 1)
    torch.testing.assert_close(precision_of(e, a, t, leaders), precision_of(e, a, t, leaders, 7))


def test_both_views_favour_the_text_that_a_neuron_detects():
    e, a, t = world()
    found = sums_of(e, a, t).finish()
    assert found.linear[:5].argmax(1).tolist() == [0, 1, 2, 3, 4]
    assert found.agreement[:5].argmax(1).tolist() == [0, 1, 2, 3, 4]
    assert not found.linear[5].any() and not found.agreement[5].any()


def test_the_leaders_precision_is_the_average_precision_of_the_filtered_order():
    e, a, t = world()
    a = (a > 0).float()
    leaders = torch.tensor([[0, 3], [1, 4], [2, 0], [3, 1], [4, 2], [5, 6]])
    got = precision_of(e, a, t, leaders)
    sums = sums_of(e, a, t)
    for neuron in range(5):
        for column in range(2):
            order = (e - e.mean(0)) @ sums.filters(leaders[neuron, column][None])[0]
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
    result = ResponseSums(a.topk(30, dim=1).values, t, 20.0, firing=True)
    for place in torch.arange(IMAGES).chunk(3):
        result.add(e[place], a[:, place])
    found = result.finish()
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


def test_one_image_or_one_text_is_no_error():
    e, a, t = world()
    one = ResponseSums(a[:, :1], t[:1], 20.0)
    one.add(e[:1], a[:, :1])
    found = one.finish()
    assert np.isfinite(found.linear.numpy()).all() and np.isfinite(found.agreement.numpy()).all()
