"""Effects of neurons on a network's logits, as documents that JSON can hold: of one neuron, of a layer's classes.

Reads what `csp-index effects` stored; loads no torch.
"""

from __future__ import annotations

from typing import Final, cast

import numpy as np

from csp_index.errors import NotFoundError, StoreError
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.studies.effect_shapes import (
    ClassEffects,
    ClassNeuron,
    EffectRow,
    EffectsDocument,
    EffectsOrigin,
    NeuronEffects,
)
from csp_index.service.layer_table import LayerTable, finite
from csp_index.service.snapshot import Snapshot
from csp_index.studies.effects.stored_effects import LayerEffects, read_effects

SHOWN: Final = 10  # classes on a neuron's page
CLASSES: Final = 50  # on one page of a layer's effects
_NEURONS = 5  # that raise, and that lower, the logit of a class


def neuron_effects(snapshot: Snapshot, key: NeuronKey, count: int | None = SHOWN) -> NeuronEffects | None:
    """Return the newest stored effects of a neuron on `count` classes (None: all), None if it has none.

    Raises NotFoundError for a neuron that does not exist.
    """
    snapshot.info_of(key)
    effects = read_effects(snapshot.store, key.layer_key, [key.neuron])
    if effects is None:
        return None
    return {
        **_origin(effects),
        "neuron": str(key),
        "value": finite(float(effects.values[0])),
        "classes": len(effects.classes),
        "effects": [cast(EffectRow, row) for row in effects.rows(0, count)],
    }


def all_effects(snapshot: Snapshot, key: NeuronKey) -> NeuronEffects:
    """Return the newest stored effects of a neuron on all classes. Raises NotFoundError if it has none."""
    effects = neuron_effects(snapshot, key, None)
    if effects is None:
        raise _absent(key.layer_key)
    return effects


def stored_effects(snapshot: Snapshot, key: LayerKey) -> LayerEffects | None:
    """Return the newest stored effects of a layer, None if it has none; cached.

    Raises StoreError for effects of neurons that the layer does not have.
    """
    effects = snapshot.cache.get(
        ("effects", key),
        lambda: read_effects(snapshot.store, key),
        lambda effects: 64 if effects is None else effects.nbytes,
    )
    neurons = snapshot.info(key).neurons
    if effects is not None and not (0 <= effects.neurons[0] <= effects.neurons[-1] < neurons):
        raise StoreError(f"effects of {key} are of neurons that it does not have: run `csp-index verify`")
    return effects


def effects_document(
    snapshot: Snapshot, key: LayerKey, class_index: int | None = None, start: int = 0, limit: int = CLASSES
) -> EffectsDocument:
    """Return what a layer's neurons do to the logits: `limit` classes from `start` on, or the one of an index.

    Raises NotFoundError where the layer has no effects, and for a class that is not there.
    """
    table = snapshot.layer(key)
    effects = stored_effects(snapshot, key)
    if effects is None:
        raise _absent(key)
    total = len(effects.classes)
    if class_index is not None and not 0 <= class_index < total:
        raise NotFoundError(f"class {class_index} is not among the {total:,} logits of {key.model}: 0 to {total - 1}")
    numbers = range(start, min(start + limit, total)) if class_index is None else [class_index]
    return {
        **_origin(effects),
        "layer": str(key),
        "neurons": len(effects),
        "classes": [_class(effects, number, table) for number in numbers],
        "total": total,
    }


def peaks(snapshot: Snapshot, table: LayerTable) -> tuple[np.ndarray, np.ndarray, LayerEffects | None]:
    """Return each neuron's largest effect by size [M], NaN without one, its class [M] or -1, and all effects."""
    effects = stored_effects(snapshot, table.info.key)

    def found() -> tuple[np.ndarray, np.ndarray]:
        values, classes = np.full(table.info.neurons, np.nan), np.full(table.info.neurons, -1)
        if effects is not None:
            values[effects.neurons], classes[effects.neurons] = effects.peaks()
        return values, classes

    def size(pair: tuple[np.ndarray, np.ndarray]) -> int:
        return sum(part.nbytes for part in pair)

    return *snapshot.cache.get(("effect peaks", table.info.key), found, size), effects


def _absent(layer: LayerKey) -> NotFoundError:
    return NotFoundError(f"no effects of {layer} are stored: run `csp-index effects DB --layer {layer}`")


def _origin(effects: LayerEffects) -> EffectsOrigin:
    exact = effects.check is not None
    described = {"by": effects.by, "exact": exact, "head": effects.head, "how": effects.how, "images": effects.images}
    return cast(EffectsOrigin, described)


def _class(effects: LayerEffects, number: int, table: LayerTable) -> ClassEffects:
    one, column = effects.classes[number], effects.effects[:, number]
    order = np.argsort(np.nan_to_num(column), kind="stable")
    raising = [place for place in order[::-1][:_NEURONS].tolist() if column[place] > 0]
    lowering = [place for place in order[:_NEURONS].tolist() if column[place] < 0]
    return {
        "class_index": one.index,
        "class_name": one.name,
        "images": one.images,
        "logit_on": finite(one.logit_on),
        "logit_elsewhere": finite(one.logit_elsewhere),
        "raises": [_neuron(effects, place, number, table) for place in raising],
        "lowers": [_neuron(effects, place, number, table) for place in lowering],
    }


def _neuron(effects: LayerEffects, place: int, number: int, table: LayerTable) -> ClassNeuron:
    row, neuron = effects.row(place, number), int(effects.neurons[place])
    labels = table.labels()
    return {
        "neuron": f"{effects.layer}/{neuron}",
        "label": labels.texts[neuron] if labels else None,
        "effect": row["effect"],
        "low": row["low"],
        "high": row["high"],
    }
