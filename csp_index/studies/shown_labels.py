"""The label that is shown of each neuron of a layer, as studies read it. Loads no torch."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass

from csp_index.labelling.label_rule import read_rule
from csp_index.labelling.review.pinned import pins_of
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store


@dataclass(frozen=True, slots=True)
class ShownLabels:
    """The texts of a layer's M neurons, None where there is no label, and a digest of texts and runs."""

    texts: tuple[str | None, ...]
    digest: str


def shown_labels(store: Store, target: LayerInfo) -> ShownLabels:
    """Return the label of each neuron by the rule of the index (`labelling.label_rule`), names of readers first."""
    columns = ["neuron", "method", "run_id", "text"]
    rows = store.read(schema.LABELS, columns, f"{catalog.layer_filter(target)} AND rank <= 0")
    labels: dict[int, list[tuple[str, str, tuple[str, str | None]]]] = defaultdict(list)
    for neuron, method, run, text in zip(*(rows[name].to_pylist() for name in columns), strict=True):
        labels[neuron].append((method, run, (run, text)))
    rule = read_rule(store)
    shown = [rule.choose(labels[neuron]) for neuron in range(target.neurons)]
    for neuron, pin in pins_of(store, target).items():
        shown[neuron] = ("", pin.text)
    digest = hashlib.sha256(repr(shown).encode()).hexdigest()[:16]
    return ShownLabels(tuple(None if one is None else one[1] for one in shown), digest)
