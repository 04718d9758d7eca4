"""Labels made elsewhere that the index keeps, as those of a method of their own name.

They are rows of the table `labels` like any other, with the neuron's activating images as examples; the record of the
run that wrote them says which file they come from. They are read, never computed. No method of the package or of a
plug-in can have their name, nor they that of a method.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import torch

from csp_index.contrast.examples import activating_examples
from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError
from csp_index.files.regular_files import user_path
from csp_index.labelling.elsewhere.given_labels import GivenLabels, LabelsFile, check_name, read_given
from csp_index.labelling.elsewhere.records import COMMAND, imported_names, imports_of
from csp_index.labelling.kept.label_rows import LabelRows, rows_of, write_labels
from csp_index.labelling.label_values import Ranking, example_summary
from csp_index.labelling.request import LabelRequest
from csp_index.labelling.ties import read_ties
from csp_index.records import LayerKey
from csp_index.store import catalog, schema
from csp_index.store.runs import record_run
from csp_index.store.tables import Store

_READ: Final = "semanticlens"  # any method that looks at activating images alone: a request needs one
_UNSCORED: Final = 1.0  # the score of a text whose table says none


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What was imported: the name as a method, how many neurons have a label, and what was left out.

    `unchanged`: the same labels were there already, and nothing was written.
    """

    name: str
    layer: str
    neurons: int
    layout: str
    notes: tuple[str, ...]
    unchanged: bool = False


def import_labels(store: Store, selection: Selection, given: GivenLabels, *, replaces: bool = False) -> ImportSummary:
    """Store the labels that a file has for a layer. The same labels are not stored again.

    Other labels of the same name are refused, unless `replaces`. A neuron that never fires keeps no label: its row says
    why, as of any method. Raises LabelError in one line.
    """
    target, name = selection.target, given.name
    summary = ImportSummary(name, str(target.key), len(given.texts), given.layout, given.notes)
    with store.write_lock():
        twin = next((one for one in imported_names(store) - {name} if one.casefold() == name.casefold()), None)
        if twin is not None:
            raise LabelError(f"labels {name} cannot stand beside the imported labels {twin}: give them another name")
        older = imports_of(store, target.key).get(name)
        if older is not None and older.about["digest"] == given.digest:
            return replace(summary, unchanged=True)
        if older is not None and not replaces:
            raise LabelError(
                f"labels {name} of {target.key} were imported from {older.about['file']}, and {given.file} has others: "
                "replace them (--replace), or give these another name"
            )
        settings = {
            "layer": str(target.key),
            "layer_identity": target.identity,
            "imported": {"name": name, "digest": given.digest, "weighted": given.weighted, **given.described()},
            "bias": {str(neuron): value for neuron, value in given.bias.items()},
        }
        with record_run(store, COMMAND, settings, {str(target.key): target.identity}) as run:
            if older is not None:
                _delete(store, selection, older.run_id)
            own = replace(selection, neurons=np.array(sorted(given.texts), np.int64))
            rows, silent = _rows(store, own, given, run.run_id, run.settings_hash)
            write_labels(store, own, rows, run.settings_hash)
    notes = (f"neurons that never fire, or always alike, and so keep no label: {silent:,}",) if silent else ()
    return replace(summary, neurons=summary.neurons - silent, notes=(*given.notes, *notes))


def import_file(
    store: Store,
    layer: str,
    file: str | Path,
    name: str | None = None,
    *,
    replaces: bool = False,
    layer_name: str | None = None,
    encoder: str | None = None,
) -> ImportSummary:
    """Store the labels of a file for the layer MODEL/LAYER, as `import_labels` does, under a name or the file's own.

    `layer_name` is what the file calls the layer. Of the `encoder` only the name is kept with the examples.
    """
    target = catalog.layer(store, LayerKey.parse(layer))
    labels_file = LabelsFile.parse(file) if name is None else LabelsFile(check_name(name, str(file)), user_path(file))
    given = read_given(labels_file, target.key, target.neurons, layer_name)
    selection = Selection(catalog.encoder(store, encoder), target, np.arange(target.neurons))
    return import_labels(store, selection, given, replaces=replaces)


def _rows(store: Store, selection: Selection, given: GivenLabels, run_id: str, hashed: str) -> tuple[LabelRows, int]:
    """Return the rows of a layer's imported labels, and how many neurons keep none."""
    request = LabelRequest(_READ)
    examples = activating_examples(store, selection, replace(request.examples, examples=_most(store, selection)))
    states = np.where(examples.dead.numpy(), "dead", "labelled").astype(object)
    states[read_ties(store, selection, examples).constant] = "constant"
    own = [given.texts[neuron] for neuron in selection.neurons.tolist()]
    texts = list(dict.fromkeys(text for ranked in own for text, _ in ranked))
    place_of = {text: place for place, text in enumerate(texts)}
    width = max(map(len, own))
    places = torch.zeros(len(own), width, dtype=torch.int64)
    scores = torch.zeros(len(own), width, dtype=torch.float64)
    for row, ranked in enumerate(own):
        places[row, : len(ranked)] = torch.tensor([place_of[text] for text, _ in ranked])
        values = [_UNSCORED if value is None else value for _, value in ranked]
        scores[row, : len(ranked)] = torch.tensor(values, dtype=scores.dtype)
    available = np.array([1 if given.weighted else len(ranked) for ranked in own])  # a sum is one label
    sums = None
    if given.weighted:
        labels = map(given.label, selection.neurons.tolist())
        sums = tuple(label if state == "labelled" else None for label, state in zip(labels, states, strict=True))
    ranking = Ranking(selection, request, examples, texts, scores, places, states, available, sums=sums)
    source = f"imported from {given.file} ({given.layout}; sha256 {given.sha256[:12]})"
    summary = replace(example_summary(request, examples), notes=[source] * len(own))
    rows = rows_of(ranking, summary, run_id, hashed)
    labels, terms = (_named(table, given.name) for table in (rows.labels, rows.terms))
    return replace(rows, labels=labels, terms=terms, vectors=None), int((states != "labelled").sum())


def _named(table: pa.Table, method: str) -> pa.Table:
    column = table.schema.get_field_index("method")
    return table.set_column(column, table.schema.field(column), pa.array([method] * table.num_rows, pa.string()))


def _most(store: Store, selection: Selection) -> int:
    """Return how many activating images labels rest on by default, as far as the index keeps so many."""
    kept = selection.statistics(store).slice(0, 1)["top_images"].to_pylist()[0]
    return max(1, min(LabelRequest(_READ).examples.examples, len(kept)))


def _delete(store: Store, selection: Selection, run_id: str) -> None:
    for table in (schema.LABELS, schema.LABEL_TERMS, schema.EXAMPLES):  # labels first: one that can be read is whole
        store.delete(table, f"{_of_run(run_id)} AND {catalog.layer_filter(selection.target)}")


def _of_run(run_id: str) -> str:
    return f"run_id = {catalog.sql_text(run_id)}"
