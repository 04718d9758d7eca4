"""Names that readers gave to neurons, as labels made elsewhere: an evaluation judges them beside the methods."""

from __future__ import annotations

import hashlib

from csp_index.labelling.elsewhere.given_labels import GivenLabels
from csp_index.labelling.review.pinned import pins_of
from csp_index.labelling.review.words import PINNED
from csp_index.store.catalog import LayerInfo
from csp_index.store.study_tables import NOTES
from csp_index.store.tables import Store


def given_names(store: Store, target: LayerInfo) -> GivenLabels | None:
    """Return the names of a layer's neurons as labels made elsewhere, as an evaluation takes them; None without any."""
    pins = pins_of(store, target)
    if not pins:
        return None
    said = "\n".join(f"{neuron}\t{pin.text}" for neuron, pin in sorted(pins.items()))
    readers = ", ".join(sorted({pin.reader for pin in pins.values()}))
    texts = {neuron: ((pin.text, None),) for neuron, pin in sorted(pins.items())}
    digest = hashlib.sha256(said.encode()).hexdigest()
    return GivenLabels(PINNED, NOTES, digest, "notes of readers", texts, notes=(f"named by {readers}",))
