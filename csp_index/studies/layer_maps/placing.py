"""The numbers of a map: nearest neurons, places by UMAP, clusters by HDBSCAN, and how far the places can be trusted.

Vectors in, arrays out; UMAP and scikit-learn come with the extra `map`, and load here alone.
"""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

import numpy as np

from csp_index.errors import StudyError
from csp_index.query.planes import in_unit_square, plane_of
from csp_index.records import Progress

Placed = Literal["umap", "pca"]

LEAST: Final = 10
"""Neurons that UMAP places, at least; the plane of fewer shows as much."""
SAMPLE: Final = 4_096
"""Neurons whose distances are compared for trustworthiness, at most: it takes memory of their square."""
_NEAR: Final = 30  # nearest neurons that clusters rest on, at least: with fewer their borders fray
_CORE: Final = 5  # of these, those whose distance says how dense it is around a neuron
_BLOCK: Final = 1_024  # neurons whose nearest are searched at a time
_WIDTH: Final = 1e-3  # of a line, as UMAP begins with it
_APART: Final = 2.0  # the largest distance of unit vectors


@dataclass(frozen=True, slots=True)
class Placement:
    """Places of P neurons: [P, 2] in [0, 1], cluster [P] (-1: in none; 0 is the largest), cosine with its mean [P].

    `trust` and `plane_trust` are the trustworthiness of these places and of the plane; None for too few neurons.
    `explained` is the share of variance of the plane's two directions.
    """

    by: Placed
    places: np.ndarray
    clusters: np.ndarray
    central: np.ndarray
    trust: float | None
    plane_trust: float | None
    explained: tuple[float, float]


def place(
    vectors: np.ndarray, neighbors: int, min_dist: float, cluster_size: int, seed: int, progress: Progress
) -> Placement:
    """Return places and clusters of unit vectors [P, D]; of fewer than LEAST the plane, without clusters.

    Raises StudyError where UMAP is not installed, or all vectors are the same.
    """
    count, plane = len(vectors), on_plane(vectors)
    if count > 1 and plane.explained == (0.0, 0.0):
        raise StudyError(f"the concept vectors of all {count:,} neurons are the same: a map cannot tell them apart")
    if count < LEAST:
        return plane
    umap_class = _umap_class()
    distances, nearest = nearest_neurons(vectors, max(neighbors, _NEAR), progress)
    clusters = dense_clusters(distances, nearest, cluster_size)
    fitted = _fit(umap_class, vectors, plane.places, (distances, nearest), neighbors, min_dist, seed, progress)
    places = in_unit_square(fitted)
    trust, plane_trust = trustworthiness(vectors, (places, plane.places), neighbors, seed)
    return Placement("umap", places, clusters, _central(vectors, clusters), trust, plane_trust, plane.explained)


def on_plane(vectors: np.ndarray) -> Placement:
    """Return unit vectors [P, D] on the plane of the two directions in which they differ most, in no cluster."""
    count = len(vectors)
    plane = plane_of(vectors, np.ones(count, dtype=bool), count)
    return Placement("pca", plane.places, np.full(count, -1), np.full(count, np.nan), None, None, plane.explained)


def _umap_class() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it does without TensorFlow
            from umap import UMAP
    except ImportError as exc:
        raise StudyError("a map needs umap-learn, which is missing: pip install 'csp_index[map]'") from exc
    return UMAP


