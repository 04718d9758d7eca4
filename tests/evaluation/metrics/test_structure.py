"""Structure metrics against straightforward loops: absent entries, dead neurons, ties and single examples included."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from csp_index.errors import EvaluationError
from csp_index.evaluation.metrics import structure
from csp_index.evaluation.metrics.structure import (
    broader_narrower_lead,
    clarity,
    consistency,
    label_images,
    label_sharing,
    lead,
    polysemanticity,
    redundancy,
)

IMAGES, WIDTH = 60, 8


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def some_places(neurons: int, width: int, seed: int = 0) -> torch.Tensor:
    """Distinct places; neuron k has k of them, and width from k = width on."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.stack([torch.randperm(IMAGES, generator=generator)[:width] for _ in range(neurons)])
    return places.masked_fill(torch.arange(width) >= torch.arange(neurons)[:, None], -1)


def oracle_clarity(v: np.ndarray) -> float:
    n = len(v)
    if n < 2:
        return np.nan
    mean = v.mean(0)
    return ((mean**2).sum() - 1 / n) * n / (n - 1)


def inertia(v: np.ndarray, second: np.ndarray) -> float:
    return sum(((v[part] - v[part].mean(0)) ** 2).sum() for part in (second, ~second) if part.any())


def oracle_polysemanticity(v: np.ndarray) -> float:
    """The best of all two-part clusterings, tried one by one."""
    if len(v) < 2:
        return np.nan
    splits = [np.array((False, *rest)) for rest in itertools.product([False, True], repeat=len(v) - 1) if any(rest)]
    best = min(splits, key=lambda second: inertia(v, second))
    centres = np.stack([v[best].mean(0), v[~best].mean(0)])
    return 1 - oracle_clarity(centres / np.linalg.norm(centres, axis=1, keepdims=True))


def rows_of(vectors: torch.Tensor, places: torch.Tensor) -> list[np.ndarray]:
    return [vectors[row[row >= 0]].double().numpy() for row in places]


def test_clarity_equals_a_loop_and_is_the_mean_cosine_of_pairs() -> None:
    vectors, places = unit(IMAGES, WIDTH), some_places(9, 6)
    expected = [oracle_clarity(v) for v in rows_of(vectors, places)]
    np.testing.assert_allclose(clarity(vectors, places), expected, atol=1e-6)
    v = rows_of(vectors, places)[6]
    pairs = (v @ v.T)[~np.eye(6, dtype=bool)].mean()
    assert clarity(vectors, places)[6].item() == pytest.approx(pairs, abs=1e-6)


def test_clarity_of_one_picture_is_1_of_opposites_minus_1_and_of_fewer_than_two_nan() -> None:
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found = clarity(vectors, torch.tensor([[0, 0, 0], [0, 1, -1], [-1, 1, -1], [-1, -1, -1]]))
    assert found.tolist()[:2] == [1.0, -1.0]
    assert found[2:].isnan().all()


@pytest.mark.parametrize("seed", range(20))
def test_polysemanticity_is_that_of_the_best_two_part_clustering(seed: int) -> None:
    vectors, places = unit(IMAGES, 5, seed=seed), some_places(9, 8, seed=seed)
    found = polysemanticity(vectors, places, restarts=32)
    for k, v in enumerate(rows_of(vectors, places)):
        np.testing.assert_allclose(found[k], oracle_polysemanticity(v), atol=1e-5)


def test_polysemanticity_equals_sklearn_where_neurons_have_two_meanings() -> None:
    meanings = unit(40, 16, seed=1)
    rng = np.random.default_rng(0)
    vectors = torch.nn.functional.normalize(
        meanings.repeat_interleave(15, 0) + 0.1 * torch.from_numpy(rng.normal(size=(600, 16))).float(), dim=1
    )
    places = torch.arange(600).view(20, 30)  # neuron k: 15 images of meaning 2k, 15 of meaning 2k + 1
    expected = []
    for row in places:
        centres = KMeans(2, n_init=10, random_state=0).fit(vectors[row].double().numpy()).cluster_centers_
        expected.append(1 - oracle_clarity(centres / np.linalg.norm(centres, axis=1, keepdims=True)))
    np.testing.assert_allclose(polysemanticity(vectors, places), expected, atol=1e-5)


