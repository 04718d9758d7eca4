"""Labels of neurons: read from the store where an earlier run stored them, else computed and stored.

A label is stored under the hash of everything it depends on: the same request reads it, a different one never does.
One from crops depends on the neuron's maps, too: behind its hash stands their digest (`kept/crop_labels.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from csp_index.contrast.context import ComputeContext
from csp_index.contrast.crops.regions import REGION_SETTINGS
from csp_index.contrast.selection import Selection
from csp_index.labelling.kept.read_labels import read_labels
from csp_index.labelling.methods import CROP
from csp_index.labelling.request import KEPT, LabelRequest, examples_described
from csp_index.records import Label
from csp_index.store.runs import settings_hash
from csp_index.store.tables import Store

if TYPE_CHECKING:
    from csp_index.labelling.candidates import CandidateTexts

READ = "labels read from the index: made before, the same way"
"""What `ComputeContext.tell` hears of labels that are not made again, behind their number."""


def label_neurons(
    store: Store,
    selection: Selection,
    request: LabelRequest,
    candidates: Callable[[], CandidateTexts],
    candidates_key: str,
    *,
    recompute: bool = False,
    keep: bool = True,
    context: ComputeContext | None = None,
) -> list[Label]:
    """Return one Label per neuron, in neuron order: read if the store has it, else computed and stored.

    `candidates` is called, under the write lock, only if something must be computed. `keep=False` writes nothing.
    """
    context = context or ComputeContext()
    described = _describe(store, selection, request, candidates_key)
    if context.depends is not None and request.info.needs_contrast:
        described |= context.depends(request.examples)
    hashed = settings_hash(described)
    labels = {} if recompute else read_labels(store, selection, hashed, request.top, crop=request.crop)
    if "neurons" in described and len(labels) < len(selection.neurons):
        labels = {}  # each depends on the others of the run
    missing = selection.without(labels)
    if len(missing.neurons):
        from csp_index.labelling.kept.make_labels import make_labels  # torch: labels that are read do not wait for it

        made = make_labels(
            store, missing, request, candidates, described, recompute=recompute, keep=keep, context=context
        )
        labels |= made
    count = len(selection.neurons) - len(missing.neurons)
    if count:
        context.tell(f"{count:,} {READ}")
    return [labels[neuron] for neuron in selection.neurons.tolist()]


def _describe(store: Store, selection: Selection, request: LabelRequest, candidates_key: str) -> dict[str, object]:
    info = request.info
    described: dict[str, object] = {
        "encoder": selection.source.name,
        "encoder_identity": selection.source.identity,
        "layer": str(selection.target.key),
        "layer_identity": selection.target.identity,
        "images": selection.images(store),
        "method": request.method,
        "examples": examples_described(request.examples),
        "scoring": asdict(request.scoring),
        "candidates": candidates_key,
        "kept": max(KEPT, request.top),
    }
    if info.over_run and request.scoring.prior == "neurons":
        described["neurons"] = selection.neurons.tolist()
    if info.needs_contrast is False:
        described["examples"] = {"examples": request.examples.examples, "floor": request.examples.floor}
    if request.crop:
        described[CROP] = REGION_SETTINGS
    return described
