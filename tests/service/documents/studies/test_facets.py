"""Facets: groups of directions, the texts that name them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from csp_index.service.documents.studies.facets import directions, facets_of, name_facets


def clusters(*sizes: int, width: int = 64, noise: float = 0.1) -> np.ndarray:
    """Return unit rows around as many axes as there are sizes."""
    rows = np.repeat(np.eye(width)[: len(sizes)], sizes, axis=0)
    rows = rows + noise * np.random.default_rng(0).standard_normal(rows.shape)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("sizes", [(30,), (20, 10), (12, 10, 8), (9, 8, 7, 6)])
def test_facets_are_the_planted_groups(sizes):
    found = facets_of(clusters(*sizes))
    bounds = np.cumsum([0, *sizes])
    assert [group.tolist() for group in found] == [list(range(low, high)) for low, high in pairwise(bounds)]


def test_what_is_no_group_is_one_facet():
    rng = np.random.default_rng(1)
    unrelated = rng.standard_normal((30, 64))
    unrelated /= np.linalg.norm(unrelated, axis=1, keepdims=True)
    assert len(facets_of(unrelated)) == 1
    assert len(facets_of(clusters(29, 1))) == 1  # one odd image is no facet
    assert len(facets_of(np.repeat(np.eye(4)[:1], 12, axis=0))) == 1
    assert [len(group) for group in facets_of(np.eye(4)[:1])] == [1]
    assert facets_of(np.zeros((0, 4))) == []


def test_facets_are_named_by_the_nearest_text_and_joined_by_it():
    rows, axes = clusters(12, 10, 8), np.eye(64)
    named = name_facets(rows, np.ones(30), facets_of(rows), axes[[2, 1, 0]])
    assert [(place, len(group)) for place, group in named] == [(2, 12), (1, 10), (0, 8)]
    joined = name_facets(rows, np.ones(30), facets_of(rows), np.stack([axes[1], axes[0] + 0.5 * axes[2]]))
    assert [(place, len(group)) for place, group in joined] == [(1, 20), (0, 10)]
    assert name_facets(rows, np.ones(30), [], axes) == []


def test_directions_take_away_the_contrast():
    image, partner = np.array([[1.0, 1.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    found = directions(image, partner, np.array([1.0, 0.0]), 1.0)
    assert np.allclose(found, [[0, 1], [1, 0]])