def test_polysemanticity_of_one_meaning_is_0_of_two_unrelated_ones_1_and_of_one_image_nan() -> None:
    vectors = torch.eye(4)
    found = polysemanticity(vectors, torch.tensor([[2, 2, 2], [0, 0, 1], [3, -1, -1], [-1, -1, -1]]))
    np.testing.assert_allclose(found, [0.0, 1.0, np.nan, np.nan], atol=1e-6)
    assert polysemanticity(vectors, torch.tensor([[1]])).isnan().all()
    assert polysemanticity(vectors, torch.zeros(2, 0, dtype=torch.int64)).isnan().all()


def test_polysemanticity_of_a_neuron_does_not_depend_on_the_others_or_on_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, places = unit(IMAGES, WIDTH), some_places(12, 9)
    whole = polysemanticity(vectors, places)
    np.testing.assert_array_equal(
        whole[7:], torch.cat([polysemanticity(vectors, places[k : k + 1]) for k in range(7, 12)])
    )
    absent = torch.cat([places, torch.full((12, 3), -1)], 1)
    assert polysemanticity(vectors, absent).isnan().tolist() == whole.isnan().tolist()
    monkeypatch.setattr(structure, "_BLOCK_BYTES", 1)
    np.testing.assert_allclose(polysemanticity(vectors, places), whole, atol=1e-6)


def oracle_redundancy(v: np.ndarray) -> list[float]:
    lengths = np.linalg.norm(v, axis=1)
    found = []
    for k in range(len(v)):
        others = [j for j in range(len(v)) if j != k and lengths[j] > 0]
        cosines = [v[k] @ v[j] / lengths[k] / lengths[j] for j in others] if lengths[k] > 0 else []
        found.append(max(cosines, default=np.nan))
    return found


@pytest.mark.parametrize("block", [1, 2**20])
def test_redundancy_equals_a_loop_and_the_dead_are_nobodys_neighbour(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "_BLOCK_BYTES", block)
    vectors = 3 * unit(12, 3) * torch.arange(1, 13)[:, None]
    vectors[[2, 7]] = 0
    np.testing.assert_allclose(redundancy(vectors), oracle_redundancy(vectors.double().numpy()), atol=1e-6)
    broken = vectors.clone()
    broken[4] = torch.nan
    vectors[4] = 0
    np.testing.assert_array_equal(redundancy(broken), redundancy(vectors))


def test_redundancy_may_be_negative_and_needs_another_live_neuron() -> None:
    assert redundancy(torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 0.0]])).tolist()[:2] == [-1.0, -1.0]
    assert redundancy(torch.tensor([[1.0, 0.0]])).isnan().all()
    assert redundancy(torch.tensor([[1.0, 0.0], [0.0, 0.0]])).isnan().all()
    assert redundancy(torch.zeros(0, 4)).shape == (0,)


def oracle_consistency(
    a: np.ndarray, t: np.ndarray, texts: list[str | None], threshold: float
) -> list[tuple[int, float, float]]:
    found = []
    for k in range(len(a)):
        same, cosines = [], []
        for j in range(len(a)):
            if j == k or texts[k] is None or texts[j] is None or a[k].std() == 0 or a[j].std() == 0:
                continue
            if np.corrcoef(a[k], a[j])[0, 1] >= threshold:
                same.append(texts[j] == texts[k])
                cosines.append(t[j] @ t[k] / np.linalg.norm(t[j]) / np.linalg.norm(t[k]))
        found.append((len(same), np.mean(same) if same else np.nan, np.mean(cosines) if same else np.nan))
    return found


