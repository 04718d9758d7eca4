"""Contrasts of class means: against a few lines of NumPy over all values at once."""

from __future__ import annotations

import numpy as np

from csp_index.studies.class_sums import ClassSums

IMAGES, NEURONS, CLASSES = 60, 5, 4


def expected(values: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the means on class, elsewhere, and half of the interval [M, C] of quantities [M, B, C]."""
    on, off, half = (np.full((NEURONS, CLASSES), np.nan) for _ in range(3))
    for number in range(CLASSES):
        inside, outside = values[:, classes == number, number], values[:, classes != number, number]
        if inside.shape[1]:
            on[:, number] = inside.mean(1)
        off[:, number] = outside.mean(1)
        if inside.shape[1] > 1:
            errors = inside.var(1, ddof=1) / inside.shape[1] + outside.var(1, ddof=1) / outside.shape[1]
            half[:, number] = 1.96 * np.sqrt(errors)
    return on, off, half


def compare(sums: ClassSums, values: np.ndarray, classes: np.ndarray) -> None:
    on, off, half = expected(values, classes)
    found = sums.contrast()
    np.testing.assert_allclose(found.on_class, on, rtol=1e-9)
    np.testing.assert_allclose(found.elsewhere, off, rtol=1e-9)
    np.testing.assert_allclose(found.effect, on - off, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.half, half, rtol=1e-6)
    assert sums.counts.tolist() == np.bincount(classes, minlength=CLASSES).tolist()


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Return quantities and classes: class 1 has one image, class 3 none."""
    rng = np.random.default_rng(0)
    classes = rng.choice([0, 2], IMAGES)
    classes[7] = 1
    return rng.normal(3, 2, (NEURONS, IMAGES, CLASSES)), classes


def test_contrasts_are_those_of_all_values_at_once() -> None:
    values, classes = drawn()
    sums = ClassSums(NEURONS, CLASSES)
    for some in (slice(0, 25), slice(25, 26), slice(26, IMAGES)):  # in batches, and the neurons in parts
        sums.count(classes[some])
        for first, last in ((0, 2), (2, NEURONS)):
            sums.add(values[first:last, some], classes[some], first)
    compare(sums, values, classes)


def test_quantities_that_are_the_same_for_every_class() -> None:
    values, classes = drawn()
    same = values[:, :, 0]
    sums = ClassSums(NEURONS, CLASSES)
    for some in (slice(0, 31), slice(31, IMAGES), slice(0, 0)):
        sums.count(classes[some])
        sums.add_same(same[:, some], classes[some])
    compare(sums, np.repeat(same[:, :, None], CLASSES, 2), classes)


def test_a_class_of_all_images_has_nothing_elsewhere() -> None:
    sums = ClassSums(1, 2)
    sums.count(np.zeros(3, dtype=np.int64))
    sums.add_same(np.ones((1, 3)), np.zeros(3, dtype=np.int64))
    found = sums.contrast()
    assert np.isnan(found.effect).all() and found.on_class[0, 0] == 1 and np.isnan(found.on_class[0, 1])
