"""A layer's neurons grouped by label: how many share one, and what it may mean that many do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from csp_index.service.documents.layer import GalleryQuery, selected
from csp_index.service.documents.layers.overview_shapes import GroupMember, GroupsDocument, LabelGroup
from csp_index.service.documents.maps import placed_maps
from csp_index.service.layer_table import LayerTable, MethodLabels, finite
from csp_index.service.snapshot import Snapshot
from csp_index.store.addresses import as_ranges

if TYPE_CHECKING:
    from csp_index.records import LayerKey
    from csp_index.service.live.engine import Engine

GROUPS: Final = 200  # groups of a page, at most
LARGE: Final = 5  # neurons: a group with fewer is nothing to wonder about
LARGE_SHARE: Final = 0.02  # of the labeled neurons: nor is one with a smaller share
_ALIKE: Final = 0.5  # of a group's neurons: so few different images, and they may be copies of one feature
_BEST: Final = 6  # neurons of a group that are shown with their pictures


def groups_document(
    snapshot: Snapshot, engine: Engine, key: LayerKey, query: GalleryQuery, most: int = GROUPS
) -> GroupsDocument:
    """Return the groups of the neurons that a query leaves: the largest first, those without a label last."""
    table = snapshot.layer(key)
    labels = table.labels(query.method)
    neurons = np.flatnonzero(selected(snapshot, engine, table, query))
    total = int(len(neurons) if labels is None else labels.labelled)
    parts = _parts(labels, neurons)
    named = sum(name is not None for name, _ in parts)
    return {
        "layer": str(key),
        "method": None if labels is None else labels.method,
        "neurons": len(neurons),
        "labels": named,
        "groups": [_group(table, labels, name, members, total) for name, members in parts[:most]],
        "left_out": max(0, len(parts) - most),
        "mapped": placed_maps(snapshot, key).count,
    }


def large_groups(table: LayerTable, method: str | None = None) -> list[LabelGroup]:
    """Return the groups of a whole layer that are so large that it may mean something, the largest first."""
    labels = table.labels(method)
    if labels is None:
        return []
    parts = _parts(labels, np.arange(table.info.neurons))
    least = max(LARGE, LARGE_SHARE * labels.labelled)
    large = [part for part in parts if part[0] is not None and len(part[1]) >= least]
    return [_group(table, labels, name, members, labels.labelled) for name, members in large]


def _parts(labels: MethodLabels | None, neurons: np.ndarray) -> list[tuple[str | None, np.ndarray]]:
    """Return neurons by label, [members] each: the largest group first, of equal ones by name; None comes last."""
    if labels is None:
        return [(None, neurons)] if len(neurons) else []
    codes = pa.array(labels.texts[neurons], pa.string(), from_pandas=True).dictionary_encode()
    places = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    order = np.argsort(places, kind="stable")
    found, starts = np.unique(places[order], return_index=True)
    members = np.split(neurons[order], starts[1:])
    names = codes.dictionary.to_pylist()
    parts = [(names[place] if place >= 0 else None, part) for place, part in zip(found.tolist(), members, strict=True)]
    return sorted(parts, key=lambda part: (part[0] is None, -len(part[1]), part[0] or ""))


def _group(
    table: LayerTable, labels: MethodLabels | None, name: str | None, members: np.ndarray, total: int
) -> LabelGroup:
    scores = np.full(len(members), np.nan) if labels is None else labels.scores[members]
    alive = members[~table.dead[members]]
    share = len(members) / max(1, total if name is not None else table.info.neurons)
    group: LabelGroup = {
        "label": name,
        "state": "labelled" if name is not None else _state(labels, members),
        "neurons": len(members),
        "share": share,
        "numbers": as_ranges(members.tolist()),
        "score": finite(float(np.median(scores[~np.isnan(scores)]))) if (~np.isnan(scores)).any() else None,
        "firing_rate": float(np.median(table.firing_rates[members])),
        "dead": len(members) - len(alive),
        "uncertain": 0 if labels is None else int((labels.uncertain[members] > 0).sum()),
        "chance": _chance(labels, members),
        "images": len(np.unique(table.top_images[alive, 0])),
        "warning": "",
        "best": _best(table, scores, members),
    }
    is_large = name is not None and len(members) >= max(LARGE, LARGE_SHARE * total)
    return {**group, "warning": warning_of(group)} if is_large else group


def warning_of(group: LabelGroup) -> str:
    """Return in words what it may mean that so many neurons have one label, and what speaks for which."""
    count, alive = group["neurons"], group["neurons"] - group["dead"]
    said = [f"{_neurons(count)}, {group['share']:.0%} of those with a label, are called the same."]
    if group["images"] <= _ALIKE * alive:
        said.append(
            f"Only {group['images']:,} different images excite them most, so many may be copies of one feature."
        )
    else:
        said.append(
            f"{group['images']:,} different images excite them most, so the word may stand for what no other word of "
            "the vocabulary fits, rather than for one feature."
        )
    if group["chance"] is None:
        said.append("Whether their scores are above chance is not known: no random network was compared.")
    elif group["chance"]:
        said.append(f"{_neurons(group['chance'])} score no higher than a random network's do: near chance.")
    else:
        said.append("All of them score higher than a random network's do.")
    if group["uncertain"]:
        said.append(f"The label of {_neurons(group['uncertain'])} is uncertain.")
    if group["dead"]:
        said.append(f"{_neurons(group['dead'])} never fire{'s' if group['dead'] == 1 else ''}.")
    return " ".join(said)


def _chance(labels: MethodLabels | None, members: np.ndarray) -> int | None:
    """Return how many labels do not pass the null; None where none of them was compared with one."""
    ranks = [] if labels is None else [labels.rank(neuron) for neuron in members.tolist()]
    known = [rank for rank in ranks if rank is not None]
    return sum(not rank.passes for rank in known) if known else None


def _state(labels: MethodLabels | None, members: np.ndarray) -> str:
    """Return why most of some neurons have no label."""
    if labels is None:
        return "unlabelled"
    states, counts = np.unique(labels.states[members].astype(str), return_counts=True)
    return str(states[counts.argmax()])


def _best(table: LayerTable, scores: np.ndarray, members: np.ndarray) -> list[GroupMember]:
    order = np.lexsort((members, np.where(np.isnan(scores), np.inf, -scores)))[:_BEST]
    return [
        {
            "neuron": f"{table.info.key}/{neuron}",
            "index": neuron,
            "score": finite(score),
            "image": int(table.top_images[neuron, 0]) if table.maxima[neuron] > 0 else None,
        }
        for neuron, score in zip(members[order].tolist(), scores[order].tolist(), strict=True)
    ]


def _neurons(count: int) -> str:
    return f"{count:,} neuron{'' if count == 1 else 's'}"
