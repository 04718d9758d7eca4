"""How true maps of layers are, and what they take: trustworthiness of UMAP's places and of the plane, CPU and memory.

    python scripts/benchmarks/measure_layer_maps.py csp-demo/biased.db birds.db
    python scripts/benchmarks/measure_layer_maps.py --made 2048 --made 20000

Of an index all layers are placed, and nothing is stored. `--made N` places N vectors of 512 dimensions that were drawn:
seven of ten around one of N / 100 centers, the others anywhere; then it is known which neurons belong together, and the
clusters are compared with that. Trustworthiness is `sklearn.manifold.trustworthiness` among 15 neighbors: 1 where all
neighbors on the map are neighbors among the vectors, about 0.5 where places are random. Seconds are of CPU time without
those that loading and compiling UMAP takes, which stand in a line of their own.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator

import numpy as np
from sklearn.cluster import HDBSCAN
from sklearn.manifold import trustworthiness
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from csp_index import open_index
from csp_index.concurrency import unseen
from csp_index.query.planes import plane_of
from csp_index.store import catalog
from csp_index.studies.layer_maps.concepts import live_concepts
from csp_index.studies.layer_maps.make import MapOptions
from csp_index.studies.layer_maps.placing import SAMPLE, Placement, place

_WIDTH = 512
_NEAR = 15


def main() -> None:
    """Print a line per layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", nargs="*")
    parser.add_argument("--made", type=int, action="append", default=[], metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    used = time.process_time()
    place(made(50, 0)[0], 10, 0.1, 3, 0, unseen)
    print(f"loading and compiling UMAP: CPU {time.process_time() - used:.1f} s")
    for name, vectors, groups in subjects(options.index, options.made):
        used = time.process_time()
        neighbors = min(MapOptions().neighbors, len(vectors) - 1)
        found = place(vectors, neighbors, MapOptions().min_dist, MapOptions().size(len(vectors)), options.seed, unseen)
        used = time.process_time() - used
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{name}: {len(vectors):,} neurons, CPU {used:.1f} s, peak {memory:.2f} GB; {told(vectors, found, groups)}"
        )


def subjects(indexes: list[str], made_of: list[int]) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Yield names, vectors [P, D], and where it is known the group of each (-1: none)."""
    for uri in indexes:
        store = open_index(uri).store
        for target in catalog.layers(store):
            yield f"{uri} {target.key}", live_concepts(store, catalog.encoder(store), target).vectors, None
    for count in made_of:
        yield "made", *made(count, 0)


def made(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return drawn unit vectors [count, D] and their groups [count]."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((max(2, count // 100), _WIDTH))
    groups = rng.integers(len(centers), size=count)
    rows = centers[groups] + 0.9 * rng.standard_normal((count, _WIDTH))
    groups[rng.random(count) < 0.3] = -1
    rows[groups < 0] = rng.standard_normal((int((groups < 0).sum()), _WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), groups


def told(vectors: np.ndarray, found: Placement, groups: np.ndarray | None) -> str:
    """Return how true the places are, and how the clusters agree with the groups."""
    drawn = np.sort(np.random.default_rng(0).permutation(len(vectors))[:SAMPLE])
    near = min(_NEAR, (len(vectors) - 1) // 2)
    plane = plane_of(vectors, np.ones(len(vectors), dtype=bool), len(vectors)).places
    by, of_plane = (
        trustworthiness(vectors[drawn], places[drawn], n_neighbors=near, metric="cosine")
        for places in (found.places, plane)
    )
    said = f"trustworthiness {by:.3f} by {found.by}, {of_plane:.3f} of the plane"
    inside = found.clusters >= 0
    said += f"; {int(found.clusters.max()) + 1:,} clusters with {inside.mean():.0%}"
    if groups is None:
        return said
    alone, both = groups < 0, inside & (groups >= 0)
    pure = normalized_mutual_info_score(groups[both], found.clusters[both]) if both.any() else 0.0
    size = MapOptions().size(len(vectors))
    of_places = HDBSCAN(min_cluster_size=size, min_samples=min(5, size), copy=True).fit_predict(found.places) >= 0
    alike = adjusted_rand_score(groups, found.clusters)
    return (
        f"{said}; {int(groups.max()) + 1:,} groups: adjusted Rand index {alike:.3f}, "
        f"mutual information {pure:.3f} inside, {inside[~alone].mean():.0%} of their neurons in a cluster, "
        f"{(~inside[alone]).mean():.0%} of the others in none "
        f"({(~of_places[alone]).mean():.0%} where places are clustered)"
    )


if __name__ == "__main__":
    main()
