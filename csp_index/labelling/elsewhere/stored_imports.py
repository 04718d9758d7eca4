"""Labels made elsewhere as the index keeps them, read back; loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from csp_index.contrast.selection import Selection
from csp_index.errors import SettingError
from csp_index.labelling.elsewhere.given_labels import GivenLabels
from csp_index.labelling.elsewhere.records import imports_of
from csp_index.labelling.kept.read_labels import read_labels
from csp_index.labelling.linear.label_terms import read_terms
from csp_index.records import Label, LayerKey
from csp_index.store import catalog, schema
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store


def imported_labels(store: Store, layer: LayerKey) -> dict[str, GivenLabels]:
    """Return the labels made elsewhere that the index keeps of a layer, by name."""
    labels = {}
    for name, one in imports_of(store, layer).items():
        texts: dict[int, dict[int, tuple[str, float | None]]] = {}
        rows = store.read(schema.LABELS, ["neuron", "rank", "text", "score"], _of_run(one.run_id) + " AND rank >= 0")
        for neuron, rank, text, score in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            texts.setdefault(neuron, {})[rank] = (text, score)
        about = one.about
        if about["weighted"]:
            for (_, key), label in read_terms(store, _of_run(one.run_id)).items():
                texts[key.neuron] = {rank: (term.text, term.weight) for rank, term in enumerate(label.terms)}
        labels[name] = GivenLabels(
            name,
            str(about["file"]),
            str(about["sha256"]),
            str(about["layout"]),
            {neuron: tuple(own[rank] for rank in sorted(own)) for neuron, own in sorted(texts.items())},
            bool(about["weighted"]),
            {int(neuron): float(value) for neuron, value in one.bias.items()},
            (f"imported into the index from {about['file']}",),
        )
    return labels


def read_imported(
    store: Store,
    source: EncoderInfo,
    layers: Sequence[tuple[LayerInfo, np.ndarray]],
    name: str,
    top: int,
    options: Mapping[str, object],
) -> list[Label]:
    """Return the imported labels of neurons, in their order; one without has the state no-candidates.

    Raises SettingError for options of a method: nothing is computed.
    """
    option = next((option for option, value in options.items() if value is not None), None)
    if option is not None:
        raise SettingError(
            f"labels {name} were imported, and are read as they are: they take no {option.replace('_', ' ')}"
        )
    note = f"the labels {name} were imported, and have none for this neuron"
    labels: list[Label] = []
    for target, numbers in layers:
        selection, one = Selection(source, target, numbers), imports_of(store, target.key).get(name)
        known = {} if one is None else read_labels(store, selection, one.settings_hash, top)
        none = (Label(selection.key(neuron), name, "no-candidates", note=note) for neuron in numbers.tolist())
        labels += [known.get(label.neuron.neuron, label) for label in none]
    return labels


def _of_run(run_id: str) -> str:
    return f"run_id = {catalog.sql_text(run_id)}"