def placing_versions() -> dict[str, str]:
    """Return the versions of the packages that place neurons, as far as they are installed."""
    versions = {}
    for package in ("umap-learn", "scikit-learn"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def nearest_neurons(vectors: np.ndarray, most: int, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine distances (1 - cosine) and numbers of each neuron and its `most` nearest, itself first.

    Both [P, k + 1]; of fewer than `most` others all of them. Exact, a block of neurons at a time.
    """
    from sklearn.neighbors import NearestNeighbors

    count = min(most + 1, len(vectors))
    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(vectors)
    parts = []
    progress(0, len(vectors), "neurons")
    for start in range(0, len(vectors), _BLOCK):
        parts.append(search.kneighbors(vectors[start : start + _BLOCK]))
        progress(min(start + _BLOCK, len(vectors)), len(vectors), "neurons")
    distances, nearest = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _self_first(distances.clip(0).astype(np.float32), nearest)


def _self_first(distances: np.ndarray, nearest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows that begin with the neuron itself, which equal vectors may have moved to a later place, or out."""
    own = np.arange(len(nearest))
    for row in np.flatnonzero(nearest[:, 0] != own):
        at = np.flatnonzero(nearest[row] == row)
        last = int(at[0]) if len(at) else nearest.shape[1] - 1
        nearest[row, 1 : last + 1] = nearest[row, :last]
        distances[row, 1 : last + 1] = distances[row, :last]
        nearest[row, 0] = row
    distances[:, 0] = 0
    return distances, nearest


def dense_clusters(distances: np.ndarray, nearest: np.ndarray, cluster_size: int) -> np.ndarray:
    """Return the cluster of each neuron, [P]: -1 in none, 0 is the largest; by HDBSCAN among nearest neurons alone.

    All distances of 20,000 neurons would take 3 GB and minutes; those to 30 nearest give the same clusters but for a
    few neurons (`tests/studies/layer_maps/test_placing.py`).
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components
    from sklearn.cluster import HDBSCAN

    count, width = nearest.shape
    length = np.sqrt(2 * distances[:, 1:].astype(np.float64)).clip(1e-9)  # of the chord; a stored 0 would be no edge
    rows = np.repeat(np.arange(count), width - 1)
    graph = csr_matrix((length.ravel(), (rows, nearest[:, 1:].ravel())), shape=(count, count))
    graph = graph.maximum(graph.T)
    parts, of_part = connected_components(graph, directed=False)
    first = np.unique(of_part, return_index=True)[1]  # HDBSCAN wants one part: tie them together as far as can be
    ties = csr_matrix((np.full(parts - 1, _APART), (first[:-1], first[1:])), shape=(count, count))
    graph = (graph + ties + ties.T).tocsr()
    search = HDBSCAN(min_cluster_size=cluster_size, min_samples=min(_CORE, width - 1), metric="precomputed", copy=True)
    return _largest_first(search.fit_predict(graph))


def _largest_first(clusters: np.ndarray) -> np.ndarray:
    """Return clusters [P] numbered by size, equal ones by their first neuron."""
    inside = clusters >= 0
    _, first, of_cluster, sizes = np.unique(clusters[inside], True, True, True)
    ranks = np.empty(len(sizes), np.int64)
    ranks[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    ordered = np.full(len(clusters), -1)
    ordered[inside] = ranks[of_cluster]
    return ordered


def _central(vectors: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return the cosine of each vector [P, D] with the mean of its cluster, [P]; NaN in none."""
    central = np.full(len(vectors), np.nan)
    for cluster in range(int(clusters.max(initial=-1)) + 1):
        own = np.flatnonzero(clusters == cluster)
        mean = vectors[own].mean(0, dtype=np.float64)
        central[own] = vectors[own] @ (mean / max(float(np.linalg.norm(mean)), 1e-12))
    return central.clip(-1, 1)


def _fit(
    umap_class: Any,
    vectors: np.ndarray,
    plane: np.ndarray,
    graph: tuple[np.ndarray, np.ndarray],
    neighbors: int,
    min_dist: float,
    seed: int,
    progress: Progress,
) -> np.ndarray:
    """Return where UMAP puts vectors [P, 2] that begin on the plane: so far parts stand as they do there."""
    distances, nearest = (part[:, :neighbors] for part in graph)
    model = umap_class(
        n_neighbors=neighbors,
        min_dist=min_dist,
        metric="cosine",
        init=_with_width(plane, seed),
        random_state=seed,
        n_jobs=1,  # as a seed demands
        precomputed_knn=(np.ascontiguousarray(nearest, np.int32), np.ascontiguousarray(distances), None),
        tqdm_kwds={"disable": False, "file": _Told(progress), "bar_format": "{n_fmt} {total_fmt}", "mininterval": 0.2},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that further vectors could not be placed; nobody asks for that
        places: np.ndarray = model.fit_transform(vectors)
    if not np.isfinite(places).all():
        raise StudyError("UMAP found no places for some neurons: try another number of neighbors")
    return places


def _with_width(plane: np.ndarray, seed: int) -> np.ndarray:
    """Return the plane as UMAP begins on it, which divides by its width and height: a line gets some."""
    if np.ptp(plane, axis=0).all():
        return plane
    return plane + np.random.default_rng(seed).normal(0, _WIDTH, plane.shape)


class _Told(io.StringIO):
    """What tqdm writes to, `done total` at a time, as progress."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def write(self, text: str) -> int:
        """Report the two numbers of a line."""
        numbers = text.split()
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            self._progress(int(numbers[0]), int(numbers[1]), "rounds")
        return len(text)


def trustworthiness(
    vectors: np.ndarray, maps: tuple[np.ndarray, ...], neighbors: int, seed: int
) -> tuple[float | None, ...]:
    """Return how far the neighbors on each map [P, 2] are neighbors among vectors [P, D], 0 to 1, 1 is best.

    Of more than SAMPLE neurons among as many, drawn by the seed; None for too few. Venna and Kaski (2001), as
    `sklearn.manifold.trustworthiness`.
    """
    from sklearn.manifold import trustworthiness

    count = len(vectors)
    near = min(neighbors, (count - 1) // 2)
    if near < 2:
        return tuple(None for _ in maps)
    drawn = np.arange(count)
    if count > SAMPLE:
        drawn = np.sort(np.random.default_rng(seed).choice(count, SAMPLE, replace=False))
    own = vectors[drawn]
    return tuple(float(trustworthiness(own, one[drawn], n_neighbors=near, metric="cosine")) for one in maps)