@pytest.mark.parametrize("block", [1, 2**20])
def test_consistency_equals_a_loop(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "_BLOCK_BYTES", block)
    rng = np.random.default_rng(3)
    base = rng.normal(size=(6, 40))
    a = (base[rng.integers(0, 6, 30)] * rng.uniform(1, 9, (30, 1)) + 0.3 * rng.normal(size=(30, 40))).astype(np.float32)
    a[5], a[9] = 2.0, 0.0
    texts: list[str | None] = [["red", "star", "stripes"][i] for i in rng.integers(0, 3, 30)]
    texts[3] = texts[11] = None
    t = rng.normal(size=(30, 7)).astype(np.float32)
    found = consistency(torch.from_numpy(a), torch.from_numpy(t), texts)
    expected = np.array(oracle_consistency(a.astype(np.float64), t.astype(np.float64), texts, 0.9))
    assert (expected[:, 0] > 1).sum() > 10 and np.isnan(expected[:, 1]).sum() >= 4  # the case is no empty one
    for got, column in zip((found.twins, found.same_label, found.text_cosine), expected.T, strict=True):
        np.testing.assert_allclose(got, column, atol=1e-5)


def test_twins_are_copies_at_any_scale_not_opposites_nor_broken_rows() -> None:
    row = torch.linspace(0, 1, 20) ** 3
    a = torch.stack([row, 1000 * row + 5, -row, torch.full((20,), torch.nan), torch.ones(20)])
    found = consistency(a, torch.ones(5, 2), ["x"] * 5, threshold=1.0)
    assert found.twins.tolist() == [1, 1, 0, 0, 0]
    assert found.same_label[:2].tolist() == [1.0, 1.0] and found.same_label[2:].isnan().all()


def test_consistency_says_what_does_not_fit_and_takes_no_neurons() -> None:
    with pytest.raises(EvaluationError, match="texts are 2, activations of 3 neurons"):
        consistency(torch.ones(3, 4), torch.ones(3, 2), ["a", "b"])
    assert consistency(torch.ones(0, 4), torch.ones(0, 2), []).twins.shape == (0,)
    assert consistency(torch.rand(2, 4), torch.ones(2, 2), [None, None]).same_label.isnan().all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 1000), st.floats(0.0, 0.6))
def test_lead_equals_a_loop_over_finite_scores(candidates: int, seed: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 4, (7, candidates)).astype(np.float32)
    scores[rng.random(scores.shape) < missing] = -np.inf
    scores[rng.random(scores.shape) < missing / 3] = np.nan
    expected = []
    for row in scores.astype(np.float64):
        row = np.sort(row[np.isfinite(row)])
        expected.append((row[-1] - row[-2]) / row.std() if len(row) > 1 and row.std() > 0 else np.nan)
    np.testing.assert_allclose(lead(torch.from_numpy(scores)), expected, rtol=1e-5, atol=1e-6)


def test_lead_of_equal_scores_is_nan_and_does_not_depend_on_scale_or_offset() -> None:
    assert lead(torch.full((2, 9), 0.1)).isnan().all()
    scores = torch.rand(4, 9, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(lead(scores * 50 + 3), lead(scores), rtol=1e-3)


def test_a_labels_lead_over_its_relatives() -> None:
    nan = torch.nan
    relatives = torch.tensor([[0.2, 0.7], [nan, 0.1], [nan, nan], [0.5, 0.5]])
    found = broader_narrower_lead(torch.tensor([0.5, 0.5, 0.5, nan]), relatives)
    np.testing.assert_allclose(found, [-0.2, 0.4, np.nan, np.nan], atol=1e-6)
    assert broader_narrower_lead(torch.tensor([0.5]), torch.zeros(1, 0)).isnan().all()


def test_how_many_images_and_neurons_a_label_fits() -> None:
    fits = torch.tensor([[0.9, 0.5, 0.1, 0.2], [0.1, 0.1, 0.1, 0.1], [torch.nan, 1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(label_images(fits), [0.5, 0.0, np.nan])
    assert label_images(torch.zeros(2, 0)).isnan().all()
    assert label_sharing([]).shape == (0,)
    np.testing.assert_array_equal(label_sharing(["a", "b", None, "a", "a"]), [3, 1, np.nan, 3, 3])
