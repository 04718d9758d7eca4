"""Labels of a layer and of its null, made in the same way, and where the first stand among the second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError, NotFoundError
from csp_index.labelling.nulls.ranks import forget_ranks, null_ranks, store_ranks, with_rank
from csp_index.labelling.request import LabelRequest
from csp_index.records import Label, LayerKey
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.runs import record_run
from csp_index.store.tables import Store

if TYPE_CHECKING:
    from csp_index.labelling.candidates import CandidateTexts

AUTO = "auto"


def null_layer(store: Store, target: LayerInfo, null: str) -> LayerInfo:
    """Return the layer that `null` names; "auto" is the same layer of the same network with redrawn weights.

    Errors: LabelError for the layer itself, NotFoundError for a layer that is not there.
    """
    if null != AUTO:
        if LayerKey.parse(null) == target.key:
            raise LabelError(f"{null} cannot be its own null: name the layer of an untrained or redrawn network")
        return catalog.layer(store, LayerKey.parse(null))
    origin = f" of {target.identity.get('weights')}"
    for info in catalog.layers(store):
        if info.key.layer == target.key.layer and info.identity.get("redrawn", "").endswith(origin):
            return info
    raise NotFoundError(
        f"no network of the index is {target.key.model} with redrawn weights: index one with --weights redrawn:SEED, "
        "or name its layer"
    )


def ranked_labels(
    run: partial[list[Label]],
    store: Store,
    selection: Selection,
    request: LabelRequest,
    texts: Callable[[], CandidateTexts],
    candidates_key: str,
    null: str | None,
) -> list[Label]:
    """Return the labels that `run`, which is `label_neurons` with its options, makes of a selection.

    With a layer `null` they have their rank among its labels. These are made first, unless they are stored; the ranks
    are stored, too, unless `run` keeps nothing. Errors: LabelError for the layer itself, and for a null with too few
    labels; NotFoundError for a layer that is not there.
    """

    def make(some: Selection) -> list[Label]:
        return run(store, some, request, texts, candidates_key)

    if null is None:
        return make(selection)
    keep = bool(run.keywords.get("keep", True))
    target, own = null_layer(store, selection.target, null), selection.target.key
    null = str(target.key)
    of_null = make(replace(selection, target=target, neurons=np.arange(target.neurons)))
    null_ranks((), of_null, null)  # refused before the layer is labelled
    if keep:
        with store.write_lock():
            forget_ranks(store, own, of_null[0].method, selection.neurons.tolist())
    labels = make(selection)
    ranked = [with_rank(*pair) for pair in zip(labels, null_ranks(labels, of_null, null), strict=True)]
    if keep:
        method = of_null[0].method
        rows = store.read(schema.RUNS, ["run_id", "settings_hash"])
        hashes = dict(zip(rows["run_id"].to_pylist(), rows["settings_hash"].to_pylist(), strict=True))
        described = {"layer": str(own), "null": null, "method": method}
        with store.write_lock(), record_run(store, "null", described, {}):
            store_ranks(store, ranked, hashes, max(label.run_id for label in of_null))
    return ranked
