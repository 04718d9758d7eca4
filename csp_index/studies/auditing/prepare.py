"""What an audit needs before it can look: the layer, the classes, labels with and without contrast, effects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csp_index.contrast.context import ComputeContext
from csp_index.contrast.selection import Selection
from csp_index.errors import NotFoundError, SettingError, StudyError
from csp_index.labelling.label_rule import preferred_method
from csp_index.labelling.labels import label_neurons
from csp_index.labelling.request import make_request
from csp_index.labelling.texts.candidate_names import Candidates, TextSpace, plain_candidates
from csp_index.records import Label, LayerKey, Progress
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store
from csp_index.store.values.class_names import class_names
from csp_index.studies.auditing.audit import AuditMaterial, AuditOptions, audit_layer
from csp_index.studies.auditing.expected import read_expected
from csp_index.studies.auditing.findings import THRESHOLD
from csp_index.studies.auditing.stored_audits import Audit
from csp_index.studies.classes.image_classes import OUTPUTS
from csp_index.studies.effects.layer_effects import EffectOptions, layer_effects
from csp_index.studies.effects.stored_effects import LayerEffects

if TYPE_CHECKING:
    from csp_index.models.index_models import Models

PLAIN = "csp"
"""The method of labels without contrast: with gamma 0 the activating images alone count."""


@dataclass(frozen=True, slots=True)
class AuditTools:
    """What models are needed for: a space of texts, a context of computations, effects of a layer on classes."""

    space: TextSpace
    context: ComputeContext
    effects: Callable[[LayerInfo, str], LayerEffects]


def audit_network(
    store: Store,
    network: str,
    expected: str | Path | Iterable[str],
    tools: AuditTools,
    *,
    by: str | None = None,
    layer: str | None = None,
    artefacts: Sequence[str] = (),
    method: str | None = None,
    vocabulary: Candidates | None = None,
    threshold: float | None = None,
    recompute: bool = False,
    progress: Progress | None = None,
) -> Audit:
    """Return the findings about a network's layer, read if stored; labels and effects are made where they are lacking.

    `expected` is a file of concepts (or a list), `by` the metadata column with the images' classes, by default the
    outputs of the network if these are indexed. `layer` is by default the only one that is not the outputs; `artefacts`
    are the columns that must not matter, by default all others. Errors: NotFoundError for a network, layer or column
    that is not there; SettingError where several could be meant; those of `audit_layer` and of labels.
    """
    concepts = read_expected(expected)
    target = audited_layer(store, network, layer)
    options = AuditOptions(
        classes_of(store, network, by), concepts, tuple(artefacts), THRESHOLD if threshold is None else threshold
    )
    effects = tools.effects(target, options.by)
    selection = Selection(tools.space.source, target, np.arange(target.neurons))
    labels, plain = (
        _labels(store, selection, tools, one, vocabulary, gamma) for one, gamma in ((method, None), (PLAIN, 0.0))
    )
    material = AuditMaterial(labels, plain, effects, lambda texts: _embedded(tools.space, vocabulary, texts))
    return audit_layer(store, target, tools.space.source, options, material, recompute=recompute, progress=progress)


def audited_layer(store: Store, network: str, layer: str | None) -> LayerInfo:
    """Return the layer of a network that is audited: the one named, or the only one that is not its outputs."""
    known = [info for info in catalog.layers(store) if info.key.model == network]
    if not known:
        names = ", ".join(dict.fromkeys(info.key.model for info in catalog.layers(store))) or "none"
        raise NotFoundError(f"network {network!r} is not in the index (has: {names})")
    if layer is not None:
        return catalog.layer(store, LayerKey.parse(layer if "/" in layer else f"{network}/{layer}"))
    hidden = [info for info in known if not class_names(store, info.key)]
    if len(hidden) == 1 or len(known) == 1:
        return catalog.layer(store, (hidden or known)[0].key)
    listed = ", ".join(info.key.layer for info in known)
    raise SettingError(f"network {network} has several layers: name one, best that below the outputs (has: {listed})")


def classes_of(store: Store, network: str, by: str | None) -> str:
    """Return what sorts images into classes: what the user names, or the outputs of the network if they are indexed."""
    if by is not None:
        return by
    for info in catalog.layers(store):
        if info.key.model == network and class_names(store, info.key):
            return f"{OUTPUTS}{info.key}"
    raise StudyError(
        f"nothing says the classes of the images: name a metadata column, or index the outputs of {network} (--by "
        f"COLUMN, or --by {OUTPUTS}{network}/LAYER)"
    )


def _labels(
    store: Store,
    selection: Selection,
    tools: AuditTools,
    method: str | None,
    vocabulary: Candidates | None,
    gamma: float | None,
) -> Sequence[Label]:
    """Return a label per neuron, read where they are stored."""
    options = {} if gamma is None else {"gamma": gamma, "bootstrap": 0}
    request = make_request(method, selection.source, 1, options, preferred_method(store))
    texts, key = plain_candidates(tools.space, vocabulary)
    return label_neurons(store, selection, request, texts, key, context=tools.context)


def _embedded(space: TextSpace, vocabulary: Candidates | None, texts: Sequence[str]) -> np.ndarray:
    """Return unit embeddings [T, D] of labels; zeros for one that is no candidate, as a weighted sum of several."""
    candidates = plain_candidates(replace(space, keep=False), vocabulary)[0]()
    places = {text: place for place, text in enumerate(candidates.texts)}
    known = np.asarray(candidates.embeddings, dtype=np.float32)
    rows = np.zeros((len(texts), known.shape[1]), np.float32)
    for at, text in enumerate(texts):
        if text in places:
            row = known[places[text]]
            rows[at] = row / max(float(np.linalg.norm(row)), 1e-12)
    return rows


def network_effects(
    store: Store,
    models: Callable[[], Models],
    class_names: Sequence[str] | str | Path | None,
    head: str | None,
    progress: Progress | None,
) -> Callable[[LayerInfo, str], LayerEffects]:
    """Return what gives the effects of a layer on the classes by a column, or by the outputs: stored, else made."""

    def effects(target: LayerInfo, by: str) -> LayerEffects:
        options = EffectOptions(head=head, column=None if by.startswith(OUTPUTS) else by)
        neurons = np.arange(target.neurons)
        return layer_effects(store, target, neurons, options, models, class_names=class_names, progress=progress)

    return effects
