"""Example sets read back from the pairs that a label run stored, where a query needs the same sets.

The nearest silent images of an activating image do not depend on its other activating images. So a run with more
examples, or more neighbours of each, has the sets of a query with fewer, as long as all else is the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from csp_index.contrast.examples import Examples, activating_examples
from csp_index.contrast.selection import Selection
from csp_index.labelling.label_values import STORED_NEIGHBOURS
from csp_index.labelling.request import examples_described
from csp_index.records import ExampleOptions
from csp_index.service.layer_table import Pairs
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
    table = snapshot.layer(selection.target.key)
    images, pairs = selection.images(snapshot.store), snapshot.pairs(selection.target.key)
    usable = snapshot.cache.get(
        ("usable runs", selection.target.key, options, images),
        lambda: [run for run in pairs.runs if _answers(snapshot.run(run), selection, options, images)],
        lambda runs: 100 * (1 + len(runs)),
    )
    selected = []
    for neuron in selection.neurons.tolist():
        newest = {str(labels.runs[neuron]) for labels in table.methods.values()}
        run = next((run for run in usable if run in newest), None)
        if run is None:
            return None
        selected.append(run)
    sets = activating_examples(snapshot.store, selection, options)
    return _filled(pairs, replace(sets, kinds=options.kinds), selected, options.neighbours)


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


def _filled(pairs: Pairs, sets: Examples, runs: list[str], neighbours: int) -> Examples | None:
    """Return the sets with the partners that the runs kept; None where the activating images are not those of a run."""
    shape = (*sets.activating.shape, neighbours)
    ids = np.full(shape, -1, dtype=np.int64)
    activations, similarities = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    images = np.full(shape[:2], -1, dtype=np.int64)
    for row, (neuron, run) in enumerate(zip(sets.neurons.tolist(), runs, strict=True)):
        rows = pairs.rows_of(neuron, run)
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
