"""Labels as Neuronpedia's exports have them: gzipped lines of JSON below MODEL/SOURCE, a source being a layer.

A line has the keys of Neuronpedia's database, so its client's `Explanation.from_np_db_json` and
`Activation.from_np_db_json` read it. Neuronpedia knows texts and no images: a neuron's strongest images stand, by name,
as the tokens of one activation.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from csp_index.query.exports.rows import Exported, Subject, file_name
from csp_index.store import schema
from csp_index.store.catalog import LayerInfo

LINES: Final = 1024
"""Neurons of a file, at most."""
_BY: Final = "csp_index"


def write_neuronpedia(subject: Subject, folder: Path, place: str) -> Exported:
    """Write explanations, features and activations of each layer, which will lie at `place`.

    Neurons that have an explanation are counted.
    """
    explained = 0
    for layer in subject.layers:
        part = folder / file_name(layer.key.model) / file_name(layer.key.layer)
        rows = subject.neurons(layer).to_pylist()
        explanations = [_explanation(layer, row) for row in rows if row["label"] is not None]
        explained += len(explanations)
        _write(part / "explanations", explanations)
        _write(part / "features", [_feature(layer, row) for row in rows])
        _write(part / "activations", list(_activations(subject, layer, rows)))
    reader = "neuronpedia.np_explanation.Explanation.from_np_db_json"
    return Exported("neuronpedia", 0, explained, f"{reader}, of each line of {place}/*/*/explanations/*.jsonl.gz")


def _owner(layer: LayerInfo, row: Mapping[str, Any]) -> dict[str, Any]:
    source = layer.key.layer
    return {"modelId": layer.key.model, "layer": source, "source": source, "index": str(row["neuron"])}


def _explanation(layer: LayerInfo, row: Mapping[str, Any]) -> dict[str, Any]:
    said = {"description": row["label"], "typeName": row["method"], "explanationModelName": _BY}
    return _owner(layer, row) | said | {"score": row["score"], "confidence": row["confidence"]}


def _feature(layer: LayerInfo, row: Mapping[str, Any]) -> dict[str, Any]:
    return _owner(layer, row) | {"frac_nonzero": row["firing_rate"], "maxActApprox": row["max"]}


def _activations(subject: Subject, layer: LayerInfo, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    ids = sorted({image for row in rows for image in row["top_images"] or ()})
    names: dict[int, str] = {}
    for start in range(0, len(ids), LINES):
        some = ",".join(map(str, ids[start : start + LINES]))
        found = subject.store.read(schema.IMAGES, ["image_id", "uri"], f"image_id IN ({some})")
        names |= {row["image_id"]: row["uri"].rpartition("/")[2] for row in found.to_pylist()}
    for row in rows:
        firing = [
            pair for pair in zip(row["top_images"] or (), row["top_activations"] or (), strict=True) if pair[1] > 0
        ]
        values = [float(value) for _, value in firing]
        tokens = [names.get(image, str(image)) for image, _ in firing]
        bins = {"binMin": None, "binMax": None, "binContains": None}
        yield _owner(layer, row) | {"tokens": tokens, "values": values, "maxValue": max(values, default=0.0)} | bins


def _write(folder: Path, lines: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, len(lines), LINES)):
        with gzip.open(folder / f"batch-{number}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines[start : start + LINES])
