"""Linear explanations against dense references in NumPy; planted sums; blocks, dead neurons, ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from csp_index.labelling.linear.correlation import (
    CorrelationSums,
    ListedSums,
    Moments,
    correlations,
    text_statistics,
)
from csp_index.labelling.linear.explanation import Explanation, LinearTerms, elastic_net, fit_terms, shortlist

IMAGES, TEXTS, WIDTH = 1200, 40, 48
PLANTED = {0: {3: 0.7}, 1: {5: 0.6, 9: 0.4}, 2: {11: 0.8, 2: -0.4, 17: 0.3}}


def world(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit embeddings [N, D], activations [5, N], unit texts [C, D]: sums of presences, noise, and a dead neuron."""
    rng = np.random.default_rng(seed)
    texts = normalize(torch.from_numpy(rng.normal(size=(TEXTS, WIDTH))).float(), dim=1)
    shown = torch.from_numpy((rng.random((IMAGES, TEXTS)) < 0.06).astype(np.float32))
    e = normalize(3 * texts[:1] + shown @ texts + 0.03 * torch.from_numpy(rng.normal(size=(IMAGES, WIDTH))).float())
    presence = dense_presence(e, texts)
    a = torch.zeros(5, IMAGES)
    for neuron, weights in PLANTED.items():
        a[neuron] = 2.0 + 10 * sum(weight * presence[text] for text, weight in weights.items())
    a[:3] += 0.1 * torch.from_numpy(rng.normal(size=(3, IMAGES))).float()
    a[3] = torch.from_numpy(rng.random(IMAGES)).float()
    return e, a, texts


