"""Separability by tenths and monosemanticity: hand-computed values, a plain oracle, and what is undefined."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from csp_index.evaluation.metrics.separability import TENTHS, Images, monosemanticity, separability


def units(rows: list[list[float]]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


def drawn(seed: int, images: int, neurons: int = 5, width: int = 8) -> Images:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(images, width, generator=generator), dim=1)
    activations = (vectors[:, :neurons].T + 0.3 * torch.randn(neurons, images, generator=generator)).clamp(min=0)
    return Images(vectors, activations)


def test_separability_by_hand():
    """Activating images of the reference lie along x, silent ones along y; one held-out image lies wrongly."""
    reference = Images(units([[1.0, 0], [1, 0], [0, 1], [0, 1]]), torch.tensor([[3.0, 2, 0, 0]]))
    #          strongest, weaker, weakest (looks silent), silent, silent (tie with the weakest)
    vectors = units([[1.0, 0], [1, 1], [0, 1], [1, 2], [0, 1]])
    result = separability(reference, Images(vectors, torch.tensor([[9.0, 8, 7, 0, 0]])), alpha=0.5)
    # cosines with x less those with y: 1, 0, -1 | -0.447, -1: the first two win both pairs, the third half of one
    assert result.whole.tolist() == pytest.approx([(1 + 1 + 0.25) / 3])
    expected = [0.25, 1.0, 1.0]  # of three images: in the last tenth, the seventh and the fourth
    assert result.tenths[0, [3, 6, 9]].tolist() == pytest.approx(expected)
    assert result.tenths[0, [0, 1, 2, 4, 5, 7, 8]].isnan().all()


def test_tenths_equal_a_plain_computation_and_average_to_the_whole():
    reference, held_out = drawn(1, 300), drawn(2, 400)
    result = separability(reference, held_out, alpha=0.05)
    assert result.whole.min() > 0.7
    for neuron in range(5):
        a, e = reference.activations[neuron].double().numpy(), reference.embeddings.double().numpy()
        top = np.argsort(-a, kind="stable")[:15]
        gap = e[top].mean(0) - e[a < a.mean()].mean(0)
        b = held_out.activations[neuron].double().numpy()
        scores = held_out.embeddings.double().numpy() @ gap
        silent = scores[b < a.mean()]
        firing = [image for image in np.argsort(-b, kind="stable") if b[image] > a.mean()]
        wins = np.array([np.mean((scores[i] > silent) + 0.5 * (scores[i] == silent)) for i in firing])
        tenth = TENTHS - 1 - TENTHS * np.arange(len(firing)) // len(firing)
        expected = [wins[tenth == part].mean() for part in range(TENTHS)]
        np.testing.assert_allclose(result.tenths[neuron].numpy(), expected, atol=2e-6)
        assert result.whole[neuron].item() == pytest.approx(wins.mean(), abs=2e-6)


def test_images_at_random_are_not_separable():
    generator = torch.Generator().manual_seed(0)
    sides = [drawn(seed, 2000) for seed in (3, 4)]
    noise = [Images(side.embeddings, torch.rand(40, 2000, generator=generator)) for side in sides]
    result = separability(*noise, alpha=0.05)
    assert result.whole.mean().item() == pytest.approx(0.5, abs=0.02)


def test_a_neuron_without_one_side_has_no_separability():
    reference, held_out = drawn(1, 60), drawn(2, 60)
    dead, below = torch.zeros(1, 60), -torch.rand(1, 60)
    result = separability(
        Images(reference.embeddings, torch.cat([dead, dead + 1, below, reference.activations[:1]])),
        Images(held_out.embeddings, torch.cat([dead, dead + 1, below, dead])),
        alpha=0.05,
    )
    assert result.whole.isnan().all() and result.tenths.isnan().all()


def test_monosemanticity_by_hand_and_as_the_sum_over_pairs():
    vectors = units([[1.0, 0], [0, 1], [1, 1]])
    activations = torch.tensor([[4.0, 2, 0], [1, 1, 0], [3, 2, 1]])
    found = monosemanticity(Images(vectors, activations))
    assert found[:2].tolist() == pytest.approx([0.0, 0.0], abs=1e-7)  # two images at right angles
    assert found[2].item() == pytest.approx(0.0, abs=1e-7)  # its lowest activation counts as 0
    images = drawn(5, 50)
    for neuron, value in enumerate(monosemanticity(images).tolist()):
        w = images.activations[neuron].double().numpy()
        w = (w - w.min()) / (w.max() - w.min())
        pairs = np.outer(w, w) * (1 - np.eye(50))
        cosines = images.embeddings.double().numpy() @ images.embeddings.double().numpy().T
        assert value == pytest.approx((pairs * cosines).sum() / pairs.sum(), abs=1e-6)


def test_equal_pictures_are_monosemantic_and_one_picture_is_no_pair():
    vectors = units([[1.0, 0], [1, 0], [0, 1]])
    activations = torch.tensor([[5.0, 1, 0], [5, 0, 0], [0, 0, 0], [torch.inf, 1, 0]])
    found = monosemanticity(Images(vectors, activations))
    assert found[0].item() == pytest.approx(1.0)
    assert found[1:].isnan().all()
