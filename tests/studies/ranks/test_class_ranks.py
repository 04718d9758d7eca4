"""AUROC, rates, means and extreme images by one sort, against pairs counted one by one."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.studies.ranks.class_ranks import class_figures
from csp_index.studies.ranks.members import ClassFigures, Members
from csp_index.studies.ranks.order import falling_order

KEPT = 3


def members_of(mask: np.ndarray) -> Members:
    """Return the memberships of a mask [n, C]."""
    owners, images = np.nonzero(mask.T)
    return Members(images, np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=mask.shape[1]))]), len(mask))


def plain(activations: np.ndarray, mask: np.ndarray, firing: np.ndarray) -> ClassFigures:
    """Return the same figures, neuron by neuron and class by class."""
    shape = len(activations), mask.shape[1]
    numbers, lists = [np.full(shape, np.nan) for _ in range(5)], [np.full((*shape, KEPT), -1) for _ in range(3)]
    for m, values in enumerate(activations.astype(np.float64)):
        order = sorted(range(len(values)), key=lambda image: (-values[image], image))
        for c, inside in enumerate(mask.T):
            own, other = values[inside], values[~inside]
            wins = (own[:, None] > other).sum() + (own[:, None] == other).sum() / 2
            if len(other):
                numbers[0][m, c] = wins / (len(own) * len(other))
                numbers[2][m, c], numbers[4][m, c] = (other > firing[m]).mean(), other.mean()
            numbers[1][m, c], numbers[3][m, c] = (own > firing[m]).mean(), own.mean()
            ranked = [image for image in order if inside[image]]
            outside = [image for image in order if not inside[image] and values[image] > firing[m]]
            for place, images in enumerate((ranked, ranked[::-1], outside)):
                lists[place][m, c, : len(images[:KEPT])] = images[:KEPT]
    return ClassFigures(*numbers, *lists)


def assert_equal(made: ClassFigures, expected: ClassFigures) -> None:
    for name in ("auroc", "rate_in", "rate_out", "mean_in", "mean_out"):
        np.testing.assert_allclose(getattr(made, name), getattr(expected, name), atol=1e-12, err_msg=name)
    for name in ("strongest", "weakest", "outside"):
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name), name)


def drawn(kind: str, neurons: int, images: int) -> np.ndarray:
    """Return activations: signed, rectified with two zeros in three, rounded with many ties, or all the same."""
    values = np.random.default_rng(3).standard_normal((neurons, images)).astype(np.float32)
    if kind == "rectified":
        return np.maximum(values - 0.5, 0)
    if kind == "ties":
        return np.round(values)  # -0.0 among them
    if kind == "sparse":
        return np.where(np.abs(values) > 1.5, values, np.float32(0))  # negative ones, too
    return values if kind == "signed" else np.zeros_like(values)


@pytest.mark.parametrize("kind", ["signed", "rectified", "ties", "sparse", "dead"])
@pytest.mark.parametrize("several", [False, True], ids=["one class each", "several classes"])
def test_figures_are_those_of_all_pairs(kind: str, several: bool) -> None:
    rng, activations = np.random.default_rng(1), drawn(kind, 6, 90)
    single = rng.integers(0, 6, 90)[:, None] == np.arange(5)  # a sixth are in none of them
    single[:, 4] = False
    single[17, :], single[17, 4] = False, True  # a class with one image
    mask = single | (rng.random((90, 5)) < 0.2) if several else single
    firing = np.array([0, 0, 0.5, -0.5, 2, 100], np.float32)
    members = members_of(mask)
    assert (members.single is None) == several
    assert_equal(class_figures(activations, members, firing, KEPT), plain(activations, mask, firing))


def test_a_class_of_all_images_has_nothing_outside() -> None:
    activations = drawn("signed", 2, 8)
    mask = np.stack([np.ones(8, bool), np.arange(8) < 2], axis=1)
    made = class_figures(activations, members_of(mask), np.zeros(2, np.float32), KEPT)
    assert np.isnan(made.auroc[:, 0]).all() and np.isnan(made.rate_out[:, 0]).all()
    assert (made.outside[:, 0] == -1).all() and (made.strongest[:, 1, 2] == -1).all()
    assert_equal(made, plain(activations, mask, np.zeros(2)))


def test_a_neuron_that_tells_a_class_wholly_has_the_highest_auroc() -> None:
    mask = (np.arange(10) < 3)[:, None]
    values = np.stack([np.where(mask[:, 0], 2.0, 1.0), np.where(mask[:, 0], 0.0, 1.0), np.ones(10)]).astype(np.float32)
    made = class_figures(values, members_of(mask), np.zeros(3, np.float32), KEPT)
    assert made.auroc[:, 0].tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("kind", ["signed", "rectified", "ties", "sparse"])
def test_the_order_is_that_of_a_stable_sort(kind: str) -> None:
    for values in drawn(kind, 3, 200):
        assert falling_order(values, np.arange(200)).tolist() == np.argsort(-values, kind="stable").tolist()


def test_large_and_tiny_numbers_are_in_order() -> None:
    values = np.array([1e-45, -1e-45, 3.4e38, -3.4e38, 0.0, -0.0, 1.0], np.float32)
    assert falling_order(values, np.arange(7)).tolist() == [2, 6, 0, 4, 5, 1, 3]


@pytest.mark.parametrize("share", [0.02, 0.2, 0.29])
def test_a_look_at_few_activations_gives_the_figures_of_all(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    values = np.where(rng.random((40, 120)) < share, np.round(rng.standard_normal((40, 120)), 1), 0).astype(np.float32)
    mask = rng.integers(0, 9, 120)[:, None] == np.arange(8)
    firing = np.where(np.arange(40) % 2, 0, 0.6).astype(np.float32)
    sparse = class_figures(values, members_of(mask), firing, KEPT)
    monkeypatch.setattr("csp_index.studies.ranks.class_ranks._SPARSE", -1.0)
    dense = class_figures(values, members_of(mask), firing, KEPT)
    assert_equal(sparse, dense)
    assert_equal(dense, plain(values, mask, firing))
