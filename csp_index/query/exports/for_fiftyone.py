"""An index as a FiftyOne dataset: a sample an image, with the neurons that it activates most, by their labels.

The serialized JSON that `fiftyone.Dataset.from_dir(DIR, dataset_type=fiftyone.types.FiftyOneDataset)` reads. A sample's
file is the original where the user named a place of originals and it lies there, else the thumbnail, written below
`data/`: the address comes from the index, which may come from a stranger.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from csp_index.images.files.containers import container_of
from csp_index.originals import ImageRoots
from csp_index.query.exports.rows import Exported, Subject
from csp_index.store.image_metadata import parse_metadata

_COLUMNS = ["image_id", "uri", "width", "height", "split", "thumbnail", "metadata"]
_OWN = {"filepath", "tags", "metadata", "id", "_id", "media_type", "created_at", "last_modified_at"}
_OURS = {"image_id", "uri", "neurons"}


def write_fiftyone(subject: Subject, folder: Path) -> Exported:
    """Write samples and their thumbnails; return how many: images without a file and a thumbnail are left out."""
    (folder / "data").mkdir()
    firing = _firing(subject)
    roots, images, fields = ImageRoots(subject.store), 0, dict[str, str]()
    about = {
        "name": subject.store.uri.rstrip("/").rpartition("/")[2],
        "media_type": "image",
        "info": {"by": "csp_index"},
    }
    (folder / "metadata.json").write_text(json.dumps(about), encoding="utf-8")
    with open(folder / "samples.json", "w", encoding="utf-8") as file:
        file.write('{"samples": [')
        for row in _rows(subject):
            path = _file(row, roots, folder)
            if path is not None:
                sample = _sample(row, path, firing.get(row["image_id"], []), fields)
                file.write((",\n" if images else "\n") + json.dumps(sample))
                images += 1
        file.write("\n]}\n")
    opening = 'fiftyone.Dataset.from_dir("{}", dataset_type=fiftyone.types.FiftyOneDataset)'
    return Exported("fiftyone", images, sum(layer.neurons for layer in subject.layers), opening)


def _rows(subject: Subject) -> Iterator[dict[str, Any]]:
    for batch in subject.images(_COLUMNS):
        yield from batch.to_pylist()


def _firing(subject: Subject) -> dict[int, list[dict[str, Any]]]:
    """Return of each image the neurons that fire on it most, by their top images; where it ranks highest first."""
    found: dict[int, list[dict[str, Any]]] = {}
    for layer in subject.layers:
        for row in subject.neurons(layer).to_pylist():
            pairs = zip(row["top_images"] or (), row["top_activations"] or (), strict=True)
            for rank, (image, activation) in enumerate(pair for pair in pairs if pair[1] > 0):
                said = {"label": row["label"] or row["state"], "neuron": row["address"]}
                one = {"_cls": "Classification", "tags": []} | said | {"rank": rank, "activation": float(activation)}
                found.setdefault(image, []).append(one)
    for neurons in found.values():
        neurons.sort(key=lambda one: (one["rank"], one["neuron"]))
    return found


def _file(row: Mapping[str, Any], roots: ImageRoots, folder: Path) -> str | None:
    uri = str(row["uri"])
    if "://" not in uri and container_of(uri) is None and roots.allow(uri) and os.path.isfile(uri):
        return os.path.abspath(uri)
    if not row["thumbnail"]:
        return None
    path = f"data/{row['image_id']}.jpg"
    (folder / path).write_bytes(row["thumbnail"])
    return path


def _sample(row: Mapping[str, Any], path: str, neurons: list[dict[str, Any]], fields: dict[str, str]) -> dict[str, Any]:
    """Return an image as a sample; `fields` keeps the field of each column, which no other column has."""
    said: dict[str, Any] = {}
    for name, value in parse_metadata(row["metadata"], row["image_id"]).items():
        if isinstance(value, str | int | float | bool):
            said[fields.setdefault(name, _free(_field(name), fields))] = value
    known = {"image_id": row["image_id"], "uri": row["uri"]}
    tags = [row["split"]] if row["split"] else []
    firing = {"_cls": "Classifications", "classifications": neurons}
    return said | known | {"filepath": path, "tags": tags, "neurons": firing}


def _field(name: str) -> str:
    """Return a name that FiftyOne takes for a field: of letters, digits and _, and none of its own.

    >>> _field("eye color"), _field("metadata"), _field("_x.y")
    ('eye_color', 'metadata_', 'x_y')
    """
    plain = re.sub(r"\W", "_", name).lstrip("_") or "column"
    return f"{plain}_" if plain in _OWN | _OURS else plain


def _free(field: str, fields: Mapping[str, str]) -> str:
    while field in fields.values():
        field += "_"
    return field
