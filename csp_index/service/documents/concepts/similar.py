"""The neurons that mean something similar to one: those whose concept vectors are nearer than chance gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.shapes import SimilarRow
from csp_index.service.snapshot import Snapshot
from csp_index.studies.concepts.chance import chance_floor, random_cosines, spread

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine
    from csp_index.service.live.queries import Concepts

_SHOWN: Final = 8
_BYTES: Final = 32 * 2**20  # most bytes of concept vectors that are compared with one neuron's


@dataclass(frozen=True, slots=True)
class SimilarNeurons:
    """The nearest neurons that stand out, best first; `floor`: the least cosine in the neuron's own layer that does.

    `left_out` counts those that do not stand out; `note` says so in words. Without a floor the nearest are shown.
    """

    rows: list[SimilarRow]
    floor: float | None
    left_out: int
    note: str


def similar_neurons(snapshot: Snapshot, engine: Engine, key: NeuronKey) -> SimilarNeurons:
    """Return the neurons with the nearest concept vectors, among the layers whose vectors fit into memory."""
    own = engine.concepts(key.layer_key)
    if not own.alive[key.neuron]:
        return SimilarNeurons([], None, 0, "")
    layers = [(layer, engine.concepts(layer)) for layer in _compared(snapshot, key.layer_key)]
    live = {layer: _live(snapshot, layer, concepts) for layer, concepts in layers}
    others = sum(int(one.sum()) for one in live.values()) - 1
    floors = [_floor(snapshot, (key.layer_key, own), one, others) for one in layers]
    neurons: list[tuple[float, NeuronKey]] = []
    above, nearest = 0, -np.inf
    for (layer, concepts), floor in zip(layers, floors, strict=True):
        cosines = np.einsum("md,d->m", concepts.vectors, own.vectors[key.neuron])  # not by @: see `facets`
        cosines[~live[layer]] = -np.inf
        if layer == key.layer_key:
            cosines[key.neuron] = -np.inf
        nearest = max(nearest, float(cosines.max()))
        near = np.flatnonzero(cosines > (-np.inf if floor is None else floor))
        above += len(near)
        best = near[np.argsort(-cosines[near], kind="stable")[:_SHOWN]].tolist()
        neurons += [(float(cosines[place]), NeuronKey(layer.model, layer.layer, place)) for place in best]
    neurons.sort(key=lambda one: -one[0])
    rows: list[SimilarRow] = [
        {**snapshot.neuron_row(other), "similarity": cosine} for cosine, other in neurons[:_SHOWN]
    ]
    return SimilarNeurons(rows, floors[0], others - above, _note(above, others, nearest, floors))


def _note(above: int, others: int, nearest: float, floors: list[float | None]) -> str:
    """Return how many neurons stand out, and what chance gives."""
    if others < 1:
        return ""
    known = [floor for floor in floors if floor is not None]
    if len(known) < len(floors):
        return "Of so few neurons nobody can say which cosine chance gives."
    least = (
        f"{min(known):.2f}" if max(known) - min(known) < 0.005 else f"{min(known):.2f} to {max(known):.2f}, by layer"
    )
    chance = f"the nearest of {others:,} unrelated neurons has {least} by chance"
    if not above:
        return f"None is nearer than chance gives: the nearest has cosine {nearest:.2f}, {chance}."
    more = f"The nearest {_SHOWN} of {above:,} that stand out. " if above > _SHOWN else ""
    left = others - above
    return f"{more}{left:,} other{'' if left == 1 else 's'} left out: {chance}." if left else more.strip()


def _live(snapshot: Snapshot, layer: LayerKey, concepts: Concepts) -> np.ndarray:
    """Return which neurons [M] of a layer have a concept vector; cached."""
    live: np.ndarray = snapshot.cache.get(
        ("live", layer), lambda: concepts.alive & concepts.vectors.any(1), lambda live: live.nbytes
    )
    return live


def _floor(
    snapshot: Snapshot, own: tuple[LayerKey, Concepts], other: tuple[LayerKey, Concepts], others: int
) -> float | None:
    """Return above which cosine a neuron of another layer, or of the own one, stands out among so many others."""

    def read() -> tuple[float, float | None]:
        first, second = (one.vectors[_live(snapshot, layer, one)] for layer, one in (own, other))
        cosines = random_cosines(first, second, same=own[0] == other[0])
        return (float(np.median(cosines)), spread(cosines)) if len(cosines) else (0.0, None)

    middle, width = snapshot.cache.get(("pairs", own[0], other[0]), read, lambda made: 100)
    return chance_floor(middle, width, others)


def _compared(snapshot: Snapshot, own: LayerKey) -> Iterator[LayerKey]:
    """Yield the neuron's own layer, then the other layers that are ready while their concept vectors fit the bound."""
    yield own
    left = _BYTES // (4 * snapshot.encoder.width) - snapshot.info(own).neurons
    for row in snapshot.layer_rows():
        key = LayerKey(row["model"], row["name"])
        if key != own and row["ready"] and row["neurons"] <= left:
            left -= row["neurons"]
            yield key
