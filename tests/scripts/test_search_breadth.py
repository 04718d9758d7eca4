"""Candidates of the search that look at the whole response."""

from __future__ import annotations

import sys

import numpy as np
import torch
from checkout import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "method_search"))

import search_breadth
import search_candidates
import search_worlds
from search_breadth import FullSight
from search_variants import softened

from csp_index.labelling.evidence import Evidence
from csp_index.labelling.response.dataset_sums import dataset_sums
from csp_index.labelling.response.response_sums import FiringSums
from csp_index.labelling.response.share_means import Weights
from csp_index.labelling.response.views import Saturation
from csp_index.labelling.scoring import score
from csp_index.records import ScoringOptions


def toy(images: int = 60, labels: int = 5) -> search_worlds.World:
    rng = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(images, 8, generator=rng), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(labels, 8, generator=rng), dim=1)
    activations = torch.rand(3, images, generator=rng)
    return search_worlds.World(vectors, activations, texts, 7.0, torch.zeros(3).long(), torch.ones(3).long())


def test_the_factors_of_the_whole_response_are_their_formulas_written_out() -> None:
    world = toy()
    e, a, t = (x.double().numpy() for x in (world.vectors, world.activations, world.texts))
    centred = e - e.mean(0)
    covariance = centred.T @ centred / 60
    filters = np.linalg.solve(covariance + 3 * np.trace(covariance) / 8 * np.eye(8), (t - t.mean(0)).T)
    logits = 7.0 * e @ t.T
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    sight = FullSight(world)
    for k in range(3):
        half = 0.5 * np.sort(a[k])[-30:].mean()
        y = np.minimum(a[k] / half, 1)
        expected = [np.corrcoef(y, centred @ filters[:, j])[0, 1] for j in range(5)]
        np.testing.assert_allclose(search_breadth.filter_agreement(sight)[k], expected, rtol=1e-3, atol=1e-5)
        weights = np.where(y >= 1, a[k], 0) / a[k][y >= 1].sum()
        np.testing.assert_allclose(sight.firing_fit[k], weights @ np.log(share), rtol=1e-4)


def test_a_broader_leader_replaces_the_best_label_where_it_explains_the_rest_as_well() -> None:
    rng = torch.Generator().manual_seed(1)
    shown = torch.rand(400, generator=rng) < 0.3
    part = shown & (torch.rand(400, generator=rng) < 0.4)
    vectors = torch.stack([shown.float(), part.float(), torch.rand(400, generator=rng), torch.ones(400)], 1)
    vectors = torch.nn.functional.normalize(vectors + 0.01 * torch.randn(400, 4, generator=rng), dim=1)
    texts = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0]]), dim=1)
    activations = (shown.float() * 0.6 + part.float() * 0.4)[None]
    zero, one = torch.zeros(1).long(), torch.ones(1).long()
    sight = FullSight(search_worlds.World(vectors, activations, texts, 10.0, zero, one))
    narrow = torch.tensor([[1.0, 1.1, -5.0]])
    assert search_breadth.level(sight, narrow, count=3).argmax(1).tolist() == [0]
    assert search_breadth.level(sight, torch.tensor([[1.0, -5.0, 1.1]]), count=3).argmax(1).tolist() == [2]


def test_ranks_start_at_one_for_the_best() -> None:
    assert search_breadth.ranks(torch.tensor([[0.2, 0.9, 0.5]])).tolist() == [[3.0, 1.0, 2.0]]


def test_every_candidate_scores_every_label() -> None:
    sight = FullSight(toy(200, 40))
    for name, variant in {**search_candidates.PUBLISHED, **search_candidates.OWN, **search_candidates.BROAD}.items():
        scores = variant(sight)
        assert scores.shape == (3, 40) and bool(scores.isfinite().all()), name


def test_the_package_computes_the_chosen_candidate() -> None:
    world = toy(300, 12)
    sight = FullSight(world)
    contrast, near = (search_candidates.factor(sight, name) for name in ("firing contrast", "near"))
    expected = softened(contrast, 2) * softened(near, 0.1)  # the package's score before the second pass
    values, top = world.activations.topk(30, dim=1)
    sums = dataset_sums([world.vectors], world.texts, world.scale)
    firing = FiringSums(Saturation.of(values), world.texts, world.scale)
    firing.add(world.vectors, sums.totals, world.activations, Weights.none())
    near = sight.near[:, :, :50]
    evidence = Evidence(world.vectors, top, values, near, world.texts, None, sums.label_share, response=firing.finish())
    scores = score("firing-contrast", evidence, ScoringOptions(logit_scale=world.scale)).scores
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-6)
