"""Names that readers gave to neurons: of every neuron the last one, unless it was taken back; with who and when.

Such a name stands before the label of every method, wherever a label is shown (`labelling.label_rule`). It is read
from the notes; `studies.notes` writes them. Free of torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from csp_index.errors import AddressError, StoreError
from csp_index.labelling.review.words import NAMING, OF_NEURON, PINNED
from csp_index.records import Label, LabelScore, LayerKey, NeuronKey
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo
from csp_index.store.fields import UTC
from csp_index.store.runs import settings_hash
from csp_index.store.study_tables import NOTES
from csp_index.store.tables import Store

_TABLE: Final = pa.schema(
    [
        ("address", pa.string()),
        ("model", pa.string()),
        ("layer", pa.string()),
        ("neuron", pa.int32()),
        ("text", pa.string()),
        ("reader", pa.string()),
        ("when", UTC),
        ("layer_changed", pa.bool_()),
        ("note", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Pin:
    """The name of a neuron, who gave it and when; `changed`: its layer's weights are not those of that time."""

    neuron: int
    text: str
    reader: str
    when: datetime
    layer_digest: str
    changed: bool = False

    @property
    def note(self) -> str:
        """Who gave the name and when, in words."""
        since = "; the layer's weights have changed since" if self.changed else ""
        return f"named by {self.reader} on {self.when:%Y-%m-%d %H:%M} UTC{since}"

    def beside(self, method: str | None, text: str | None) -> str:
        """Return the note with what a method says of the neuron, if one does."""
        return self.note if method is None else f"{self.note}; {method}: {text}"


def layer_digest(target: LayerInfo) -> str:
    """Return a hash of a layer's identity: of its weights, and of how images are prepared for them."""
    return settings_hash({"identity": target.identity})


def pins_of(store: Store, target: LayerInfo) -> dict[int, Pin]:
    """Return the names of a layer's neurons, by number; those beyond its last neuron are left out."""
    named = store.memo(NOTES, "names of neurons", lambda: _names(store)).get(target.key, {})
    if not named:
        return {}
    digest = layer_digest(target)
    pins = (replace(pin, changed=pin.layer_digest != digest) for pin in named.values() if pin.neuron < target.neurons)
    return {pin.neuron: pin for pin in pins}


def pinned_label(pin: Pin, key: NeuronKey, shown: Label | None) -> Label:
    """Return the label of a neuron that has a name; its images are those of the label that would be shown without.

    It has one candidate, whose score is NaN: nothing of a name is computed.
    """
    note = pin.beside(shown.method, shown.text or shown.state) if shown else pin.note
    pairs, run_id = (shown.pairs, shown.run_id) if shown else ((), "")
    return Label(key, PINNED, "labelled", (LabelScore(pin.text, math.nan),), pairs, note, run_id)


def pinned_table(store: Store) -> pa.Table:
    """Return the names of all neurons that the index has, a row each: the view `pinned` of SQL."""
    rows = []
    for target in catalog.layers(store) if store.has(NOTES) else ():
        for neuron, pin in sorted(pins_of(store, target).items()):
            own = {"address": f"{target.key}/{neuron}", "model": target.key.model, "layer": target.key.layer}
            said = {"text": pin.text, "reader": pin.reader, "when": pin.when, "layer_changed": pin.changed}
            rows.append({**own, "neuron": neuron, **said, "note": pin.note})
    return pa.Table.from_pylist(rows, schema=_TABLE)


def note_rows(store: Store, columns: Sequence[str], where: str | None = None) -> list[dict[str, Any]]:
    """Return rows of notes in the order they were written; `columns` has `when` and `note_id`.

    StoreError for times that no csp_index writes.
    """
    try:
        rows = store.read(NOTES, columns, where).to_pylist()
        return sorted(rows, key=lambda row: (row["when"], str(row["note_id"])))
    except (OverflowError, ValueError, TypeError, pa.ArrowException) as exc:
        raise StoreError(
            f"times in the table {NOTES} of {store.uri} cannot be read: run `csp-index verify {store.uri}`"
        ) from exc


def _names(store: Store) -> dict[LayerKey, dict[int, Pin]]:
    """Return the last name of every neuron; subjects that are no address name nothing (`verify` reports them)."""
    columns = ["note_id", "when", "reader", "subject", "action", "text", "layer_digest"]
    where = f"action IN ({', '.join(map(catalog.sql_text, NAMING))})"
    names: dict[LayerKey, dict[int, Pin]] = {}
    for row in note_rows(store, columns, where):
        try:
            key = NeuronKey.parse(str(row["subject"]).removeprefix(OF_NEURON))
        except AddressError:
            continue
        own = names.setdefault(key.layer_key, {})
        own.pop(key.neuron, None)
        if row["action"] == NAMING[0]:
            pin = Pin(key.neuron, str(row["text"]), str(row["reader"]), row["when"], str(row["layer_digest"]))
            own[key.neuron] = pin
    return names
