"""Correlations from blocks of images are NumPy's, whatever the blocks and the moments that they start from."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.studies.comparison.correlation import CorrelationSums, ImageSample, Moments, correlations


def two_layers(images: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    first = np.maximum(rng.standard_normal((7, images)), 0) + 1000  # an offset that float32 products would drown in
    second = np.maximum(rng.standard_normal((5, images)) + first[:5] - 1000, 0)
    first[6], second[4] = 2.5, 0  # two that do not vary
    return first.astype(np.float32), second.astype(np.float32)


def by_numpy(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        whole = np.corrcoef(np.concatenate([first, second]).astype(np.float64))
    return np.nan_to_num(whole[: len(first), len(first) :])


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("size", [1, 64, 300])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_sums_over_blocks_are_the_correlations(size: int, shift: float) -> None:
    first, second = two_layers()
    moments = [Moments(v.mean(1, dtype=np.float64) + shift, v.std(1, dtype=np.float64)) for v in (first, second)]
    sums = CorrelationSums(*moments)
    for start in range(0, 300, size):
        sums.add(first[:, start : start + size], second[:, start : start + size])
    found = sums.correlations()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_numpy(first, second), atol=2e-5)
    assert not found[6].any() and not found[:, 4].any()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_correlations_of_whole_rows() -> None:
    first, second = two_layers()
    np.testing.assert_allclose(correlations(first, second), by_numpy(first, second), atol=2e-5)


def test_a_sample_has_the_same_images_of_both_layers() -> None:
    numbers = np.arange(100, dtype=np.float32)
    parts = [numbers[start : start + 30] for start in range(0, 100, 30)]
    sample = ImageSample(100, 20, seed=3)
    for part in parts:
        assert not sample.is_full
        sample.add(np.stack([part, -part]), part[None] * 2)
    first, second = sample.values()
    assert sample.is_full and first.shape == (2, 20) and len(set(first[0].tolist())) == 20
    np.testing.assert_array_equal(first[0] * 2, second[0])
    again = ImageSample(100, 20, seed=3)
    again.add(numbers[None], numbers[None])
    np.testing.assert_array_equal(again.values()[0][0], first[0])


def test_a_sample_of_all_images() -> None:
    sample = ImageSample(3, 10, seed=0)
    sample.add(np.ones((1, 3), np.float32), np.arange(3, dtype=np.float32)[None])
    assert sample.values()[1].tolist() == [[0, 1, 2]]
