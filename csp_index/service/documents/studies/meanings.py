"""The meanings of a layer's neurons, as documents that JSON can hold: several facets, logical labels.

Reads what `csp-index facets` and `csp-index formulas` stored; loads no torch.
"""

from __future__ import annotations

from typing import Any, Final, cast

from csp_index.errors import NotFoundError
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.studies.meaning_shapes import (
    FacetedNeuron,
    FacetRow,
    FormulaRow,
    MeaningsDocument,
    NeuronFormula,
)
from csp_index.service.layer_table import LayerTable
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog
from csp_index.studies.meanings.facets import LayerFacets, NeuronFacets, read_facets
from csp_index.studies.meanings.formulas import LayerFormulas, formula_document, read_formulas

NEURONS: Final = 20  # of each kind on one page of a layer
_SHOWN = 6  # images of a facet


def meanings_document(snapshot: Snapshot, key: LayerKey, start: int = 0, limit: int = NEURONS) -> MeaningsDocument:
    """Return the neurons of a layer with several facets, and those with a formula, `limit` of each from `start` on.

    Raises NotFoundError where neither was looked for.
    """
    table = snapshot.layer(key)
    facets, formulas = _facets(snapshot, key), _formulas(snapshot, key)
    if facets is None and formulas is None:
        raise NotFoundError(
            f"no meanings of neurons of {key} are stored: run `csp-index facets DB --layer {key}` or "
            f"`csp-index formulas DB --layer {key}`"
        )
    several = [] if facets is None else facets.several()
    kept = [] if formulas is None else formulas.kept()
    images = catalog.image_count(snapshot.store, table.info.what)
    shown = several[start : start + limit]
    names = snapshot.names({image for one in shown for facet in one.facets for image in facet.images[:_SHOWN]})
    return {
        "layer": str(key),
        "divided": None if facets is None else len(facets),
        "several": len(several),
        "facets_note": "" if facets is None else facets.about(images),
        "neurons": [_faceted(one, table, names) for one in shown],
        "formula_neurons": None if formulas is None else len(formulas),
        "kept": len(kept),
        "concepts": None if formulas is None else formulas.concepts,
        "formulas_note": "" if formulas is None else formulas.about(images),
        "formulas": [_formula(row, table) for row in kept[start : start + limit]],
    }


def neuron_formula(snapshot: Snapshot, key: NeuronKey) -> NeuronFormula | None:
    """Return the stored formula of a neuron, also one that is not kept; None where none was found.

    Raises NotFoundError for a neuron that does not exist.
    """
    table = snapshot.neuron(key)
    found = read_formulas(snapshot.store, key.layer_key, [key.neuron])
    if found is None:
        return None
    row = _formula(found.rows.to_pylist()[0], table)
    if row["formula"] is None:
        return None
    note = found.about(catalog.image_count(snapshot.store, table.info.what))
    return {**row, "concepts": found.concepts, "note": note}


def neuron_facets(snapshot: Snapshot, key: NeuronKey) -> NeuronFacets | None:
    """Return the stored facets of a neuron, None where they were not looked for."""
    found = read_facets(snapshot.store, key.layer_key, [key.neuron])
    return None if found is None else found.neurons()[0]


def has_meanings(snapshot: Snapshot, key: LayerKey) -> bool:
    """Return whether facets or formulas of a layer are stored."""
    return _facets(snapshot, key) is not None or _formulas(snapshot, key) is not None


def _facets(snapshot: Snapshot, key: LayerKey) -> LayerFacets | None:
    return snapshot.cache.get(
        ("layer facets", key),
        lambda: read_facets(snapshot.store, key),
        lambda found: 64 if found is None else found.rows.nbytes,
    )


def _formulas(snapshot: Snapshot, key: LayerKey) -> LayerFormulas | None:
    return snapshot.cache.get(
        ("layer formulas", key),
        lambda: read_formulas(snapshot.store, key),
        lambda found: 64 if found is None else found.rows.nbytes,
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