def dense_presence(e: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    cosines = texts.double() @ e.double().T
    z = (cosines - cosines.mean(1, keepdim=True)) / cosines.std(1, correction=0, keepdim=True)
    return torch.sigmoid(2 * (z - 3)).float()


def explained(e: torch.Tensor, a: torch.Tensor, texts: torch.Tensor, tiles: int = 1, listed: int = 20) -> Explanation:
    """Return what the passes give, with every third image to validate, in `tiles` tiles."""
    moments, parts = Moments.of(a), torch.arange(IMAGES).chunk(tiles)
    statistics = text_statistics(lambda: [e[part] for part in parts], texts)
    first = CorrelationSums(moments, texts, statistics)
    for part in parts:
        first.add(e[part], a[:, part])
    correlation = first.finish()
    places = shortlist(correlation, listed)
    second = ListedSums(moments, texts, statistics, places)
    for part in parts:
        second.add(e[part], a[:, part], part % 3 == 0)
    highest = a.amax(1).clamp(min=1e-30)
    places = places.masked_fill((a.amin(1) == a.amax(1))[:, None], -1)
    return Explanation(
        correlation, fit_terms(places, second.parts(), moments, statistics.presence, highest, statistics.sigmoids)
    )


def test_correlations_are_those_of_a_dense_product() -> None:
    e, a, texts = world()
    expected = np.corrcoef(a[:4].numpy(), dense_presence(e, texts).numpy())[:4, 4:]
    np.testing.assert_allclose(explained(e, a, texts).correlation[:4].numpy(), expected, atol=2e-5)
    np.testing.assert_allclose(correlations(e, a, texts)[:4].numpy(), expected, atol=2e-5)
    assert not correlations(e, a, texts)[4].any()


def test_images_on_which_nothing_fires_can_be_left_out() -> None:
    e, a, texts = world()
    fires = torch.cat([(a[:4] - a[:4].median(1, keepdim=True).values).relu(), a[4:]])
    statistics, moments = text_statistics(lambda: [e[:500], e[500:]], texts), Moments.of(fires)
    whole, part = (CorrelationSums(moments, texts, statistics, only_varying=few) for few in (False, True))
    whole.add(e, fires)
    for rows in fires.ne(0).any(0).nonzero()[:, 0].chunk(3):
        part.add(e[rows], fires[:, rows])
    torch.testing.assert_close(part.finish(), whole.finish(), atol=2e-6, rtol=0)


def test_planted_sums_are_recovered_with_their_weights() -> None:
    e, a, texts = world()
    terms = explained(e, a, texts).terms
    assert terms is not None
    for neuron, weights in PLANTED.items():
        places = terms.places[neuron]
        assert set(places[places >= 0].tolist()) == set(weights)
        for place, weight in zip(places.tolist(), terms.weights[neuron].tolist(), strict=True):
            if place >= 0:
                assert weight == pytest.approx(10 * weights[place] / a[neuron].max().item(), rel=0.05)
        assert terms.bias[neuron].item() == pytest.approx(2.0 / a[neuron].max().item(), rel=0.05)
        predicted = terms.bias[neuron] + terms.weights[neuron] @ dense_presence(e, texts)[places.clamp(min=0)]
        assert np.corrcoef(predicted.numpy(), a[neuron].numpy())[0, 1] == pytest.approx(
            terms.correlation[neuron].item(), abs=1e-3
        )
    assert (terms.places[3] >= 0).sum() == 1  # nothing explains noise: its best text alone
    assert (terms.places[4] < 0).all()
    assert terms.heads.tolist()[:2] == [3, 5] and terms.heads[4] == -1
    assert terms.labels([f"t{i}" for i in range(TEXTS)])[4] is None


def test_sums_come_first_in_the_scores_and_other_texts_keep_theirs() -> None:
    e, a, texts = world()
    result = explained(e, a, texts)
    scores = result.scores()
    assert result.terms is not None
    assert scores.argmax(1)[:4].tolist() == result.terms.heads[:4].tolist()
    changed = scores != result.correlation
    assert changed.sum(1).tolist() == [1, 1, 1, 1, 0]


def test_tiles_and_short_lists_change_nothing() -> None:
    e, a, texts = world()
    one, many = explained(e, a, texts).terms, explained(e, a, texts, tiles=7).terms
    assert one is not None and many is not None
    assert torch.equal(one.places, many.places)
    torch.testing.assert_close(one.weights, many.weights, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(one.bias, many.bias, atol=1e-4, rtol=1e-3)


def test_blocks_of_texts_and_neurons_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    e, a, texts = world()
    one = explained(e, a, texts)
    module = "csp_index.labelling.linear.correlation."
    for name, size in (("_IMAGES", 100), ("_PRESENCE_BYTES", 4 * 100 * 7), ("_USED_BYTES", 5000), ("_LISTED_BYTES", 1)):
        monkeypatch.setattr(module + name, size)
    monkeypatch.setattr("csp_index.labelling.linear.explanation._BLOCK", 2)
    many = explained(e, a, texts)
    torch.testing.assert_close(one.correlation, many.correlation, atol=1e-5, rtol=1e-4)
    assert one.terms is not None and many.terms is not None and torch.equal(one.terms.places, many.terms.places)


def reference_net(x: np.ndarray, y: np.ndarray, penalty: float = 0.05, l1: float = 0.99) -> np.ndarray:
    """The elastic net by proximal gradient steps, many of them."""
    step = 1 / np.linalg.eigvalsh(x.T @ x / len(x)).max()
    beta = np.zeros(x.shape[1])
    for _ in range(20_000):
        beta = beta - step * (x.T @ (x @ beta - y) / len(x) + penalty * (1 - l1) * beta)
        beta = np.sign(beta) * np.maximum(np.abs(beta) - step * penalty * l1, 0)
    return beta


def test_the_elastic_net_is_that_of_a_reference() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 8)) @ (np.eye(8) + 0.3)
    x = (x - x.mean(0)) / x.std(0)
    y = x @ np.array([0.5, 0, 0, -0.3, 0, 0, 0.1, 0]) + 0.3 * rng.normal(size=300)
    y = (y - y.mean()) / y.std()
    covariance, cross = torch.from_numpy(x.T @ x / 300)[None], torch.from_numpy(x.T @ y / 300)[None]
    np.testing.assert_allclose(elastic_net(covariance, cross)[0].numpy(), reference_net(x, y), atol=1e-3)


def test_the_shortlist_has_the_highest_first_and_nobody_elses_texts() -> None:
    correlation = torch.tensor([[0.1, -0.5, 0.3, 0.3, -torch.inf], [0.0, 0.0, -0.2, 0.0, 0.0]])
    assert shortlist(correlation, 5).tolist() == [[2, 1, 3, 0, -1], [0, 2, 1, 3, 4]]
    assert shortlist(correlation, 2).tolist() == [[2, 1], [0, 2]]


def test_equal_texts_are_one_term_with_the_lower_number() -> None:
    e, a, texts = world()
    doubled = torch.cat([texts, texts])
    terms = explained(e, a, doubled).terms
    assert terms is not None
    assert sorted(terms.places[1][terms.places[1] >= 0].tolist()) == [5, 9]


def test_too_few_images_to_validate_give_single_texts() -> None:
    e, a, texts = world()
    moments, statistics = Moments.of(a[:, :2]), text_statistics(lambda: [e[:2]], texts)
    first = CorrelationSums(moments, texts, statistics)
    first.add(e[:2], a[:, :2])
    listed = shortlist(first.finish(), 5)
    second = ListedSums(moments, texts, statistics, listed)
    second.add(e[:2], a[:, :2], torch.zeros(2, dtype=torch.bool))
    terms: LinearTerms = fit_terms(
        listed, second.parts(), moments, statistics.presence, torch.ones(5), statistics.sigmoids
    )
    assert (terms.places >= 0).sum(1).max() == 1
    assert bool(terms.weights.isfinite().all() and terms.bias.isfinite().all())
