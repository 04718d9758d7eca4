"""The neurons of a layer on a plane: as `csp-index map` placed them, else by the two directions of most variance.

Neurons without a concept vector are left out. Places depend on the layer alone; the values that color points, their
labels and the names of clusters are looked up on each request. A stored map needs no engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from csp_index.errors import NotFoundError, SettingError
from csp_index.query import planes
from csp_index.query.planes import Plane, plane_of
from csp_index.records import LayerKey
from csp_index.service.documents.layer import column
from csp_index.service.documents.shapes import MapClusterRow, MapDocument, MapGroup
from csp_index.service.layer_table import LayerTable, finite
from csp_index.service.snapshot import Snapshot
from csp_index.studies.layer_maps.records import LayerMap, MapCluster
from csp_index.studies.layer_maps.stored import stored_map

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine

COLOURS: Final = ("score", "lead", "confidence", "probability", "firing_rate", "clarity", "effect", "max", "index")
"""Columns that can color a map."""
GROUPS: Final = ("cluster", "label")
"""What can color it beside numbers."""
HUES: Final = 9
"""Colors of groups; further ones begin again."""
_LABELS: Final = 8  # the most frequent labels, which have a color
_LISTED: Final = 8  # groups in a legend


def stored(snapshot: Snapshot, key: LayerKey) -> LayerMap | None:
    """Return the map of a layer that the index has, None if there is none."""
    found: LayerMap | None = snapshot.cache.get(
        ("layer map", key),
        lambda: stored_map(snapshot.store, snapshot.info(key)),
        lambda found: 0 if found is None else found.nbytes,
    )
    return found


def usual_colour(snapshot: Snapshot, key: LayerKey) -> str:
    """Return what colors a layer's map where nobody chose: the score, or the firing rate of a layer without labels."""
    return "firing_rate" if snapshot.layer(key).labels() is None else "score"


def layer_map(
    snapshot: Snapshot, engine: Engine, key: LayerKey, colour: str = "score", method: str | None = None
) -> MapDocument:
    """Return the map of a layer, its points colored by one of COLOURS or GROUPS. Raises SettingError for others."""
    if colour not in (*COLOURS, *GROUPS):
        raise SettingError(f"colour is {colour!r}: expected {', '.join((*COLOURS, *GROUPS))}")
    table = snapshot.layer(key)
    labels = table.labels(method)
    texts = [None] * table.info.neurons if labels is None else labels.texts.tolist()
    found = stored(snapshot, key)
    if found is None:
        plane = snapshot.cache.get(("plane", key), lambda: _plane(engine, table), lambda plane: plane.nbytes)
        clusters, named = np.full(len(plane.neurons), -1), []
    else:
        found = found.with_labels(tuple(texts[neuron] for neuron in found.neurons.tolist()))
        plane, clusters = _drawn(found)
        named = [_cluster(one) for one in found.named]
    own = [texts[neuron] for neuron in plane.neurons.tolist()]
    values, groups = _groups(colour, clusters, named, own)
    if colour in COLOURS:
        values = column(snapshot, engine, table, colour, method)[plane.neurons]
    known = values[np.isfinite(values)]
    first = table.top_images[plane.neurons, 0].tolist() if table.top_images.shape[1] else [None] * len(own)
    places = np.round(plane.places.astype(np.float64), 5)
    columns = (plane.neurons.tolist(), *places.T.tolist(), values.tolist(), own, clusters.tolist(), first)
    numbers = colour in COLOURS and len(known) > 0
    return {
        "layer": str(key),
        "method": None if labels is None else labels.method,
        "points": [
            {
                "index": index,
                "x": x,
                "y": y,
                "value": finite(value),
                "label": text,
                "cluster": cluster if cluster >= 0 else None,
                "image": image,
            }
            for index, x, y, value, text, cluster, image in zip(*columns, strict=True)
        ],
        "colour": colour,
        "low": float(known.min()) if numbers else None,
        "high": float(known.max()) if numbers else None,
        "groups": groups,
        "by": "pca" if found is None else found.by,
        "said": _said_of(plane) if found is None else found.said(),
        "about": "" if found is None else found.about,
        "clusters": named,
        "unclustered": 0 if found is None else int((found.clusters < 0).sum()),
        "explained": list(plane.explained),
        "note": _note(plane, found),
    }


def cluster_neurons(snapshot: Snapshot, key: LayerKey, cluster: int) -> list[int]:
    """Return the numbers of the neurons in a cluster; NotFoundError without a map, or without such a cluster."""
    found = stored(snapshot, key)
    if found is None or not 0 <= cluster < len(found.named):
        known = "no map" if found is None else f"clusters 0 to {len(found.named) - 1}" if found.named else "no clusters"
        raise NotFoundError(f"{key} has no cluster {cluster} (has: {known}): `csp-index map` makes them")
    numbers: list[int] = found.neurons[found.clusters == cluster].tolist()
    return numbers


def _plane(engine: Engine, table: LayerTable) -> Plane:
    concepts = engine.concepts(table.info.key)
    return plane_of(concepts.vectors, concepts.alive & ~table.dead)


def _drawn(found: LayerMap) -> tuple[Plane, np.ndarray]:
    """Return the places that are drawn, of many neurons some spread evenly, and their clusters."""
    pick = np.arange(len(found))
    if len(pick) > planes.POINTS:
        pick = np.linspace(0, len(pick) - 1, planes.POINTS).astype(np.int64)
    return Plane(found.neurons[pick], found.places[pick], found.explained, len(found)), found.clusters[pick]


def _cluster(one: MapCluster) -> MapClusterRow:
    return {
        "cluster": one.cluster,
        "name": one.name,
        "labels": list(one.labels),
        "neurons": one.neurons,
        "share": one.share,
        "x": round(one.x, 5),
        "y": round(one.y, 5),
    }


def _groups(
    colour: str, clusters: np.ndarray, named: Sequence[MapClusterRow], texts: Sequence[str | None]
) -> tuple[np.ndarray, list[MapGroup]]:
    """Return the number of each point's group [P], NaN in none, and the groups that a legend lists."""
    if colour == "cluster":
        rows = [_group(one["cluster"], one["name"] or f"cluster {one['cluster']}", one["neurons"]) for one in named]
        return np.where(clusters >= 0, clusters, np.nan), rows[:_LISTED]
    if colour != "label":
        return np.full(len(texts), np.nan), []
    counts = Counter(text for text in texts if text is not None)
    frequent = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:_LABELS]
    places = {text: place for place, (text, _) in enumerate(frequent)}
    values = np.array([places.get(text, np.nan) if text is not None else np.nan for text in texts], np.float64)
    return values, [_group(place, text, count) for place, (text, count) in enumerate(frequent)]


def _group(value: int, name: str, neurons: int) -> MapGroup:
    return {"value": value, "name": name, "neurons": neurons}


def _said_of(plane: Plane) -> str:
    shares = " and ".join(f"{100 * share:.0f} %" for share in plane.explained)
    return f"Places are the two main directions of the concept vectors: {shares} of their variance."


def _note(plane: Plane, found: LayerMap | None) -> str:
    drawn = len(plane.neurons)
    notes = [f"{drawn:,} of {plane.total:,} neurons are drawn"] if drawn < plane.total else []
    return "; ".join([*notes, *(found.notes if found is not None else ())])
