"""The statistics and top images of neurons, against a recount from the activations."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.integrity.column_checks import Marks
from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject, many
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.values import streams
from csp_index.store.values.statistics import NeuronStatistics

_NEURONS = 16  # of a layer that are counted again without `full`
_AT_ONCE = 2048  # neurons whose statistics are in memory at once
_EXACT = ("images", "min", "max", "quantiles", "top_images", "top_activations")
_CLOSE = ("mean", "std", "firing_rate")
_ERROR = 1e-6  # of sums in float64, relative to the largest value


def check_statistics(subject: Subject, marks: Marks) -> None:
    """Check the rows of all layers whose activations are in order, and find rows of no layer."""
    if not subject.is_readable(schema.NEURONS):
        if schema.NEURONS not in subject.damaged:
            for info in subject.layers:
                _note_unfinished(subject, info, 0, len(marks.get(info.what, [])))
        return
    with reading(subject.result.findings, schema.NEURONS):
        rows = subject.store.read(schema.NEURONS, ["model", "layer"])
        present = {(row["model"], row["layer"]) for row in rows.group_by(["model", "layer"]).aggregate([]).to_pylist()}
        if subject.rests_on(schema.LAYERS):
            for model, layer in sorted(present - subject.known_layers.keys()):
                where = f"model = {catalog.sql_text(model)} AND layer = {catalog.sql_text(layer)}"
                subject.find(
                    schema.NEURONS,
                    "the layer does not exist",
                    f"{model}/{layer}",
                    "delete rows",
                    (schema.NEURONS, where),
                )
        for info in subject.layers:
            _check_layer(subject, info, marks)


def _check_layer(subject: Subject, info: LayerInfo, marks: Marks) -> None:
    rows = subject.store.read(schema.NEURONS, where=catalog.layer_filter(info)).sort_by("neuron").combine_chunks()
    numbers = rows["neuron"].to_numpy()
    if len(numbers) == 0:
        _note_unfinished(subject, info, 0, len(marks.get(info.what, [])))
        return
    if len(numbers) != info.neurons or not np.array_equal(numbers, np.arange(len(numbers))):
        text = f"it has {len(numbers):,} rows of statistics for {info.neurons:,} neurons"
        subject.find(schema.NEURONS, text, str(info.key), key=(info.what,))
        return
    covered = pc.unique(rows["images"]).to_pylist()
    own = [shard for shard, _ in marks.get(info.what, []) if shard.first_image + shard.rows <= covered[0]]
    if info.what not in marks:
        return
    if len(covered) > 1 or not own or own[-1].first_image + own[-1].rows != covered[0]:
        text = f"the statistics cover {many(covered, 'images')}, which are no whole shards"
        subject.find(schema.NEURONS, text, str(info.key), key=(info.what,))
        return
    if len(own) < len(marks[info.what]):
        _note_unfinished(subject, info, covered[0], len(marks[info.what]) - len(own))
    places = subject.sample(info.neurons, _NEURONS)
    for part in np.array_split(places, -(-len(places) // _AT_ONCE)):
        counted = NeuronStatistics(len(part), len(rows["top_images"][0]))
        for tile in streams.activation_tiles(subject.store, info, own, part):
            counted.update(tile)
        wrong = _differing(rows.take(pa.array(part)), counted.to_arrow(info.key))
        subject.result.count("neurons", len(part))
        if len(wrong):
            text = "statistics or top images are not those of the activations"
            subject.find(schema.NEURONS, text, f"{info.key}: {many(part[wrong].tolist(), 'neuron')}", key=(info.what,))
            return


def _note_unfinished(subject: Subject, info: LayerInfo, images: int, shards: int) -> None:
    """Tell of statistics that cover too few images: a fault, unless the last pass over images did not end."""
    if not shards:
        return
    runs = subject.store.read(schema.RUNS, ["run_id", "command", "state"]) if subject.is_readable(schema.RUNS) else None
    passes = [row for row in runs.to_pylist() if row["command"].startswith(("index", "import"))] if runs else []
    last = max(passes, key=lambda row: str(row["run_id"]), default=None)
    text = f"its statistics cover {images:,} images, and not the last {shards:,} shards"
    if last is not None and last["state"] != "done":
        subject.result.notes.append(f"layer {info.key}: {text}: `csp-index index` was cut off, run it again")
    else:
        subject.find(schema.NEURONS, text, str(info.key), key=(info.what,))


def _differing(stored: pa.Table, counted: pa.Table) -> np.ndarray:
    """Return the rows in which stored statistics differ from counted ones."""
    scale = np.maximum(np.abs(counted["min"].to_numpy()), np.abs(counted["max"].to_numpy())).astype(np.float64) + 1e-30
    wrong = np.zeros(stored.num_rows, dtype=bool)
    for name in _CLOSE:
        bound = _ERROR * (np.ones_like(scale) if name == "firing_rate" else scale)
        wrong |= ~(np.abs(stored[name].to_numpy() - counted[name].to_numpy()) <= bound)
    for name in _EXACT:
        pairs = zip(stored[name].to_pylist(), counted[name].to_pylist(), strict=True)
        wrong |= np.array([left != right for left, right in pairs], dtype=bool)
    return np.flatnonzero(wrong)
