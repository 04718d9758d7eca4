"""Example sets read back from what a label run kept, where a question asks for the very sets that the run found.

Nearest silent images are found for each activating image by itself. So a run with more examples, or more neighbours of
each, holds the sets of a question with fewer, as long as all else is the same.
"""

from __future__ import annotations

import json
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


def stored_sets(snapshot: Snapshot, selection: Selection, options: ExampleOptions) -> Examples | None:
    """Return the example sets of the selected neurons [M], or None where no run kept them."""
    plain = (
        options.reuse and options.kinds == ("nearest",) and options.min_similarity <= -1 < 1 < options.near_duplicate
    )
    if not plain or options.neighbours > STORED_NEIGHBOURS:
        return None
    table = snapshot.layer(selection.target.key)
    images, pairs = selection.images(snapshot.store), snapshot.pairs(selection.target.key)
    usable = snapshot.held.get(
        ("usable runs", selection.target.key, options, images),
        lambda: [run for run in pairs.runs if _answers(snapshot.run(run), selection, options, images)],
        lambda runs: 100 * (1 + len(runs)),
    )
    chosen = []
    for neuron in selection.neurons.tolist():
        kept = {str(found.runs[neuron]) for found in table.methods.values()}
        run = next((run for run in usable if run in kept), None)
        if run is None:
            return None
        chosen.append(run)
    activating = activating_examples(snapshot.store, selection, options)
    return _filled(pairs, replace(activating, kinds=options.kinds), chosen, options.neighbours)


def _answers(run: dict[str, Any] | None, selection: Selection, options: ExampleOptions, images: int) -> bool:
    """Tell whether a run found at least what the options ask for, exactly, over all the images there are now."""
    told = json.loads(run["settings"]) if run else {}
    same = {
        "images": images,
        "encoder_identity": selection.source.identity,
        "layer_identity": selection.target.identity,
    }
    if "contrast_by" in told or any(told.get(name) != value for name, value in same.items()):
        return False
    held, asked = dict(told["examples"]), examples_described(options)
    enough = all(held.pop(name, 0) >= asked.pop(name) for name in ("examples", "neighbours"))
    return enough and held == asked


def _filled(pairs: Pairs, found: Examples, runs: list[str], neighbours: int) -> Examples | None:
    """Return the sets with the partners that the runs kept; None where the activating images are not those of a run."""
    shape = (*found.activating.shape, neighbours)
    ids = np.full(shape, -1, dtype=np.int64)
    activations, similarities = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    images = np.full(shape[:2], -1, dtype=np.int64)
    for row, (neuron, run) in enumerate(zip(found.neurons.tolist(), runs, strict=True)):
        rows = pairs.rows_of(neuron, run)
        rank, slot = rows["rank"].to_numpy(), rows["neighbour"].to_numpy()
        used = (rank < shape[1]) & (slot < neighbours)
        at = row, rank[used], slot[used]
        images[row, rank[used]] = rows["image_id"].to_numpy()[used]
        ids[at] = rows["contrast_id"].fill_null(-1).to_numpy()[used]
        activations[at] = rows["contrast_activation"].to_numpy()[used]
        similarities[at] = rows["similarity"].to_numpy()[used]
    if not np.array_equal(images, found.activating.numpy()):
        return None
    return replace(
        found,
        contrastive=torch.from_numpy(ids),
        contrast_activations=torch.from_numpy(activations),
        similarities=torch.from_numpy(similarities),
    )
