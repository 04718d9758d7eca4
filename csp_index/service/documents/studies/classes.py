"""Neurons and classes of images: the classes of a layer, the page of one class, the classes of a neuron.

They show what `csp-index associations` stored. Does not load torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

import numpy as np

from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.shapes import ClassSetRow, NeuronRow
from csp_index.service.documents.studies.class_shapes import (
    AssociationRow,
    ClassDocument,
    ClassesDocument,
    ClassRow,
    NeuronClasses,
    NeuronClassesDocument,
    ToldClass,
)
from csp_index.service.layer_table import finite
from csp_index.service.snapshot import Snapshot
from csp_index.studies.classes.associations import (
    ClassSet,
    association_document,
    class_rows,
    class_sets,
    find_class_set,
    image_ids,
    names_class,
    neuron_rows,
    ranked,
    read_figures,
    silenced,
    telling,
)

NEURONS: Final = 12
"""The neurons that the page of a class shows; a third as many are silent on it."""

_BEST, _SILENT = 6, 3  # classes that a neuron's page shows: those it tells best, those it is most silent on


def class_set_rows(snapshot: Snapshot, key: LayerKey) -> list[ClassSetRow]:
    """Return what the neurons of a layer were compared by, the newest first."""

    def read() -> list[ClassSetRow]:
        return [
            {
                "by": one.by,
                "classes": len(one.names),
                "images": one.total,
                "without": one.without,
                "firing": one.firing,
                "note": one.about(snapshot.store),
            }
            for one in sorted(stored_sets(snapshot, key), key=lambda one: one.run_id, reverse=True)
        ]

    return snapshot.cache.get(("class set rows", key), read, lambda rows: 1000 * (1 + len(rows)))


def class_aurocs(
    snapshot: Snapshot, key: LayerKey, name: str = "", by: str | None = None
) -> tuple[np.ndarray, list[str]]:
    """Return the AUROC of each neuron [M] for a class, and its name; without one, for the class that each tells best.

    NaN where there is none. Raises NotFoundError where nothing was compared, and for a class that is not there.
    """
    chosen = find_class_set(snapshot.store, key, by)
    place = chosen.position(name) if name else None
    values = snapshot.cache.get(
        ("aurocs", key, chosen.settings_hash),
        lambda: read_figures(snapshot.store, chosen, ["auroc"])["auroc"],
        lambda values: values.nbytes,
    )
    if place is not None:
        return values[:, place], [name] * len(values)
    best = np.where(np.isnan(values), -1, values).argmax(1)
    return values[np.arange(len(values)), best], [chosen.names[one] for one in best.tolist()]


def classes_document(snapshot: Snapshot, key: LayerKey, by: str | None = None) -> ClassesDocument:
    """Return the classes of a layer's images by a column, each with the neuron that tells it best.

    Without `by` those compared last. Raises NotFoundError where nothing was compared.
    """
    snapshot.info(key)
    chosen = find_class_set(snapshot.store, key, by)
    return {
        "layer": str(key),
        "by": _row_of(snapshot, key, chosen),
        "others": [row["by"] for row in class_set_rows(snapshot, key) if row["by"] != chosen.by],
        "classes": snapshot.cache.get(
            ("classes", key, chosen.settings_hash),
            lambda: _class_rows(snapshot, key, chosen),
            lambda rows: 2000 * (1 + len(rows)),
        ),
    }


def class_document(
    snapshot: Snapshot, key: LayerKey, name: str, by: str | None = None, limit: int = NEURONS
) -> ClassDocument:
    """Return the page of a class: the neurons that tell it best, and those that are most silent on it, with images.

    Only those that differ from 0.5 by more than chance. Each has its label, and whether it says the class. Errors:
    NotFoundError for a class that is not there.
    """
    snapshot.info(key)
    chosen = find_class_set(snapshot.store, key, by)
    place = chosen.position(name)
    rows = class_rows(snapshot.store, chosen, name)
    every = ranked(rows)
    best, silent = telling(chosen, every)[:limit], silenced(chosen, every)[: -(-limit // 3)]
    return {
        "layer": str(key),
        "by": _row_of(snapshot, key, chosen),
        "class_name": name,
        "images": int(chosen.images[place]),
        "others": int(chosen.others[place]),
        "chance": float(chosen.chance[place]),
        "neurons": [_association(snapshot, key, row) for row in best],
        "silent": [_association(snapshot, key, row) for row in silent],
        "saying": _saying(snapshot, key, name, every),
        "names": _names(snapshot, [*best, *silent]),
        "previous": chosen.names[place - 1] if place else None,
        "next": chosen.names[place + 1] if place + 1 < len(chosen.names) else None,
    }


def neuron_classes_document(snapshot: Snapshot, key: NeuronKey, by: str | None = None) -> NeuronClassesDocument:
    """Return all classes of a neuron by a column, those it tells best first."""
    snapshot.info_of(key)
    chosen = find_class_set(snapshot.store, key.layer_key, by)
    rows = ranked(neuron_rows(snapshot.store, chosen, [key.neuron]))
    return {
        "neuron": str(key),
        "by": _row_of(snapshot, key.layer_key, chosen),
        "classes": [_told(snapshot, key, row) for row in rows],
        "names": _names(snapshot, rows),
    }


def neuron_classes(snapshot: Snapshot, key: NeuronKey) -> tuple[list[NeuronClasses], set[int]]:
    """Return what a neuron's page shows of classes: for each column the ones it tells best, and is most silent on.

    None where every AUROC is what chance gives. With the ids of all images named.
    """

    def read() -> tuple[list[NeuronClasses], set[int]]:
        parts: list[NeuronClasses] = []
        images: set[int] = set()
        for chosen in sorted(stored_sets(snapshot, key.layer_key), key=lambda one: one.run_id, reverse=True):
            rows = ranked(neuron_rows(snapshot.store, chosen, [key.neuron]))
            best, silent = telling(chosen, rows)[:_BEST], silenced(chosen, rows)[:_SILENT]
            parts.append(
                {
                    "by": _row_of(snapshot, key.layer_key, chosen),
                    "best": [_told(snapshot, key, row) for row in best],
                    "silent": [_told(snapshot, key, row) for row in silent],
                }
            )
            images |= image_ids(best[:1])
        return parts, images

    return snapshot.cache.get(("neuron classes", key), read, lambda made: 1000 + 4000 * len(made[0]))


def stored_sets(snapshot: Snapshot, key: LayerKey) -> list[ClassSet]:
    """Return the classes by which the neurons of a layer were compared."""
    return snapshot.cache.get(
        ("class sets", key), lambda: class_sets(snapshot.store, key), lambda sets: sum(_size_of(one) for one in sets)
    )


def _size_of(classes: ClassSet) -> int:
    return 1000 + 100 * len(classes.names)


def _row_of(snapshot: Snapshot, key: LayerKey, chosen: ClassSet) -> ClassSetRow:
    return next(row for row in class_set_rows(snapshot, key) if row["by"] == chosen.by)


def _class_rows(snapshot: Snapshot, key: LayerKey, chosen: ClassSet) -> list[ClassRow]:
    """Return a row per class with the neuron that tells it best, if one does; of equals the lower number."""
    values = read_figures(snapshot.store, chosen, ("auroc", "rate_in", "rate_out"))
    best = np.where(np.isnan(values["auroc"]), -1, values["auroc"]).argmax(0)
    auroc, rate_in, rate_out = (part[best, np.arange(len(best))] for part in values.values())
    tells = auroc > 0.5 + chosen.chance
    rows: list[ClassRow] = []
    for place, name in enumerate(chosen.names):
        one = snapshot.neuron_row(NeuronKey(key.model, key.layer, int(best[place]))) if tells[place] else None
        rows.append(
            {
                "class_name": name,
                "images": int(chosen.images[place]),
                "best": one["neuron"] if one else None,
                "label": one["label"] if one else None,
                "names_class": one is not None and names_class(one["label"], name),
                "auroc": finite(auroc[place]),
                "rate_in": finite(rate_in[place]) if one else None,
                "rate_out": finite(rate_out[place]) if one else None,
            }
        )
    return rows


def _told(snapshot: Snapshot, key: NeuronKey, row: dict[str, Any]) -> ToldClass:
    label = snapshot.neuron_row(key)["label"]
    document = association_document(row) | {"names_class": names_class(label, row["class_name"])}
    del document["neuron"]
    return cast(ToldClass, document)


def _association(snapshot: Snapshot, key: LayerKey, row: dict[str, Any]) -> AssociationRow:
    neuron = NeuronKey(key.model, key.layer, row["neuron"])
    return {**_told(snapshot, neuron, row), "neuron": snapshot.neuron_row(neuron)}


def _saying(snapshot: Snapshot, key: LayerKey, name: str, rows: list[dict[str, Any]]) -> list[NeuronRow]:
    """Return the neurons among rows whose label says a class, in the order of the rows."""
    labels = snapshot.layer(key).labels()
    if labels is None:
        return []
    numbers = [row["neuron"] for row in rows if names_class(labels.texts[row["neuron"]], name)]
    return [snapshot.neuron_row(NeuronKey(key.model, key.layer, neuron)) for neuron in numbers[:NEURONS]]


def _names(snapshot: Snapshot, rows: Iterable[dict[str, Any]]) -> dict[str, str]:
    return {str(image): name for image, name in snapshot.names(image_ids(rows)).items()}
