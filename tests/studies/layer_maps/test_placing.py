"""Places and clusters of vectors: few, equal and repeated ones; scikit-learn on all distances as oracle."""

from __future__ import annotations

from typing import Any

import mapped
import numpy as np
import pytest
from sklearn.cluster import HDBSCAN
from sklearn.manifold import trustworthiness as of_all
from sklearn.metrics import adjusted_rand_score

from csp_index.errors import StudyError
from csp_index.studies.layer_maps import placing


def grouped(neurons: int, groups: int, width: int = 16, apart: float = 0.1, seed: int = 0) -> np.ndarray:
    """Return unit vectors [neurons, width] in groups of equal size; the last quarter is in none."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((groups, width))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    rows = centers[np.arange(neurons) % groups] + apart * rng.standard_normal((neurons, width))
    rows[-neurons // 4 :] = rng.standard_normal((len(rows[-neurons // 4 :]), width))
    vectors: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return vectors


def silent(done: int, total: int, what: str) -> None:
    assert 0 <= done <= total and what


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped.without_umap(monkeypatch)


def test_nearest_neurons_are_those_of_all_cosines() -> None:
    vectors = grouped(70, 4)
    vectors[[5, 9]] = vectors[2]  # equal ones: each comes first among its own
    distances, nearest = placing.nearest_neurons(vectors, 12, silent)
    every = 1 - vectors @ vectors.T
    assert nearest[:, 0].tolist() == list(range(70)) and (distances[:, 0] == 0).all()
    np.testing.assert_allclose(np.sort(distances, axis=1), np.sort(every, axis=1)[:, :13].clip(0), atol=1e-5)
    assert all(len(set(row)) == 13 for row in nearest.tolist())


def test_blocks_give_the_same_neighbors_and_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, said = grouped(70, 4), list[tuple[int, int, str]]()
    whole = placing.nearest_neurons(vectors, 12, silent)
    monkeypatch.setattr(placing, "_BLOCK", 32)
    parts = placing.nearest_neurons(vectors, 12, lambda *one: said.append(one))
    assert all(np.allclose(one, other, atol=1e-6) for one, other in zip(whole, parts, strict=True))
    assert said == [(0, 70, "neurons"), (32, 70, "neurons"), (64, 70, "neurons"), (70, 70, "neurons")]


def test_clusters_from_nearest_neurons_are_those_from_all_distances() -> None:
    vectors = grouped(400, 8)
    found = placing.dense_clusters(*placing.nearest_neurons(vectors, 30, silent), 5)
    every = HDBSCAN(min_cluster_size=5, min_samples=5, copy=True).fit_predict(vectors)
    assert found.max() == every.max() == 7
    assert adjusted_rand_score(every, found) > 0.93
    sizes = np.bincount(found[found >= 0])
    assert (np.diff(sizes) <= 0).all(), "the largest comes first"
    assert (found[-100:] < 0).mean() > 0.8, "vectors of no group are in no cluster"


def test_parts_that_do_not_touch_are_clusters() -> None:
    vectors = np.repeat(np.eye(3, 8), 40, axis=0) + 0.01 * np.random.default_rng(0).standard_normal((120, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = placing.dense_clusters(*placing.nearest_neurons(vectors, 10, silent), 5)
    assert sorted(np.bincount(found).tolist()) == [40, 40, 40]


def test_places_are_in_the_unit_square_and_say_how_true_they_are() -> None:
    vectors, said = grouped(60, 3), list[tuple[int, int, str]]()
    found = placing.place(vectors, 10, 0.1, 4, 5, lambda *one: said.append(one))
    assert found.by == "umap" and found.places.shape == (60, 2) and np.ptp(found.places, axis=0).max() == 1
    given: dict[str, Any] = mapped.OnThePlane.given
    assert (given["n_neighbors"], given["min_dist"], given["random_state"], given["metric"]) == (10, 0.1, 5, "cosine")
    assert given["precomputed_knn"][0].shape == (60, 10) and given["precomputed_knn"][0][:, 0].tolist() == [*range(60)]
    expected = of_all(vectors, found.places, n_neighbors=10, metric="cosine")
    assert found.trust == pytest.approx(expected) and found.plane_trust == pytest.approx(expected, abs=1e-3)
    assert (4, 5, "rounds") in said and (3, 5, "rounds") not in said
    inside = found.clusters >= 0
    assert np.isnan(found.central[~inside]).all() and np.median(found.central[inside]) > 0.9


def test_of_many_neurons_some_say_how_true_the_map_is(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = grouped(90, 3)
    places = vectors[:, :2]
    whole = placing.trustworthiness(vectors, (places,), 5, 0)
    monkeypatch.setattr(placing, "SAMPLE", 60)
    some = placing.trustworthiness(vectors, (places,), 5, 0)
    assert whole != some and some == placing.trustworthiness(vectors, (places,), 5, 0)
    assert placing.trustworthiness(vectors[:4], (places[:4],), 5, 0) == (None,)


@pytest.mark.parametrize("neurons", [1, 2, 5, placing.LEAST - 1])
def test_few_neurons_lie_on_the_plane(neurons: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "_umap_class", lambda: pytest.fail("UMAP is not needed"))
    found = placing.place(grouped(neurons, 2), 15, 0.1, 3, 0, silent)
    assert found.by == "pca" and found.places.shape == (neurons, 2) and (found.clusters == -1).all()


@pytest.mark.parametrize("neurons", [2, 5, 50])
def test_equal_vectors_are_refused(neurons: int) -> None:
    with pytest.raises(StudyError, match=f"all {neurons} neurons are the same"):
        placing.place(np.repeat(grouped(1, 1), neurons, axis=0), 15, 0.1, 3, 0, silent)


def test_neurons_of_two_kinds_have_places() -> None:
    """Their vectors lie on a line, whose width is 0."""
    pytest.importorskip("umap")
    vectors = np.repeat(np.eye(8, dtype=np.float32)[:2], 6, axis=0)
    found = placing.place(vectors, 5, 0.1, 3, 0, silent)
    assert np.isfinite(found.places).all() and found.clusters.tolist() == [0] * 6 + [1] * 6


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(StudyError, match=r"needs umap-learn, which is missing: pip install 'csp_index\[map\]'"):
        placing.place(grouped(20, 2), 10, 0.1, 3, 0, silent)


@pytest.mark.slow
def test_umap_keeps_neighbors_better_than_the_plane_and_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    vectors = grouped(300, 12, width=32)
    vectors[40:48] = vectors[0]  # equal ones do no harm
    said: list[tuple[int, int, str]] = []
    first = placing.place(vectors, 15, 0.1, 4, 1, lambda *one: said.append(one))
    again, other = (placing.place(vectors, 15, 0.1, 4, seed, silent) for seed in (1, 2))
    assert np.array_equal(first.places, again.places) and not np.array_equal(first.places, other.places)
    assert first.trust is not None and first.plane_trust is not None and first.trust > first.plane_trust + 0.05
    assert np.array_equal(first.clusters, other.clusters), "clusters do not depend on places"
    assert max(done for done, _, what in said if what == "rounds") > 100
    few = placing.place(vectors[: placing.LEAST], placing.LEAST - 1, 0.1, 3, 0, silent)
    assert few.by == "umap" and np.isfinite(few.places).all()
