"""The meanings of a layer's neurons, as documents that JSON can hold: several facets, logical labels.

Reads what `csp-index facets` and `csp-index formulas` stored; loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from csp_index.errors import NotFoundError
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.neuron_shapes import Facet
from csp_index.service.documents.studies.meaning_shapes import (
    FacetedNeuron,
    FacetRow,
    FormulaRow,
    MeaningsDocument,
    NeuronFormula,
)
from csp_index.service.layer_table import LayerTable
from csp_index.service.snapshot import Snapshot
from csp_index.studies.meanings.facets import LayerFacets, NeuronFacets, read_facets
from csp_index.studies.meanings.formulas import LayerFormulas, formula_document, read_formulas

NEURONS: Final = 20  # of each kind on one page of a layer
_SHOWN = 6  # images of a facet

Found = TypeVar("Found", LayerFacets, LayerFormulas)


def meanings_document(snapshot: Snapshot, key: LayerKey, start: int = 0, limit: int = NEURONS) -> MeaningsDocument:
    """Return the neurons of a layer with several facets, and those with a formula, `limit` of each from `start` on.

    Raises NotFoundError where neither was looked for.
    """
    table = snapshot.layer(key)
    facets, facets_note = _stored(snapshot, key, read_facets)
    formulas, formulas_note = _stored(snapshot, key, read_formulas)
    if facets is None and formulas is None:
        raise NotFoundError(
            f"no meanings of neurons of {key} are stored: run `csp-index facets DB --layer {key}` or "
            f"`csp-index formulas DB --layer {key}`"
        )
    several = [] if facets is None else facets.several()
    kept = [] if formulas is None else formulas.kept()
    shown = several[start : start + limit]
    names = snapshot.names({image for one in shown for facet in one.facets for image in facet.images[:_SHOWN]})
    return {
        "layer": str(key),
        "divided": None if facets is None else len(facets),
        "several": len(several),
        "facets_note": facets_note,
        "neurons": [_faceted(one, table, names) for one in shown],
        "formula_neurons": None if formulas is None else len(formulas),
        "kept": len(kept),
        "concepts": None if formulas is None else formulas.concepts,
        "made_of": None if formulas is None else formulas.made_of,
        "formulas_note": formulas_note,
        "formulas": [_formula(row, table) for row in kept[start : start + limit]],
    }


def neuron_formula(snapshot: Snapshot, key: NeuronKey) -> NeuronFormula | None:
    """Return the stored formula of a neuron, also one that is not kept; None where none was found.

    Raises NotFoundError for a neuron that does not exist.
    """
    table = snapshot.neuron(key)
    found, note = _stored(snapshot, key.layer_key, read_formulas, key.neuron)
    if found is None:
        return None
    row = _formula(found.rows.to_pylist()[0], table)
    return (
        None if row["formula"] is None else {**row, "concepts": found.concepts, "made_of": found.made_of, "note": note}
    )


def neuron_facets(snapshot: Snapshot, key: NeuronKey, label: str | None) -> tuple[list[Facet] | None, str]:
    """Return the stored facets of a neuron, None where they were not looked for, and what a reader should know of them.

    A single one is what the neuron's label names, if it has one.
    """
    found, note = _stored(snapshot, key.layer_key, read_facets, key.neuron)
    if found is None:
        return None, note
    facets = found.neurons()[0].facets
    alone = len(facets) == 1 and label is not None
    shown: list[Facet] = [
        {"label": label if alone else facet.label, "share": facet.share, "images": list(facet.images)}
        for facet in facets
    ]
    return shown, note


def has_meanings(snapshot: Snapshot, key: LayerKey) -> bool:
    """Return whether facets or formulas of a layer are stored."""
    return _stored(snapshot, key, read_facets)[0] is not None or _stored(snapshot, key, read_formulas)[0] is not None


def _stored(
    snapshot: Snapshot, key: LayerKey, read: Callable[..., Found | None], neuron: int | None = None
) -> tuple[Found | None, str]:
    """Return what `read` has of a layer, or of one neuron, and what a reader should know of it."""

    def made() -> tuple[Found | None, str]:
        found = read(snapshot.store, key, None if neuron is None else [neuron])
        return found, "" if found is None else found.about(snapshot.store)

    return snapshot.cache.get(
        (read, key, neuron), made, lambda made: 500 if made[0] is None else 500 + made[0].rows.nbytes
    )


def _label(table: LayerTable, neuron: int) -> str | None:
    labels = table.labels()
    return labels.texts[neuron] if labels else None


def _faceted(one: NeuronFacets, table: LayerTable, names: dict[int, str]) -> FacetedNeuron:
    facets: list[FacetRow] = [
        {
            "label": facet.label,
            "score": facet.score,
            "share": facet.share,
            "images": [
                {"image_id": image, "name": names.get(image, ""), "activation": value}
                for image, value in zip(facet.images[:_SHOWN], facet.activations, strict=False)
            ],
        }
        for facet in one.facets
    ]
    address = f"{table.info.key}/{one.neuron}"
    return {"neuron": address, "label": _label(table, one.neuron), "clear": one.clear, "facets": facets}


def _formula(row: dict[str, Any], table: LayerTable) -> FormulaRow:
    document = formula_document(row) | {"label": _label(table, row["neuron"]), "terms": row["terms"] or []}
    return cast(FormulaRow, document)
