"""Example sets read back from the pairs that a label run stored, where a query needs the same sets.

The nearest silent images of an activating image do not depend on its other activating images. So a run with more
examples, or more neighbours of each, has the sets of a query with fewer, as long as all else is the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from csp_index.contrast.examples import Examples, activating_examples
from csp_index.contrast.selection import Selection
from csp_index.labelling.label_values import STORED_NEIGHBOURS
from csp_index.labelling.request import examples_described
from csp_index.records import ExampleOptions
from csp_index.service.snapshot import Snapshot
from csp_index.store import schema
from csp_index.store.stored_json import read_object


def stored_sets(snapshot: Snapshot, selection: Selection, options: ExampleOptions) -> Examples | None:
    """Return the example sets of the selected neurons [M], or None where no run stored them."""
    plain = (
        options.reuse and options.kinds == ("nearest",) and options.min_similarity <= -1 < 1 < options.near_duplicate
    )
    if not plain or options.neighbours > STORED_NEIGHBOURS:
        return None
    layer, images = selection.target.key, selection.images(snapshot.store)
    methods = snapshot.layer(layer).methods
    usable = snapshot.cache.get(
        ("usable runs", layer, options, images),
        lambda: _usable(snapshot, selection, options, images),
        lambda runs: 100 * (1 + len(runs)),
    )
    stored = []
    for neuron in selection.neurons.tolist():
        newest = ((method, str(labels.runs[neuron])) for method, labels in methods.items())
        method, run = next(((method, run) for method, run in newest if run in usable), ("", ""))
        if not run:
            return None
        stored.append(snapshot.pairs(layer, method).rows_of(neuron, run))
    sets = activating_examples(snapshot.store, selection, options)
    return _filled(stored, replace(sets, kinds=options.kinds), options.neighbours)


def _usable(snapshot: Snapshot, selection: Selection, options: ExampleOptions, images: int) -> frozenset[str]:
    """Return the runs of the layer's newest labels that stored what the options request."""
    methods = snapshot.layer(selection.target.key).methods.values()
    runs = {run for labels in methods for run in labels.runs.tolist() if run}
    return frozenset(run for run in runs if _answers(snapshot.run(run), selection, options, images))


def _answers(run: dict[str, Any] | None, selection: Selection, options: ExampleOptions, images: int) -> bool:
    """Return whether a run stored at least what the options request, exactly, over all images of the index."""
    settings = read_object(run["settings"], schema.RUNS, "settings") if run else {}
    same = {
        "images": images,
        "encoder_identity": selection.source.identity,
        "layer_identity": selection.target.identity,
    }
    if "contrast_by" in settings or any(settings.get(name) != value for name, value in same.items()):
        return False
    stored, requested = dict(settings["examples"]), examples_described(options)
    enough = all(stored.pop(name, 0) >= requested.pop(name) for name in ("examples", "neighbours"))
    return enough and stored == requested


def _filled(stored: list[pa.Table], sets: Examples, neighbours: int) -> Examples | None:
    """Return the sets with the partners of each neuron's pairs; None where these have other activating images."""
    shape = (*sets.activating.shape, neighbours)
    ids = np.full(shape, -1, dtype=np.int64)
    activations, similarities = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    images = np.full(shape[:2], -1, dtype=np.int64)
    for row, rows in enumerate(stored):
        rank, slot = rows["rank"].to_numpy(), rows["neighbour"].to_numpy()
        used = (rank < shape[1]) & (slot < neighbours)
        at = row, rank[used], slot[used]
        images[row, rank[used]] = rows["image_id"].to_numpy()[used]
        ids[at] = rows["contrast_id"].fill_null(-1).to_numpy()[used]
        activations[at] = rows["contrast_activation"].to_numpy()[used]
        similarities[at] = rows["similarity"].to_numpy()[used]
    if not np.array_equal(images, sets.activating.numpy()):
        return None
    return replace(
        sets,
        contrastive=torch.from_numpy(ids),
        contrast_activations=torch.from_numpy(activations),
        similarities=torch.from_numpy(similarities),
    )
